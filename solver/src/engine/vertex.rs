//! The life of one vertex in one build.
//!
//! | module | part |
//! |---|---|
//! | `node` | what is kept about it |
//! | `flow` | how keys come about, from the sources on |
//! | `identify`, `content` | its key, and what inputs add to it that count by their content |
//! | `nested` | vertices whose result is that of a definition which another vertex made |
//! | `materialise` | its results: found, or made |
//! | `remote` | results that are known elsewhere |
//! | `record` | what is remembered of it |
//! | `follow` | work on it that builds share |
//! | `report` | what clients are told |
//!
//! Here is what ties them: results are made by one task, started by the first who wants them.

mod content;
mod flow;
mod follow;
mod identify;
mod materialise;
mod nested;
mod node;
mod record;
mod remote;
mod report;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use parking_lot::Mutex;

use self::node::{Identified, Made, MadeOutput, Outcome};
use super::build::{Inner, Want};
use crate::SolveError;
use crate::worker::{Ref, ResolvedSource, WorkerError};

#[cfg(test)]
pub(super) use self::nested::MAX_DEPTH;
pub(super) use self::node::{Decision, Node};
pub(super) use self::record::clipped;

/// Results whose files are being brought here, by the place of their vertex.
pub(super) type Fetches = Mutex<HashMap<u32, Arc<Outcome<Made>>>>;

/// Waits for an outcome that some task of the same build will set.
///
/// Outside of tokio's budget: past it, a vertex that waits for very many inputs would poll all of them for every
/// hundred that it gets, which is quadratic.
async fn outcome<T: Clone>(outcome: &Outcome<T>) -> Result<T, SolveError> {
    tokio::task::unconstrained(outcome.wait()).await.clone()
}

impl Inner {
    /// One output of a vertex, made if it must be.
    pub(super) async fn result(self: &Arc<Self>, want: Want) -> Result<Option<Ref>, SolveError> {
        tokio::select! {
            made = self.made(want) => Ok(made?.result),
            // All tasks of the build end with it; whoever waits for them from outside must not.
            () = self.cancel.cancelled() => Err(SolveError::Cancelled),
        }
    }

    async fn made(self: &Arc<Self>, want: Want) -> Result<MadeOutput, SolveError> {
        let node = self.at(want.node);
        self.start_materialise(&node);
        let made = outcome(node.results()).await?;
        let result = made.results.get(want.output).cloned().ok_or_else(|| {
            node.error(WorkerError::Failed(format!(
                "the worker gave no output {}",
                want.output
            )))
        })?;
        Ok(MadeOutput {
            key: made.key,
            output: want.output,
            result,
        })
    }

    async fn identified(self: &Arc<Self>, node: &Arc<Node>) -> Result<Identified, SolveError> {
        self.start_identify(node);
        outcome(&node.identity).await
    }

    /// What a source stands for.
    pub(super) async fn resolved(
        self: &Arc<Self>,
        node: &Arc<Node>,
    ) -> Result<Option<Arc<ResolvedSource>>, SolveError> {
        tokio::select! {
            identified = self.identified(node) => Ok(identified?.resolved),
            () = self.cancel.cancelled() => Err(SolveError::Cancelled),
        }
    }

    fn start_materialise(self: &Arc<Self>, node: &Arc<Node>) {
        if !node.results_wanted.swap(true, Ordering::AcqRel) {
            let (inner, node) = (self.clone(), node.clone());
            self.spawn(async move {
                let outcome = inner.guard(&node, inner.materialise(&node)).await;
                // Only this task sets it.
                let _is_first = node.results().set(outcome);
            });
        }
    }

    /// Makes an error of a panic, so that nobody waits for an outcome that will not come.
    ///
    /// Not an async function: those keep room for each argument twice, and there is one of this for every task.
    fn guard<T>(
        &self,
        node: &Node,
        work: impl Future<Output = Result<T, SolveError>>,
    ) -> impl Future<Output = Result<T, SolveError>> {
        AssertUnwindSafe(work).catch_unwind().map(|outcome| {
            outcome.unwrap_or_else(|_| {
                let error = node.error(WorkerError::Failed("internal error: the solver panicked".to_owned()));
                self.report_failed(node, &error);
                Err(error)
            })
        })
    }
}
