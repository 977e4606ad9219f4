//! Every cause, on a worker in memory.

use std::sync::Arc;

use super::{Detail, Explanation};
use crate::engine::tests::script::{By, Write, engine, soon};
use crate::engine::{BuildOptions, Engine};
use crate::index::{BuildSummary, Removed, Verdict};
use crate::llb::{
    ContentCache, Definition, ExecOp, Mount, MountKind, OpMetadata, Output, SourceFile, SourceLocation, SourceRange,
};
use crate::worker::{ChangeKind, Comparison, ContentChange, WorkerError};

const FILE: &str = "ARG VERSION=1\nRUN x\n";

/// Writes a step at a line of the file.
fn step(write: &mut Write, line: u32, name: &str, change: impl FnOnce(&mut ExecOp), inputs: &[(Output, By)]) -> Output {
    let file = SourceFile {
        filename: "Dockerfile".to_owned(),
        data: FILE.into(),
        language: "Dockerfile".to_owned(),
        definition: None,
    };
    let mount = |dest: &str, input, by, output| Mount {
        dest: dest.to_owned(),
        input,
        selector: if by == By::Content {
            "src".to_owned()
        } else {
            String::new()
        },
        readonly: by == By::Content,
        output,
        kind: MountKind::Bind,
        content_cache: match by {
            By::Content => ContentCache::Default,
            By::Identity => ContentCache::Off,
        },
    };
    let mut exec = ExecOp {
        args: vec!["/bin/sh".to_owned(), "-c".to_owned(), name.to_owned()],
        cwd: "/".to_owned(),
        mounts: vec![mount("/", None, By::Identity, Some(0))],
        ..ExecOp::default()
    };
    for (n, (_, by)) in inputs.iter().enumerate() {
        exec.mounts.push(mount(&format!("/in{n}"), Some(n), *by, None));
    }
    change(&mut exec);
    let inputs: Vec<Output> = inputs.iter().map(|(input, _)| *input).collect();
    let made = write
        .0
        .exec(exec, &inputs, None, OpMetadata::named(format!("[{line}/9] RUN {name}")));
    let file = write.0.add_source_file(file);
    let range = SourceRange {
        start_line: line,
        ..SourceRange::default()
    };
    write.0.locate(
        made,
        SourceLocation {
            file,
            ranges: vec![range],
        },
    );
    made
}

/// Builds, remembers the build, and explains its steps.
async fn built(engine: &Arc<Engine>, definition: &Definition) -> (Vec<Explanation>, bool) {
    let build = engine.build(BuildOptions::default());
    let is_built = soon(build.solve(definition)).await.is_ok();
    let record = build.account(BuildSummary {
        id: "b".to_owned(),
        scope: "here".to_owned(),
        ..BuildSummary::default()
    });
    engine.index().record_build(record).unwrap();
    let last = engine.index().builds().unwrap().remove(0);
    let steps = engine.index().steps(last.number).unwrap();
    let all: Vec<usize> = (0..steps.len()).collect();
    let explained = engine.explain(&last, &steps, &all, Detail::Full).await.unwrap();
    (explained, is_built)
}

/// The causes of the step whose name holds `text`, and the chain after them.
fn told(explained: &[Explanation], text: &str) -> String {
    let found = explained
        .iter()
        .find(|step| step.name.contains(text))
        .expect("no such step");
    let causes: Vec<String> = found.causes.iter().map(ToString::to_string).collect();
    let chain = found.chain.iter().map(|link| {
        let causes: Vec<String> = link.causes.iter().map(ToString::to_string).collect();
        format!(" <- {}: {}", link.name, causes.join("; "))
    });
    causes.join("; ") + &chain.collect::<String>()
}

/// A base image, a step on it, and a step that reads files of a directory.
fn three(command: &str, change: impl FnOnce(&mut ExecOp)) -> Definition {
    let mut write = Write::default();
    let base = write.image("base");
    let files = write.directory("context");
    let first = step(&mut write, 2, command, change, &[(base, By::Identity)]);
    let second = step(
        &mut write,
        3,
        "second",
        |_| {},
        &[(first, By::Identity), (files, By::Content)],
    );
    write.finish(second)
}

fn env(entry: &str) -> impl FnOnce(&mut ExecOp) + use<> {
    let entry = entry.to_owned();
    move |exec| exec.env = vec![entry]
}

