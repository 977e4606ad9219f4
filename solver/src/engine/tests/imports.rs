//! Results that imported caches know.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::script::{Script, Write, build, engine, soon, states, until};
use super::{CONTENT, ID};
use crate::cache_key::CacheKey;
use crate::engine::Build;
use crate::imported::{ImportedCache, SelectedContent, record_digest, selector_digest};
use crate::llb::{Definition, OpMetadata};
use crate::worker::{CallContext, ContentSelector, Ref, WorkerError};
use crate::{Digest, SolveError};

/// Everything that a build knew, for another worker.
#[derive(Clone)]
struct Copied {
    records: HashMap<Digest, (Option<Vec<String>>, Vec<SelectedContent>)>,
    script: Arc<Script>,
}

impl Copied {
    async fn of(build: &Build, from: &Script, definition: &Definition, to: &Arc<Script>) -> Self {
        let records = build.cache_records(&[Arc::new(definition.clone())]).await.unwrap();
        let records = records.into_iter().map(|record| {
            let outputs = record
                .outputs
                .map(|all| all.iter().map(|output| from.read(output.as_ref())).collect());
            (record.digest, (outputs, record.contents))
        });
        Self {
            records: records.collect(),
            script: to.clone(),
        }
    }
}

#[async_trait]
impl ImportedCache for Copied {
    fn content(&self, key: &CacheKey, output: usize, selector: &ContentSelector) -> Option<Digest> {
        let (_, contents) = self.records.get(&record_digest(key))?;
        let selector = selector_digest(selector);
        let found = contents
            .iter()
            .find(|known| known.output == output && known.selector == selector)?;
        Some(found.digest)
    }

    async fn adopt(&self, key: &CacheKey, _: &CallContext) -> Result<Option<Vec<Option<Ref>>>, WorkerError> {
        let outputs = self
            .records
            .get(&record_digest(key))
            .and_then(|(outputs, _)| outputs.clone());
        Ok(outputs.map(|all| {
            all.into_iter()
                .map(|value| Some(self.script.put_elsewhere(value)))
                .collect()
        }))
    }
}

fn import(build: &Build, cache: &Copied) {
    let cache = cache.clone();
    build.import("cache", "importing", |_| async move {
        Ok(Arc::new(cache) as Arc<dyn ImportedCache>)
    });
}

/// `made` reads a part of `stage`; `top` is made of it and of something that changes.
fn graph(change: &str) -> Definition {
    let mut write = Write::default();
    let base = write.image("base");
    let stage = write.run("stage", &[(base, ID)]);
    let made = write.run("made", &[(base, ID), (stage, CONTENT)]);
    let top = write.run(change, &[(made, ID)]);
    write.finish(top)
}

/// A build of the graph somewhere else, as a cache for a new engine.
async fn elsewhere() -> (Arc<crate::Engine>, Arc<Script>, Copied, String) {
    let ((first, theirs), (second, ours)) = (engine(), engine());
    let definition = graph("top");
    let build = build(&first, "a");
    let result = soon(build.solve(&definition)).await.unwrap();
    let cache = Copied::of(&build, &theirs, &definition, &ours).await;
    (second, ours, cache, theirs.read(result.as_ref()))
}

#[tokio::test]
async fn results_that_are_not_to_be_exported_leave_their_records_behind() {
    for (export_cache, expected) in [
        (None, [true; 3]),
        (Some(true), [true; 3]),
        (Some(false), [true, false, true]),
    ] {
        let (engine, _) = engine();
        let mut write = Write::default();
        let base = write.image("base");
        let metadata = OpMetadata {
            export_cache,
            ..OpMetadata::default()
        };
        let stage = write.run_with("stage", &[(base, ID)], metadata);
        let top = write.run("top", &[(stage, ID)]);
        let definition = write.finish(top);
        let build = build(&engine, "a");
        soon(build.solve(&definition)).await.unwrap();
        let records = build.cache_records(&[Arc::new(definition)]).await.unwrap();
        let with_results: Vec<bool> = records.iter().map(|record| record.outputs.is_some()).collect();
        assert_eq!(with_results, expected, "{export_cache:?}");
        assert_eq!(records[2].inputs[0].record, 1);
    }
}

