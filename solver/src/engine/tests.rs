//! The engine, on a worker in memory.

mod cancel;
mod capture;
mod imports;
mod lazy;
mod limits;
mod nested;
mod plan;
mod policies;
mod random;
mod schedules;
pub(super) mod script;
mod share;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::script::{By, Write, build, engine, solve, soon, states, value};
use crate::SolveError;
use crate::llb::{OpMetadata, SourceFile, SourceLocation, SourceRange};
use crate::progress::Event;
use crate::worker::WorkerError;

const ID: By = By::Identity;
const CONTENT: By = By::Content;

#[tokio::test]
async fn a_diamond_runs_each_vertex_once() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let root = write.run("root", &[(base, ID)]);
    let left = write.run("left", &[(root, ID)]);
    let right = write.run("right", &[(root, CONTENT)]);
    let top = write.run("top", &[(left, ID), (right, ID)]);
    let (outcome, _build) = solve(&engine, &script, &write.finish(top)).await;
    let base = "docker-image://base".to_owned();
    let root = value("root", &[base]);
    let want = value(
        "top",
        &[
            value("left", std::slice::from_ref(&root)),
            value("right", std::slice::from_ref(&root)),
        ],
    );
    assert_eq!(outcome.unwrap(), want);
    assert_eq!(script.total_runs(), 5);
    assert_eq!(script.max_runs_of_a_vertex(), 1);
}

#[tokio::test]
async fn independent_stages_run_at_the_same_time() {
    let (engine, script) = engine();
    script.meet(&["a", "b"]);
    let mut write = Write::default();
    let (a, b) = (write.run("a", &[]), write.run("b", &[]));
    let top = write.run("top", &[(a, ID), (b, ID)]);
    solve(&engine, &script, &write.finish(top)).await.0.unwrap();
}

#[tokio::test]
async fn stages_copied_from_one_after_the_other_run_at_the_same_time() {
    let (engine, script) = engine();
    script.meet(&["a", "b"]);
    let mut write = Write::default();
    let (a, b) = (write.run("a", &[]), write.run("b", &[]));
    let base = write.image("base");
    let first = write.run("copy a", &[(base, ID), (a, CONTENT)]);
    let second = write.run("copy b", &[(first, ID), (b, CONTENT)]);
    soon(solve(&engine, &script, &write.finish(second))).await.0.unwrap();
}

#[tokio::test]
async fn a_second_build_runs_nothing_and_shows_everything_as_cached() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let one = write.run("one", &[(base, ID)]);
    let two = write.run("two", &[(one, CONTENT)]);
    let top = write.run("top", &[(two, ID), (base, ID)]);
    let definition = write.finish(top);
    let (first, _) = solve(&engine, &script, &definition).await;
    let (runs, digests) = (script.total_runs(), script.digests.load(Ordering::SeqCst));
    let (second, build) = solve(&engine, &script, &definition).await;
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(script.total_runs(), runs);
    assert_eq!(
        script.digests.load(Ordering::SeqCst),
        digests,
        "a content digest was taken again"
    );
    let states = states(&build);
    assert_eq!(states.len(), 4);
    for state in states.values() {
        assert!(
            state.cached && state.completed.is_some() && state.started <= state.completed,
            "{state:?}"
        );
    }
    let cached = build
        .events()
        .snapshot()
        .into_iter()
        .filter(|event| matches!(event, Event::Vertex(state) if state.cached));
    assert_eq!(cached.count(), 4, "a hit is told once");
}

