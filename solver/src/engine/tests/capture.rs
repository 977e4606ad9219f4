//! What builds really used.

use std::sync::Arc;

use super::script::{By, Write, engine, solve, soon};
use crate::BuildOptions;
use crate::llb::{Definition, Op};

/// A step on an image and on files of a client.
fn definition() -> Definition {
    let mut write = Write::default();
    let base = write.image("base");
    let files = write.directory("context");
    let step = write.run("step", &[(base, By::Identity), (files, By::Content)]);
    write.finish(step)
}

#[tokio::test]
async fn what_sources_stood_for_is_known_also_if_all_was_cached() {
    let (engine, script) = engine();
    script.part("docker-image://base", "manifest", "sha256:1");
    for runs in [1, 0] {
        let (outcome, build) = solve(&engine, &script, &definition()).await;
        outcome.unwrap();
        assert_eq!(script.runs("step"), runs);
        let captured = build.capture(&[Arc::new(definition())]).await.unwrap();
        let shown: Vec<_> = captured
            .iter()
            .map(|captured| match (&captured.vertex.op, &captured.resolved) {
                (Op::Source(_), Some(resolved)) => resolved.parts["manifest"].as_str(),
                (Op::Source(_), None) => "directory",
                _ => "step",
            })
            .collect();
        let mut sources = shown[..2].to_vec();
        sources.sort_unstable();
        assert_eq!((&sources[..], shown[2]), (&["directory", "sha256:1"][..], "step"));
        script.forget_runs();
    }
}

#[tokio::test]
async fn results_are_known_without_being_made_again() {
    let (engine, script) = engine();
    let (outcome, _build) = solve(&engine, &script, &definition()).await;
    outcome.unwrap();
    let (outcome, build) = solve(&engine, &script, &definition()).await;
    outcome.unwrap();
    let runs = script.total_runs();
    let known = build.known_results(&Arc::new(definition())).await.unwrap();
    let target = definition().target().unwrap().0;
    assert!(
        known
            .iter()
            .any(|(vertex, outputs)| *vertex == target && outputs.len() == 1)
    );
    assert_eq!(script.total_runs(), runs);
}

#[tokio::test]
async fn processes_that_run_are_measured_for_builds_that_want_to_know() {
    let (engine, script) = engine();
    let target = definition().target().unwrap().0;
    for (measures, forgets, want) in [(false, true, 0), (true, true, 1), (true, false, 0)] {
        if forgets {
            script.prune(|_| true);
        }
        let build = engine.build(BuildOptions {
            measures,
            ..BuildOptions::default()
        });
        soon(build.solve(&definition())).await.unwrap();
        let measured: Vec<_> = build.usage().into_keys().collect();
        assert_eq!(measured, vec![target; want], "{measures} {forgets}");
    }
}
