//! Builds that want the same.

use std::sync::Arc;

use tokio::sync::{Barrier, Notify};

use super::script::{Write, build, engine, logs, soon, until};
use super::{CONTENT, ID};
use crate::worker::WorkerError;

#[tokio::test]
async fn two_builds_share_one_run_and_both_see_all_of_its_output() {
    let (engine, script) = engine();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = (begun.clone(), go_on.clone());
    script.on("slow", move |context| {
        let (begun, go_on) = hook.clone();
        async move {
            context.progress.log(1, "early ".into());
            begun.notify_one();
            go_on.notified().await;
            context
                .progress
                .log(1, format!("late {:?}", context.sessions.ids()).into());
            Ok("done".to_owned())
        }
    });
    let mut write = Write::default();
    let slow = write.run("slow", &[]);
    let definition = write.finish(slow);
    let (a, b) = (build(&engine, "a"), build(&engine, "b"));
    let first = tokio::spawn({
        let (a, definition) = (a.clone(), definition.clone());
        async move { a.solve(&definition).await }
    });
    soon(begun.notified()).await;
    let second = tokio::spawn({
        let (b, definition) = (b.clone(), definition.clone());
        async move { b.solve(&definition).await }
    });
    // The late one has joined when it has what was told before it came.
    until(|| logs(&b, slow.vertex()) == "early ").await;
    go_on.notify_one();
    let first = soon(first).await.unwrap().unwrap();
    let second = soon(second).await.unwrap().unwrap();
    assert_eq!(first.unwrap().id(), second.unwrap().id());
    assert_eq!(script.runs("slow"), 1);
    for build in [&a, &b] {
        assert_eq!(logs(build, slow.vertex()), "early late [\"a\", \"b\"]");
    }
}

#[tokio::test]
async fn one_of_two_leaves_and_the_other_gets_its_result() {
    let (engine, script) = engine();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = (begun.clone(), go_on.clone());
    script.on("slow", move |context| {
        let (begun, go_on) = hook.clone();
        async move {
            context.progress.log(1, "x".into());
            begun.notify_one();
            tokio::select! {
                () = go_on.notified() => Ok("done".to_owned()),
                () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
            }
        }
    });
    let mut write = Write::default();
    let slow = write.run("slow", &[]);
    let definition = write.finish(slow);
    let (a, b) = (build(&engine, "a"), build(&engine, "b"));
    let solves = [a.clone(), b.clone()].map(|build| {
        let definition = definition.clone();
        tokio::spawn(async move { build.solve(&definition).await })
    });
    soon(begun.notified()).await;
    until(|| !logs(&a, slow.vertex()).is_empty() && !logs(&b, slow.vertex()).is_empty()).await;
    let [first, second] = solves;
    a.cancel();
    assert_eq!(soon(first).await.unwrap().unwrap_err().to_string(), "context canceled");
    assert!(!engine.is_idle());
    go_on.notify_one();
    assert!(soon(second).await.unwrap().unwrap().is_some());
    assert_eq!(script.runs("slow"), 1);
}

#[tokio::test]
async fn an_error_reaches_everyone() {
    let (engine, script) = engine();
    let meet = Arc::new(Barrier::new(2));
    let hook = meet.clone();
    script.on("bad", move |context| {
        let meet = hook.clone();
        async move {
            context.progress.log(2, "x".into());
            meet.wait().await;
            Err(WorkerError::Failed("broken".to_owned()))
        }
    });
    let mut write = Write::default();
    let bad = write.run("bad", &[]);
    let definition = write.finish(bad);
    let builds: Vec<_> = (0..5).map(|n| build(&engine, &n.to_string())).collect();
    let solves: Vec<_> = builds
        .iter()
        .cloned()
        .map(|build| {
            let definition = definition.clone();
            tokio::spawn(async move { build.solve(&definition).await })
        })
        .collect();
    until(|| builds.iter().all(|build| !logs(build, bad.vertex()).is_empty())).await;
    soon(meet.wait()).await;
    for solve in solves {
        assert_eq!(soon(solve).await.unwrap().unwrap_err().to_string(), "broken");
    }
    assert_eq!(script.runs("bad"), 1);
    assert!(engine.is_idle());
}

#[tokio::test]
async fn a_run_that_ignores_the_cache_does_not_join_one_that_may_use_it() {
    let (engine, script) = engine();
    let meet = Arc::new(Barrier::new(2));
    script.on("slow", move |_| {
        let meet = meet.clone();
        async move {
            // Each is only done once the other has begun.
            meet.wait().await;
            Ok("done".to_owned())
        }
    });
    let definition = |fresh: bool| {
        let mut write = Write::default();
        let slow = if fresh {
            write.run_fresh("slow", &[])
        } else {
            write.run("slow", &[])
        };
        write.finish(slow)
    };
    let (a, b) = (build(&engine, "a"), build(&engine, "b"));
    let (plain, fresh) = (definition(false), definition(true));
    let (first, second) = soon(async { tokio::join!(a.solve(&plain), b.solve(&fresh)) }).await;
    first.unwrap();
    second.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_builds_at_once_run_everything_once() {
    let (engine, script) = engine();
    let mut write = Write::default();
    let base = write.image("base");
    let mut layer = vec![base];
    for depth in 0..6 {
        layer = (0..5)
            .map(|n| {
                let inputs: Vec<_> = layer
                    .iter()
                    .map(|input| (*input, if n % 2 == 0 { ID } else { CONTENT }))
                    .collect();
                write.run(&format!("{depth}.{n}"), &inputs)
            })
            .collect();
    }
    let inputs: Vec<_> = layer.iter().map(|input| (*input, ID)).collect();
    let top = write.run("top", &inputs);
    let definition = Arc::new(write.finish(top));
    let mut solves = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (build, definition) = (build(&engine, &n.to_string()), definition.clone());
        solves.spawn(async move { build.solve(&definition).await });
    }
    let outcomes = soon(solves.join_all()).await;
    let ids: std::collections::BTreeSet<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap().unwrap().id().clone())
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(script.total_runs(), 32);
    until(|| engine.is_idle()).await;
}