#[tokio::test]
async fn an_error_names_the_vertex_and_its_place() {
    let (engine, script) = engine();
    script.on("bad", |_| async {
        Err(WorkerError::Exit {
            command: "bad".to_owned(),
            code: 7,
            cause: None,
        })
    });
    let mut write = Write::default();
    let file = write.0.add_source_file(SourceFile {
        filename: "Dockerfile".to_owned(),
        ..SourceFile::default()
    });
    let bad = write.run("bad", &[]);
    let location = SourceLocation {
        file,
        ranges: vec![SourceRange {
            start_line: 3,
            end_line: 3,
            ..SourceRange::default()
        }],
    };
    write.0.locate(bad, location.clone());
    let other = write.run("other", &[]);
    let top = write.run("top", &[(other, ID), (bad, ID)]);
    let (outcome, build) = solve(&engine, &script, &write.finish(top)).await;
    let Err(SolveError::Vertex(error)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((error.vertex, error.name.as_str()), (bad.vertex(), "bad"));
    assert_eq!(error.places[0].0.filename, "Dockerfile");
    assert_eq!(error.places[0].1, location);
    let message = "process \"bad\" did not complete successfully: exit code: 7";
    assert_eq!(error.to_string(), message);
    let states = states(&build);
    assert_eq!(states["bad"].error, message);
    assert!(states["bad"].completed.is_some());
    assert!(states["top"].started.is_none());
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let (engine, script) = engine();
    script.on("flaky", |_| async { Err(WorkerError::Failed("no network".to_owned())) });
    let mut write = Write::default();
    let flaky = write.run("flaky", &[]);
    let definition = write.finish(flaky);
    assert!(solve(&engine, &script, &definition).await.0.is_err());
    assert!(engine.is_idle());
    script.off("flaky");
    solve(&engine, &script, &definition).await.0.unwrap();
    assert_eq!(script.runs("flaky"), 2);
}

#[tokio::test]
async fn a_rebuilt_input_with_equal_content_cuts_the_rest_off() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let compile = write.run("const binary", &[(base, ID)]);
    let copy = write.run("copy", &[(compile, CONTENT)]);
    let after = write.run("after", &[(copy, ID)]);
    let definition = write.finish(after);
    let (first, _) = solve(&engine, &script, &definition).await;
    script.pin("docker-image://base", "newer");
    let (second, build) = solve(&engine, &script, &definition).await;
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(script.runs("const binary"), 2);
    assert_eq!((script.runs("copy"), script.runs("after")), (1, 1));
    let states = states(&build);
    assert!(states["after"].cached && states["copy"].cached && !states["const binary"].cached);
}

#[tokio::test]
async fn ignoring_the_cache_runs_again_and_replaces_the_record() {
    let (engine, script) = engine();
    let count = Arc::new(AtomicUsize::new(0));
    script.on("clock", move |_| {
        let now = count.fetch_add(1, Ordering::SeqCst);
        async move { Ok(format!("tick {now}")) }
    });
    let graph = |fresh: bool| {
        let mut write = Write::default();
        let clock = if fresh {
            write.run_fresh("clock", &[])
        } else {
            write.run("clock", &[])
        };
        let steady = write.run("const steady", &[(clock, ID)]);
        let by_id = write.run("by id", &[(clock, ID)]);
        let by_content = write.run("by content", &[(clock, CONTENT)]);
        let cut_off = write.run("cut off", &[(steady, CONTENT)]);
        let top = write.run("top", &[(by_id, ID), (by_content, ID), (cut_off, ID)]);
        write.finish(top)
    };
    solve(&engine, &script, &graph(false)).await.0.unwrap();
    script.forget_runs();
    let (fresh, _) = solve(&engine, &script, &graph(true)).await;
    for name in ["clock", "const steady", "by id", "by content", "top"] {
        assert_eq!(script.runs(name), 1, "{name}");
    }
    assert_eq!(script.runs("cut off"), 0);
    script.forget_runs();
    let (later, _) = solve(&engine, &script, &graph(false)).await;
    assert_eq!(later.unwrap(), fresh.unwrap());
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn results_that_are_gone_are_made_and_recorded_again() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let one = write.run("one", &[(base, ID)]);
    let top = write.run("top", &[(one, CONTENT)]);
    let definition = write.finish(top);
    let (first, _) = solve(&engine, &script, &definition).await;
    let first = first.unwrap();
    script.prune(|_| true);
    script.forget_runs();
    assert_eq!(solve(&engine, &script, &definition).await.0.unwrap(), first);
    assert_eq!(script.total_runs(), 3);
    script.forget_runs();
    assert_eq!(solve(&engine, &script, &definition).await.0.unwrap(), first);
    assert_eq!(script.total_runs(), 0);
}

/// As CVE-2024-24557: a key must not find a result made of something else than it says.
#[tokio::test]
async fn an_input_that_comes_out_differently_does_not_poison_the_key_of_its_old_content() {
    let (engine, script) = engine();
    let count = Arc::new(AtomicUsize::new(0));
    script.on("clock", move |_| {
        let now = count.fetch_add(1, Ordering::SeqCst);
        async move { Ok(format!("tick {now}")) }
    });
    let graph = |source: &str| {
        let mut write = Write::default();
        let source = write.run(source, &[]);
        let copy = write.run("copy", &[(source, CONTENT)]);
        let after = write.run("after", &[(copy, ID)]);
        write.finish(after)
    };
    let of = |text: &str| value("after", &[value("copy", &[text.to_owned()])]);
    assert_eq!(solve(&engine, &script, &graph("clock")).await.0.unwrap(), of("tick 0"));
    script.prune(|_| true);
    assert_eq!(solve(&engine, &script, &graph("clock")).await.0.unwrap(), of("tick 1"));
    // Another stage really has the content that the first run of the clock had.
    assert_eq!(
        solve(&engine, &script, &graph("const tick 0")).await.0.unwrap(),
        of("tick 0")
    );
    script.forget_runs();
    assert_eq!(
        solve(&engine, &script, &graph("const tick 1")).await.0.unwrap(),
        of("tick 1")
    );
    assert_eq!((script.runs("copy"), script.runs("after")), (0, 0));
}