#[tokio::test]
async fn a_first_build_is_new_and_a_second_has_nothing_to_explain() {
    let (engine, _script) = engine();
    let (first, _) = built(&engine, &three("first", |_| {})).await;
    assert_eq!(told(&first, "first"), "never built before");
    assert_eq!(
        first
            .iter()
            .find(|step| step.name.contains("second"))
            .unwrap()
            .place
            .as_ref()
            .unwrap()
            .line,
        3
    );
    let (second, _) = built(&engine, &three("first", |_| {})).await;
    for step in &second {
        assert!(!step.verdict.has_run() && step.causes.is_empty(), "{step:?}");
    }
}

#[tokio::test]
async fn an_argument_is_named_and_what_depends_on_it_says_so() {
    let (engine, _script) = engine();
    built(&engine, &three("first", env("VERSION=1.2"))).await;
    let (explained, _) = built(&engine, &three("first", env("VERSION=1.3"))).await;
    assert_eq!(told(&explained, "first"), "argument `VERSION` 1.2 → 1.3");
    assert_eq!(
        told(&explained, "second"),
        "built on `[2/9] RUN first`, which changed <- [2/9] RUN first: argument `VERSION` 1.2 → 1.3"
    );
    let (again, _) = built(&engine, &three("first", env("OTHER=x"))).await;
    assert_eq!(
        told(&again, "first"),
        "argument `VERSION` is not set any more (was 1.3); variable `OTHER` is new: x"
    );
}

#[tokio::test]
async fn the_nearest_version_is_compared_with_and_not_what_moved() {
    let (engine, _script) = engine();
    built(&engine, &three("one", |_| {})).await;
    built(&engine, &three("two", env("A=1"))).await;
    let (explained, _) = built(&engine, &three("one", env("A=2"))).await;
    assert_eq!(told(&explained, "one"), "variable `A` is new: 2");
    let (explained, _) = built(&engine, &three("three", env("A=2"))).await;
    assert_eq!(told(&explained, "three"), "command changed: `one` → `three`");

    // A new step in front of another is new, and does not stand for the other.
    let mut write = Write::default();
    let base = write.image("base");
    let new = step(&mut write, 2, "new", |_| {}, &[(base, By::Identity)]);
    let moved = step(&mut write, 3, "three", env("A=2"), &[(new, By::Identity)]);
    let (explained, _) = built(&engine, &write.finish(moved)).await;
    assert_ne!(told(&explained, "RUN new"), "command changed: `three` → `new`");
    assert_eq!(
        told(&explained, "three").split(',').next().unwrap(),
        "built on `[2/9] RUN new`"
    );
}

#[tokio::test]
async fn another_image_is_told_by_its_parts() {
    let (engine, script) = engine();
    built(&engine, &three("first", |_| {})).await;
    script.pin("docker-image://base", "other");
    script.part("docker-image://base", "manifest", "sha256:2");
    let (explained, _) = built(&engine, &three("first", |_| {})).await;
    let link = " <- docker-image://base: manifest of `docker-image://base` is new: `sha256:2`";
    assert_eq!(
        told(&explained, "first"),
        format!("built on `docker-image://base`, which changed{link}")
    );
    assert!(told(&explained, "second").ends_with(link));
}

#[tokio::test]
async fn files_are_compared_by_the_worker() {
    let (engine, script) = engine();
    built(&engine, &three("first", |_| {})).await;
    script.pin("local://context", "changed");
    let mode = ChangeKind::Mode { old: 0o644, new: 0o755 };
    *script.comparison.lock() = Some(Comparison {
        changes: vec![ContentChange {
            path: "run.sh".to_owned(),
            kind: mode,
        }],
        has_more: false,
    });
    let (explained, _) = built(&engine, &three("first", |_| {})).await;
    assert_eq!(told(&explained, "second"), "mode of `run.sh` 644 → 755");
    assert_eq!(told(&explained, "RUN first"), "");
    *script.comparison.lock() = None;
    script.pin("local://context", "again");
    let (explained, _) = built(&engine, &three("first", |_| {})).await;
    assert_eq!(
        told(&explained, "second"),
        "content of `src` changed; what it was before is not kept any more"
    );
}

