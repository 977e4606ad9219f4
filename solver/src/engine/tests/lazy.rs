//! What is known is not looked into.

use std::sync::atomic::Ordering;

use super::script::{Write, build, engine, soon};
use super::{CONTENT, ID};

#[tokio::test]
async fn a_hit_at_the_target_touches_nothing_below_it() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let chain = (0..20).fold(base, |below, n| {
        write.run(&n.to_string(), &[(below, ID), (base, CONTENT)])
    });
    let definition = write.finish(chain);
    soon(build(&engine, "a").solve(&definition)).await.unwrap();
    script.forget_runs();
    let (opened, digested) = (
        script.opens.load(Ordering::SeqCst),
        script.digests.load(Ordering::SeqCst),
    );
    soon(build(&engine, "b").solve(&definition)).await.unwrap();
    assert_eq!(script.total_runs(), 0);
    assert_eq!(
        script.opens.load(Ordering::SeqCst) - opened,
        1,
        "only the target is opened"
    );
    assert_eq!(script.digests.load(Ordering::SeqCst), digested);
}

#[tokio::test]
async fn a_failure_is_told_once_and_stops_only_what_needs_it() {
    use crate::progress::Event;
    use crate::worker::WorkerError;
    let (engine, script) = engine();
    script.on("bad", |_| async { Err(WorkerError::Failed("broken".to_owned())) });
    let mut write = Write::default();
    let bad = write.run("bad", &[]);
    let users: Vec<_> = (0..5).map(|n| (write.run(&n.to_string(), &[(bad, ID)]), ID)).collect();
    let top = write.run("top", &users);
    let other = write.run("other", &[]);
    let failing = build(&engine, "a");
    let definitions = (write.finish(top), write.finish(other));
    let going_on = build(&engine, "b");
    let (failed, fine) =
        soon(async { tokio::join!(failing.solve(&definitions.0), going_on.solve(&definitions.1)) }).await;
    assert_eq!(failed.unwrap_err().to_string(), "broken");
    assert!(fine.unwrap().is_some());
    let told = failing.events().snapshot().into_iter();
    let told = told.filter(|event| matches!(event, Event::Vertex(state) if !state.error.is_empty()));
    assert_eq!(told.count(), 1);
    assert_eq!(script.runs("bad"), 1);
}

#[tokio::test]
async fn what_a_key_was_needed_for_is_told_by_the_build_and_not_by_the_vertex() {
    use crate::progress::Event;
    use crate::worker::{NO_KEY, WorkerError};
    let (engine, script) = engine();
    script.on("resolve docker-image://a", |_| async {
        Err(WorkerError::Failed(format!("{NO_KEY}broken")))
    });
    let mut write = Write::default();
    let source = write.image("a");
    let definition = write.finish(source);
    let failing = build(&engine, "b");
    let error = soon(failing.solve(&definition)).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to load cache key: broken");
    let told = failing.events().snapshot().into_iter();
    let told = told.filter_map(|event| match event {
        Event::Vertex(state) if !state.error.is_empty() => Some(state.error),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["broken"]);
}