#[tokio::test]
async fn a_directory_that_was_received_is_used_as_it_is() {
    let (engine, script) = engine();
    script.makes_on_resolve.store(true, Ordering::SeqCst);
    let mut write = Write::default();
    let context = write.directory("context");
    let copy = write.run("copy", &[(context, CONTENT)]);
    let definition = write.finish(copy);
    let want = |pin: &str| value("copy", &[pin.to_owned()]);
    for (pin, copies) in [("local://context", 1), ("local://context", 1), ("changed", 2)] {
        script.pin("local://context", pin);
        let (outcome, build) = solve(&engine, &script, &definition).await;
        assert_eq!(outcome.unwrap(), want(pin));
        assert_eq!((script.runs("local://context"), script.runs("copy")), (0, copies));
        let states = states(&build);
        assert!(states["local://context"].completed.is_some() && !states["local://context"].cached);
    }
}

#[tokio::test]
async fn a_panic_of_the_worker_is_an_error() {
    let (engine, script) = engine();
    script.on("boom", |_| async { panic!("on purpose") });
    let mut write = Write::default();
    let boom = write.run("boom", &[]);
    let top = write.run("top", &[(boom, ID)]);
    let (outcome, build) = solve(&engine, &script, &write.finish(top)).await;
    let error = outcome.unwrap_err();
    assert!(error.to_string().starts_with("internal error"), "{error}");
    assert!(states(&build)["boom"].completed.is_some());
    assert!(engine.is_idle());
}