#[tokio::test]
async fn results_that_went_say_how() {
    let (engine, script) = engine();
    let definition = three("first", |_| {});
    built(&engine, &definition).await;
    engine.removed(Removed::Pruned);
    script.prune(|_| true);
    let swept = engine.sweep().await.unwrap();
    assert_eq!((swept.records, swept.forgotten), (4, 4));
    let (explained, _) = built(&engine, &definition).await;
    assert_eq!(told(&explained, "first"), "its result was evicted: pruned on request");
    assert_eq!(told(&explained, "second"), "its result was evicted: pruned on request");
    // Found out by looking.
    engine.removed(Removed::Collected);
    script.prune(|_| true);
    let (explained, _) = built(&engine, &definition).await;
    assert_eq!(
        told(&explained, "second"),
        "its result was evicted: removed to save space"
    );
    assert_eq!(engine.sweep().await.unwrap().forgotten, 0);
}

#[tokio::test]
async fn a_build_that_ignores_the_cache_says_so() {
    let (engine, _script) = engine();
    let graph = |is_fresh| {
        let mut write = Write::default();
        let metadata = OpMetadata {
            ignore_cache: is_fresh,
            ..OpMetadata::named("[1/2] RUN first")
        };
        let first = write.run_with("first", &[], metadata);
        let second = step(&mut write, 2, "second", |_| {}, &[(first, By::Identity)]);
        write.finish(second)
    };
    built(&engine, &graph(false)).await;
    let (explained, _) = built(&engine, &graph(true)).await;
    assert_eq!(told(&explained, "first"), "told to ignore what is known (--no-cache)");
    assert_eq!(
        told(&explained, "second"),
        "built on `[1/2] RUN first`, which changed <- [1/2] RUN first: told to ignore what is known (--no-cache)"
    );
}

#[tokio::test]
async fn a_step_that_failed_is_tried_again_for_that_reason() {
    let (engine, script) = engine();
    let definition = three("first", |_| {});
    let name = "[2/9] RUN first";
    script.on(name, |_| async { Err(WorkerError::Failed("no".to_owned())) });
    let (explained, is_built) = built(&engine, &definition).await;
    assert!(!is_built);
    let failed = explained.iter().find(|step| step.name == name).unwrap();
    assert!(failed.has_failed && failed.verdict == Verdict::Ran { removed: None });
    assert_eq!(told(&explained, name), "never built before");
    script.off(name);
    let (explained, is_built) = built(&engine, &definition).await;
    assert!(is_built);
    assert_eq!(told(&explained, name), "it did not end well the last time");
}

#[tokio::test]
async fn what_another_build_made_of_another_directory_is_not_compared_with() {
    let (engine, _script) = engine();
    built(&engine, &three("first", |_| {})).await;
    let build = engine.build(BuildOptions::default());
    let definition = three("entirely other", |_| {});
    soon(build.solve(&definition)).await.unwrap();
    let vertex = |scope: &str| {
        let record = build.account(BuildSummary {
            scope: scope.to_owned(),
            ..BuildSummary::default()
        });
        let step = record.steps.into_iter().find(|step| step.name.contains("entirely"));
        step.unwrap().vertex
    };
    let here = build.explain(&vertex("here"), "here").await.unwrap();
    assert_eq!(told(&[here], "entirely"), "command changed: `first` → `entirely other`");
    let there = build.explain(&vertex("there"), "there").await.unwrap();
    assert_eq!(told(&[there], "entirely"), "never built before");
}

#[tokio::test]
async fn a_long_chain_is_followed_to_its_beginning_without_telling_all() {
    let (engine, _script) = engine();
    let chain = |first: &str| {
        let mut write = Write::default();
        let mut last = step(&mut write, 0, first, |_| {}, &[]);
        for n in 1..300 {
            last = step(&mut write, n, &format!("step {n}"), |_| {}, &[(last, By::Identity)]);
        }
        write.finish(last)
    };
    built(&engine, &chain("a")).await;
    let (explained, _) = built(&engine, &chain("b")).await;
    let last = explained.iter().find(|step| step.name.contains("step 299")).unwrap();
    assert_eq!((last.chain.len(), last.links_left_out), (50, 249));
    assert_eq!(
        last.chain.last().unwrap().causes[0].to_string(),
        "command changed: `a` → `b`"
    );
}
