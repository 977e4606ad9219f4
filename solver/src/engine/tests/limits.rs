//! Limits of what runs at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::ID;
use super::script::{Script, Write, soon, until};
use crate::engine::{BuildOptions, Counters, Engine, EngineOptions};
use crate::index::MemoryIndex;

/// An engine with that many slots, on a worker whose steps of these names take a few turns; and how many of them ran
/// at the same time at most, and in which order.
fn limited(slots: usize, names: &[&str]) -> (Arc<Engine>, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) {
    let script = Arc::<Script>::default();
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let order = Arc::<Mutex<Vec<String>>>::default();
    for name in names {
        let (now, most, order, name) = (now.clone(), most.clone(), order.clone(), (*name).to_owned());
        script.on(&name.clone(), move |_| {
            let (now, most, order, name) = (now.clone(), most.clone(), order.clone(), name.clone());
            async move {
                order.lock().push(name.clone());
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(name)
            }
        });
    }
    let options = EngineOptions {
        parallelism: slots,
        ..EngineOptions::default()
    };
    let engine = Engine::with_options(script, Arc::<MemoryIndex>::default(), options);
    (engine, most, order)
}

#[tokio::test]
async fn no_more_run_at_a_time_than_there_are_slots() {
    let names = ["a", "b", "c", "d", "e"];
    for (slots, own, most) in [(1, None, 1), (3, None, 3), (4, Some(2), 2), (2, Some(9), 2)] {
        let (engine, seen, _) = limited(slots, &names);
        let mut write = Write::default();
        let inputs: Vec<_> = names.iter().map(|name| (write.run(name, &[]), ID)).collect();
        let top = write.run("top", &inputs);
        let build = engine.build(BuildOptions {
            parallelism: own,
            ..BuildOptions::default()
        });
        soon(build.solve(&write.finish(top))).await.unwrap();
        assert_eq!(
            seen.load(Ordering::SeqCst),
            most,
            "{slots} slots, {own:?} for the build"
        );
        drop(build);
        until(|| engine.counters() == Counters::default()).await;
    }
}

#[tokio::test]
async fn the_longest_chain_goes_first() {
    let (engine, _, order) = limited(1, &["short 1", "short 2", "long 1", "long 2", "long 3"]);
    let mut write = Write::default();
    let shorts = [write.run("short 1", &[]), write.run("short 2", &[])];
    let long = write.run("long 1", &[]);
    let long = write.run("long 2", &[(long, ID)]);
    let long = write.run("long 3", &[(long, ID)]);
    let top = write.run("top", &[(shorts[0], ID), (shorts[1], ID), (long, ID)]);
    soon(engine.build(BuildOptions::default()).solve(&write.finish(top)))
        .await
        .unwrap();
    let order = order.lock().clone();
    let at = |name: &str| order.iter().position(|other| other == name).unwrap();
    // Whichever asked first has run first: there was a slot for it.
    assert_eq!(
        (at("short 1"), at("long 1"), at("short 2") > 1),
        (0, 1, true),
        "{order:?}"
    );
}

#[tokio::test]
async fn waiting_for_the_same_work_takes_no_second_slot() {
    let (engine, most, order) = limited(2, &["shared", "own a", "own b"]);
    let graph = |own: &str| {
        let mut write = Write::default();
        let shared = write.run("shared", &[]);
        let top = write.run(own, &[(shared, ID)]);
        write.finish(top)
    };
    let builds = [(); 2].map(|()| engine.build(BuildOptions::default()));
    let (a, b) = (graph("own a"), graph("own b"));
    let (a, b) = soon(async { tokio::join!(builds[0].solve(&a), builds[1].solve(&b)) }).await;
    a.unwrap();
    b.unwrap();
    assert_eq!(order.lock().len(), 3);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}