#[tokio::test]
async fn a_missing_path_is_the_error_of_the_step_that_reads_it() {
    let (engine, script) = engine();
    script.lose_path("");
    let mut write = Write::default();
    let base = write.image("base");
    let copy = write.run("copy", &[(base, CONTENT)]);
    let file = write.0.add_source_file(SourceFile::default());
    write.0.locate(
        copy,
        SourceLocation {
            file,
            ranges: Vec::new(),
        },
    );
    let top = write.run("top", &[(copy, ID)]);
    let (outcome, build) = solve(&engine, &script, &write.finish(top)).await;
    let Err(SolveError::Vertex(error)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((error.vertex, error.places.len()), (copy.vertex(), 1));
    assert!(!states(&build)["copy"].error.is_empty());
    assert!(states(&build)["docker-image://base"].error.is_empty());
}

/// The process run that a definition asks for.
fn exec_of(definition: &crate::llb::Definition) -> crate::llb::ExecOp {
    let graph = crate::llb::decode(definition).unwrap().unwrap();
    match &graph.vertex(graph.target().vertex).op {
        crate::llb::Op::Exec(exec) => exec.clone(),
        other => panic!("{other:?} is no process run"),
    }
}

#[tokio::test]
async fn entitlements_are_checked_before_anything_runs() {
    use crate::llb::{NetMode, SecurityMode};
    let (engine, script) = engine();
    let mut write = Write::default();
    let plain = write.run("plain", &[]);
    let definition = write.finish(plain);
    let exec = exec_of(&definition);
    for (network, security, name) in [
        (NetMode::Host, SecurityMode::Sandbox, "network.host"),
        (NetMode::Sandbox, SecurityMode::Insecure, "security.insecure"),
    ] {
        let mut write = Write::default();
        let exec = crate::llb::ExecOp {
            network,
            security,
            ..exec.clone()
        };
        let asks = write.0.exec(exec, &[], None, OpMetadata::default());
        let definition = write.finish(asks);
        let (outcome, _) = solve(&engine, &script, &definition).await;
        assert_eq!(
            outcome.unwrap_err().to_string(),
            format!("failed to load LLB: {name} is not allowed")
        );
        assert_eq!(script.total_runs(), 0);
        let granted = engine.build(super::BuildOptions {
            entitlements: super::Entitlement::from_name(name).into_iter().collect(),
            ..super::BuildOptions::default()
        });
        granted.solve(&definition).await.unwrap();
        script.forget_runs();
        script.prune(|_| true);
    }
}

#[tokio::test]
async fn a_step_is_identified_by_the_devices_it_gets() {
    use crate::llb::CdiDevice;
    use crate::{Device, DeviceGrants};
    let (engine, script) = engine();
    let mut write = Write::default();
    let plain = write.run("plain", &[]);
    let definition = write.finish(plain);
    let exec = exec_of(&definition);
    let asks = |name: &str, optional| {
        let mut write = Write::default();
        let mut exec = exec.clone();
        exec.devices = vec![CdiDevice {
            name: name.to_owned(),
            optional,
        }];
        let asks = write.0.exec(exec, &[], None, OpMetadata::default());
        write.finish(asks)
    };
    let there_are = |names: &[&str]| {
        let devices = names.iter().map(|name| Device {
            name: (*name).to_owned(),
            ..Device::default()
        });
        *script.devices.lock() = Some(devices.collect());
    };
    let solve = async |definition: &crate::llb::Definition, devices: DeviceGrants| {
        let build = engine.build(super::BuildOptions {
            devices,
            ..super::BuildOptions::default()
        });
        build
            .solve(definition)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let (first, named) = (asks("v.com/c", true), asks("v.com/c=a", true));
    let disabled = solve(&asks("v.com/c", false), DeviceGrants::All).await.unwrap_err();
    assert!(disabled.ends_with("but CDI device support is disabled"), "{disabled}");
    there_are(&[]);
    solve(&first, DeviceGrants::None).await.unwrap();
    assert_eq!(script.total_runs(), 1, "without the device");
    there_are(&["v.com/c=a"]);
    assert_eq!(
        solve(&first, DeviceGrants::None).await.unwrap_err(),
        "failed to load LLB: device v.com/c=a is requested by the build but not allowed"
    );
    solve(&first, DeviceGrants::All).await.unwrap();
    assert_eq!(script.total_runs(), 2, "with the device");
    solve(&named, DeviceGrants::All).await.unwrap();
    assert_eq!(script.total_runs(), 2, "the same device under another name");
    there_are(&["v.com/c=0", "v.com/c=a"]);
    solve(&named, DeviceGrants::All).await.unwrap();
    assert_eq!(script.total_runs(), 2, "the same device");
    solve(&first, DeviceGrants::All).await.unwrap();
    assert_eq!(script.total_runs(), 3, "another device");
}

#[tokio::test]
async fn a_passthrough_makes_only_what_is_asked_of_it() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let (a, b) = (write.run("a", &[]), write.run("b", &[]));
    let op = crate::llb::Op::Passthrough {
        id: "p".to_owned(),
        outputs: vec![1],
    };
    let pass = write.0.op(op, &[a, b], None, OpMetadata::default());
    let top = write.run("top", &[(pass, ID)]);
    let by_content = write.run("by content", &[(pass, CONTENT), (top, ID)]);
    let definition = write.finish(by_content);
    let (outcome, _) = solve(&engine, &script, &definition).await;
    let b = value("b", &[]);
    let top = value("top", std::slice::from_ref(&b));
    assert_eq!(outcome.unwrap(), value("by content", &[b, top]));
    assert_eq!(script.runs("a"), 0);
    script.forget_runs();
    solve(&engine, &script, &definition).await.0.unwrap();
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn a_chain_of_10_000_needs_no_stack() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let mut last = write.run("0", &[]);
    for n in 1..10_000 {
        last = write.run(&n.to_string(), &[(last, ID)]);
    }
    let definition = write.finish(last);
    let (outcome, first) = solve(&engine, &script, &definition).await;
    outcome.unwrap();
    assert_eq!(script.total_runs(), 10_000);
    drop(first);
    script.forget_runs();
    solve(&engine, &script, &definition).await.0.unwrap();
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn a_graph_5_000_wide_is_built() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let wide: Vec<_> = (0..5_000).map(|n| write.run(&n.to_string(), &[(base, ID)])).collect();
    let top = write.0.merge(&wide, None, OpMetadata::default());
    solve(&engine, &script, &write.finish(top)).await.0.unwrap();
    assert_eq!(script.total_runs(), 5_000 + 2);
}

#[tokio::test]
async fn scratch_is_no_result_and_nonsense_is_an_error() {
    let (engine, _script) = engine();
    let build = build(&engine, "");
    assert!(
        soon(build.solve(&crate::llb::Definition::default()))
            .await
            .unwrap()
            .is_none()
    );
    let nonsense = crate::llb::Definition::from_wire(cairn_proto::pb::Definition {
        def: vec![vec![0xff].into(), vec![].into()],
        ..Default::default()
    });
    let error = soon(build.solve(&nonsense)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("failed to load LLB: failed to parse llb proto op"),
        "{error}"
    );
}