#[tokio::test]
async fn what_is_known_elsewhere_is_taken_over_and_not_looked_into() {
    let (engine, script, cache, wanted) = elsewhere().await;
    let second = build(&engine, "b");
    import(&second, &cache);
    let result = soon(second.solve(&graph("top"))).await.unwrap();
    assert_eq!(script.read(result.as_ref()), wanted);
    assert_eq!((script.total_runs(), script.fetches.load(Ordering::SeqCst)), (0, 0));
    assert!(states(&second)["top"].cached && states(&second)["stage"].cached);
    let whole = soon(second.solve_whole(&graph("top"))).await.unwrap();
    assert_eq!(script.read(whole.as_ref()), wanted);
    assert_eq!((script.total_runs(), script.fetches.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn what_changes_runs_on_what_is_fetched() {
    let (engine, script, cache, _) = elsewhere().await;
    let second = build(&engine, "b");
    import(&second, &cache);
    soon(second.solve(&graph("changed"))).await.unwrap();
    assert_eq!((script.runs("changed"), script.total_runs()), (1, 1));
    assert_eq!(script.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_cannot_be_fetched_is_made() {
    let (engine, script, cache, _) = elsewhere().await;
    script.is_cut_off.store(true, Ordering::SeqCst);
    let second = build(&engine, "b");
    import(&second, &cache);
    let result = soon(second.solve(&graph("changed"))).await.unwrap();
    assert!(result.is_some());
    assert!(!script.read(result.as_ref()).is_empty());
    assert_eq!(
        (script.runs("changed"), script.runs("made"), script.runs("stage")),
        (1, 1, 1)
    );
    // What was made is known under the same keys, and is here.
    script.forget_runs();
    let third = build(&engine, "c");
    soon(third.solve_whole(&graph("changed"))).await.unwrap();
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn a_target_that_cannot_be_fetched_is_made_when_somebody_looks_into_it() {
    let (engine, script, cache, wanted) = elsewhere().await;
    let second = build(&engine, "b");
    import(&second, &cache);
    soon(second.solve(&graph("top"))).await.unwrap();
    script.is_cut_off.store(true, Ordering::SeqCst);
    let result = soon(second.solve_whole(&graph("top"))).await.unwrap();
    assert_eq!(script.read(result.as_ref()), wanted);
    assert_eq!(script.max_runs_of_a_vertex(), 1);
}

#[tokio::test]
async fn a_hit_does_not_wait_for_imports() {
    let (engine, script) = engine();
    soon(build(&engine, "a").solve(&graph("top"))).await.unwrap();
    script.forget_runs();
    let second = build(&engine, "b");
    second.import("slow", "importing", |_| pending());
    let definition = graph("top");
    let solving = second.solve(&definition);
    tokio::time::timeout(Duration::from_secs(5), solving)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(script.total_runs(), 0);
}

#[tokio::test]
async fn a_miss_waits_for_imports_but_not_for_ever() {
    let (engine, script, cache, _) = elsewhere().await;
    let arrived = Arc::new(Notify::new());
    let second = build(&engine, "b");
    let (late, waiting) = (cache.clone(), arrived.clone());
    second.import("late", "importing", |_| async move {
        waiting.notified().await;
        Ok(Arc::new(late) as Arc<dyn ImportedCache>)
    });
    let definition = graph("top");
    let solve = second.solve(&definition);
    let arrive = async {
        until(|| {
            states(&second)
                .get("docker-image://base")
                .is_some_and(|state| state.completed.is_some())
        })
        .await;
        arrived.notify_one();
    };
    let (result, ()) = soon(async { tokio::join!(solve, arrive) }).await;
    assert!(result.unwrap().is_some());
    assert_eq!(script.total_runs(), 0);

    let third = build(&engine, "c");
    third.import("never", "importing", |_| pending());
    soon(third.solve(&graph("other"))).await.unwrap();
    assert_eq!(script.runs("other"), 1);
}

#[tokio::test]
async fn an_import_that_fails_is_told_of_and_no_failure() {
    let (engine, script) = engine();
    let build = build(&engine, "a");
    build.import("bad", "importing", |_| async {
        Err(WorkerError::Failed("no such cache".to_owned()))
    });
    build.import("bad", "importing again", |_| pending());
    build.import("worse", "panicking", |_| async { panic!("on purpose") });
    soon(build.solve(&graph("top"))).await.unwrap();
    assert_eq!(states(&build)["importing"].error, "no such cache");
    assert!(states(&build)["panicking"].error.contains("panicked"));
    assert!(!states(&build).contains_key("importing again"));
    assert_eq!(script.runs("top"), 1);
}

#[tokio::test]
async fn ignoring_the_cache_ignores_imports() {
    let (engine, script, cache, _) = elsewhere().await;
    let mut write = Write::default();
    let base = write.image("base");
    let stage = write.run_fresh("stage", &[(base, ID)]);
    let made = write.run("made", &[(base, ID), (stage, CONTENT)]);
    let definition = write.finish(made);
    let second = build(&engine, "b");
    import(&second, &cache);
    let outcome: Result<_, SolveError> = soon(second.solve(&definition)).await;
    outcome.unwrap();
    assert_eq!((script.runs("stage"), script.runs("made")), (1, 0));
}
