//! Builds that are given up.

use std::sync::Arc;

use tokio::sync::Notify;

use super::ID;
use super::script::{Write, build, engine, soon, states, until};
use crate::progress::Event;
use crate::worker::WorkerError;

#[tokio::test]
async fn the_last_to_leave_fires_the_token_and_frees_the_key() {
    let (engine, script) = engine();
    let (begun, stopped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = (begun.clone(), stopped.clone());
    script.on("slow", move |context| {
        let (begun, stopped) = hook.clone();
        async move {
            begun.notify_one();
            context.cancel.cancelled().await;
            stopped.notify_one();
            Err(WorkerError::Cancelled)
        }
    });
    let mut write = Write::default();
    let slow = write.run("slow", &[]);
    let top = write.run("top", &[(slow, ID)]);
    let definition = write.finish(top);
    let doomed = build(&engine, "a");
    let solve = tokio::spawn({
        let (doomed, definition) = (doomed.clone(), definition.clone());
        async move { doomed.solve(&definition).await }
    });
    soon(begun.notified()).await;
    doomed.cancel();
    assert_eq!(soon(solve).await.unwrap().unwrap_err().to_string(), "context canceled");
    soon(stopped.notified()).await;
    until(|| engine.is_idle()).await;
    script.off("slow");
    assert!(soon(build(&engine, "b").solve(&definition)).await.unwrap().is_some());
    assert_eq!(script.runs("slow"), 2);
}

#[tokio::test]
async fn a_cancelled_build_does_not_wait_for_a_worker_that_ignores_its_token() {
    let (engine, script) = engine();
    let begun = Arc::new(Notify::new());
    let hook = begun.clone();
    script.on("deaf", move |_| {
        let begun = hook.clone();
        async move {
            begun.notify_one();
            std::future::pending().await
        }
    });
    let mut write = Write::default();
    let deaf = write.run("deaf", &[]);
    let definition = write.finish(deaf);
    let build = build(&engine, "a");
    let solve = tokio::spawn({
        let build = build.clone();
        async move { build.solve(&definition).await }
    });
    soon(begun.notified()).await;
    build.cancel();
    assert!(soon(solve).await.unwrap().is_err());
    until(|| engine.is_idle()).await;
}

#[tokio::test]
async fn a_cancelled_build_begins_nothing_more() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let run = write.run("run", &[]);
    let build = build(&engine, "a");
    build.cancel();
    assert!(soon(build.solve(&write.finish(run))).await.is_err());
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn nothing_of_a_dropped_build_stays() {
    let (engine, script) = engine();
    let begun = Arc::new(Notify::new());
    let hook = begun.clone();
    script.on("slow", move |context| {
        let begun = hook.clone();
        async move {
            begun.notify_one();
            context.cancel.cancelled().await;
            Err(WorkerError::Cancelled)
        }
    });
    let mut write = Write::default();
    let base = write.image("base");
    let slow = write.run("slow", &[(base, ID)]);
    let beside = write.run("beside", &[(base, super::CONTENT)]);
    let top = write.run("top", &[(slow, ID), (beside, ID)]);
    let definition = write.finish(top);
    let build = build(&engine, "a");
    let (inner, events) = (Arc::downgrade(&build.inner), Arc::downgrade(build.events()));
    {
        let solve = build.solve(&definition);
        tokio::pin!(solve);
        tokio::select! {
            outcome = &mut solve => panic!("{outcome:?}"),
            () = soon(begun.notified()) => {}
        }
    }
    drop(build);
    until(|| inner.upgrade().is_none() && events.upgrade().is_none()).await;
    until(|| engine.is_idle()).await;
}

#[tokio::test]
async fn closing_completes_what_is_unfinished_and_ends_the_record() {
    let (engine, script) = engine();
    let begun = Arc::new(Notify::new());
    let hook = begun.clone();
    script.on("slow", move |_| {
        let begun = hook.clone();
        async move {
            begun.notify_one();
            std::future::pending().await
        }
    });
    let mut write = Write::default();
    let quick = write.run("quick", &[]);
    let slow = write.run("slow", &[(quick, ID)]);
    let top = write.run("top", &[(slow, ID)]);
    let definition = write.finish(top);
    let build = build(&engine, "a");
    let mut reader = build.events().reader();
    let step = build.step("export", "exporting");
    tokio::select! {
        outcome = build.solve(&definition) => panic!("{outcome:?}"),
        () = soon(begun.notified()) => {}
    }
    build.close();
    drop(step);
    let mut seen = Vec::new();
    while let Some(events) = soon(reader.next()).await {
        seen.extend(events);
    }
    let mut open = std::collections::BTreeSet::new();
    for event in &seen {
        if let Event::Vertex(state) = event {
            assert!(
                state.completed.is_none() || state.started <= state.completed,
                "{state:?}"
            );
            assert!(state.completed.is_none() || state.started.is_some(), "{state:?}");
            if state.started.is_some() && state.completed.is_none() {
                open.insert(state.vertex.name.clone());
            } else {
                open.remove(&state.vertex.name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let states = states(&build);
    assert_eq!(states["slow"].error, "context canceled");
    assert_eq!(states["exporting"].error, "context canceled");
    assert_eq!(states["quick"].error, "");
    assert!(states["top"].started.is_none());
}

/// Gives builds up at every moment that a scheduler can come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn giving_up_at_any_moment_leaks_nothing_and_hurts_nobody() {
    let (engine, script) = engine();
    for round in 0..200_usize {
        let mut write = Write::default();
        let base = write.image(&format!("base{round}"));
        let mut last = write.run(&format!("{round}"), &[(base, ID)]);
        for n in 0..5 {
            let side = write.run(&format!("{round}.{n}"), &[(base, super::CONTENT)]);
            last = write.run(&format!("{round}.{n} on"), &[(last, ID), (side, super::CONTENT)]);
        }
        let definition = Arc::new(write.finish(last));
        let (stays, leaves) = (build(&engine, "s"), build(&engine, "l"));
        let inner = Arc::downgrade(&leaves.inner);
        let left = tokio::spawn({
            let definition = definition.clone();
            async move {
                tokio::select! {
                    biased;
                    () = async {
                        for _ in 0..round {
                            tokio::task::yield_now().await;
                        }
                    } => {}
                    _ = leaves.solve(&definition) => {}
                }
            }
        });
        assert!(soon(stays.solve(&definition)).await.unwrap().is_some());
        soon(left).await.unwrap();
        until(|| inner.upgrade().is_none()).await;
    }
    until(|| engine.is_idle()).await;
    assert!(script.total_runs() >= 200 * 12);
}
