//! Random schedules with failures and with builds given up at every point: what is left gives the right results, and
//! nothing is left behind.
//!
//! Everything runs on one thread, and the worker's calls take a number of turns that the seed says, so that a failing
//! case fails again.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::plan::{Plan, Step, step};
use super::script::{Script, soon, until};
use crate::count::Counter;
use crate::engine::{Build, BuildOptions, Counters, Engine, EngineOptions};
use crate::index::MemoryIndex;
use crate::llb::{Definition, SourceOp};
use crate::worker::{
    CallContext, ContentSelector, Execution, FileStat, ImageQuery, Ref, ResolvedImage, ResolvedSource, ResultId,
    SourceMeta, Worker, WorkerError, WorkerInfo,
};
use crate::{Digest, Platform, SolveError};

/// A worker whose every call takes its time, may fail, and counts the results that are held.
struct Restless {
    script: Script,
    random: Mutex<u64>,
    /// One call in that many fails; none if 0.
    failing: u64,
    held: Counter,
}

impl Restless {
    fn random(&self, below: u64) -> u64 {
        let mut state = self.random.lock();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % below
    }

    /// Takes some turns; may end in a failure, or notice that nobody waits any more.
    async fn turns(&self, context: Option<&CallContext>) -> Result<(), WorkerError> {
        for _ in 0..self.random(4) {
            tokio::task::yield_now().await;
        }
        let is_cancelled = context.is_some_and(|context| context.cancel.is_cancelled());
        if is_cancelled && self.random(2) == 0 {
            return Err(WorkerError::Cancelled);
        }
        if self.failing > 0 && self.random(self.failing) == 0 {
            return Err(WorkerError::Failed("bad luck".to_owned()));
        }
        Ok(())
    }

    fn hold(&self, result: Ref) -> Ref {
        Ref::new(result.id().clone(), Arc::new((self.held.one(), result)))
    }
}

#[async_trait]
impl Worker for Restless {
    fn info(&self) -> WorkerInfo {
        self.script.info()
    }

    async fn resolve_source(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        self.turns(Some(context)).await?;
        let resolved = self.script.resolve_source(source, platform, context).await;
        self.turns(Some(context)).await?;
        resolved
    }

    async fn execute(&self, execution: Execution, context: &CallContext) -> Result<Vec<Option<Ref>>, WorkerError> {
        self.turns(Some(context)).await?;
        let results = self.script.execute(execution, context).await?;
        let results = results.into_iter().map(|result| result.map(|result| self.hold(result)));
        let results = results.collect();
        self.turns(Some(context)).await?;
        Ok(results)
    }

    async fn digest(
        &self,
        input: Option<&Ref>,
        selector: &ContentSelector,
        context: &CallContext,
    ) -> Result<Digest, WorkerError> {
        self.turns(Some(context)).await?;
        self.script.digest(input, selector, context).await
    }

    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError> {
        self.turns(None).await?;
        let found = self.script.open(id).await?;
        Ok(found.map(|result| self.hold(result)))
    }

    async fn has(&self, id: &ResultId) -> Result<bool, WorkerError> {
        self.script.has(id).await
    }

    async fn resolve_image(&self, query: &ImageQuery, context: &CallContext) -> Result<ResolvedImage, WorkerError> {
        self.script.resolve_image(query, context).await
    }

    async fn source_meta(&self, source: &SourceOp, context: &CallContext) -> Result<SourceMeta, WorkerError> {
        self.script.source_meta(source, context).await
    }

    async fn read_file(
        &self,
        input: Option<&Ref>,
        path: &Path,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, WorkerError> {
        self.script.read_file(input, path, range).await
    }

    async fn read_dir(
        &self,
        input: Option<&Ref>,
        path: &Path,
        include: Option<&[u8]>,
    ) -> Result<Vec<FileStat>, WorkerError> {
        self.script.read_dir(input, path, include).await
    }

    async fn stat_file(&self, input: Option<&Ref>, path: &Path) -> Result<FileStat, WorkerError> {
        self.script.stat_file(input, path).await
    }
}

/// What becomes of a build.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is left alone.
    Stays,
    /// Whoever waits for it goes away when it was looked at that often; then the build is dropped.
    Vanishes(usize),
    /// It is cancelled after that many turns.
    Cancelled(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Stays),
        (0_usize..8).prop_map(Fate::Vanishes),
        (0_usize..60).prop_map(Fate::Cancelled),
    ]
}

/// Polls `future` at most that often.
async fn at_most<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let outcome = future.as_mut().poll(context).map(Some);
        if outcome.is_pending() && left == 0 {
            return Poll::Ready(None);
        }
        outcome
    })
    .await
}

/// Solves in a build that has this fate. `None` if nobody waited for the outcome.
async fn live(build: Arc<Build>, definition: Definition, fate: Fate) -> Option<Result<Option<Ref>, SolveError>> {
    match fate {
        Fate::Stays => Some(build.solve(&definition).await),
        Fate::Vanishes(polls) => at_most(polls, build.solve(&definition)).await,
        Fate::Cancelled(turns) => {
            let cancel = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                build.cancel();
            };
            let (outcome, ()) = tokio::join!(build.solve(&definition), cancel);
            Some(outcome)
        }
    }
}

async fn check(steps: &[Step], builds: &[(prop::sample::Index, Fate)], seed: u64, failing: u64, slots: usize) {
    let worker = Arc::new(Restless {
        script: Script::default(),
        random: Mutex::new(seed | 1),
        failing,
        held: Counter::default(),
    });
    let options = EngineOptions {
        parallelism: slots,
        ..EngineOptions::default()
    };
    let engine = Engine::with_options(worker.clone(), Arc::<MemoryIndex>::default(), options);
    let plan = Plan::new(steps, seed.is_multiple_of(3));
    let values = plan.values(Plan::SOURCE);
    let solves = builds.iter().enumerate().map(|(n, (target, fate))| {
        let target = plan.pick(*target);
        let build = engine.build(BuildOptions {
            session: n.to_string(),
            ..BuildOptions::default()
        });
        let solve = live(build, plan.definition(target), *fate);
        async move { (target, *fate, solve.await) }
    });
    for (target, fate, outcome) in soon(futures_util::future::join_all(solves)).await {
        match outcome {
            None => assert!(matches!(fate, Fate::Vanishes(_))),
            Some(Ok(result)) => assert_eq!(worker.script.read(result.as_ref()), values[target]),
            Some(Err(SolveError::Cancelled)) => assert!(matches!(fate, Fate::Cancelled(_)), "{fate:?}"),
            Some(Err(error)) => {
                assert_eq!(error.to_string(), "bad luck");
                assert!(failing > 0);
            }
        }
    }
    soon(engine.finished()).await;
    until(|| engine.counters() == Counters::default()).await;
    until(|| worker.held.get() == 0).await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_left_behind_and_nobody_is_let_down(
        steps in prop::collection::vec(step(), 1..12),
        builds in prop::collection::vec((any::<prop::sample::Index>(), fate()), 1..5),
        seed in any::<u64>(),
        failing in prop_oneof![Just(0_u64), 5_u64..60],
        slots in prop_oneof![Just(usize::MAX), 1_usize..3],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(&steps, &builds, seed, failing, slots));
    }
}
