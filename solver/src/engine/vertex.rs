//! The life of one vertex in one build.
//!
//! | module | part |
//! |---|---|
//! | `node` | what is kept about it |
//! | `identify`, `content` | its key, and what inputs add to it that count by their content |
//! | `materialise` | its results: found, or made |
//! | `record` | what is remembered of it |
//! | `follow` | work on it that builds share |
//! | `report` | what clients are told |
//!
//! Here is what ties them: one task for each of the two outcomes, started by the first who wants it.

mod content;
mod follow;
mod identify;
mod materialise;
mod node;
mod record;
mod report;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;

use self::node::{Identity, MadeOutput, Outcome};
use super::build::{Inner, Want};
use crate::SolveError;
use crate::worker::{Ref, WorkerError};

pub(super) use self::node::{Decision, Node};
pub(super) use self::record::clipped;

/// Waits for an outcome that some task will set.
async fn await_outcome<T: Clone>(outcome: &Outcome<T>) -> Result<T, SolveError> {
    let mut receiver = outcome.subscribe();
    let value = receiver
        .wait_for(Option::is_some)
        .await
        .map_err(|_| SolveError::Cancelled)?;
    value.clone().unwrap_or(Err(SolveError::Cancelled))
}

impl Inner {
    /// Waits for an outcome, or until the build is given up.
    ///
    /// Outside of tokio's budget: past it, a vertex that waits for very many inputs would poll all of them for every
    /// hundred that it gets, which is quadratic.
    async fn outcome<T: Clone>(&self, outcome: &Outcome<T>) -> Result<T, SolveError> {
        tokio::task::unconstrained(async {
            tokio::select! {
                outcome = await_outcome(outcome) => outcome,
                () = self.cancel.cancelled() => Err(SolveError::Cancelled),
            }
        })
        .await
    }

    /// One output of a vertex, made if it must be.
    pub(super) async fn result(self: &Arc<Self>, want: Want) -> Result<Option<Ref>, SolveError> {
        Ok(self.made(want).await?.result)
    }

    async fn made(self: &Arc<Self>, want: Want) -> Result<MadeOutput, SolveError> {
        let node = self.node(&want.vertex)?;
        self.start_materialise(&node);
        let made = self.outcome(&node.results).await?;
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

    async fn identity(self: &Arc<Self>, node: &Arc<Node>) -> Result<Identity, SolveError> {
        self.start_identify(node);
        self.outcome(&node.identity).await
    }

    fn start_materialise(self: &Arc<Self>, node: &Arc<Node>) {
        if !node.results_wanted.swap(true, Ordering::AcqRel) {
            let (inner, node) = (self.clone(), node.clone());
            self.spawn(async move {
                let outcome = inner.guard(&node, inner.materialise(&node)).await;
                node.results.send_replace(Some(outcome));
            });
        }
    }

    fn start_identify(self: &Arc<Self>, node: &Arc<Node>) {
        if !node.identity_wanted.swap(true, Ordering::AcqRel) {
            let (inner, node) = (self.clone(), node.clone());
            self.spawn(async move {
                let outcome = inner.guard(&node, inner.identify(&node)).await;
                node.identity.send_replace(Some(outcome));
            });
        }
    }

    /// Makes an error of a panic, so that nobody waits for an outcome that will not come.
    async fn guard<T>(&self, node: &Node, work: impl Future<Output = Result<T, SolveError>>) -> Result<T, SolveError> {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
            let error = node.error(WorkerError::Failed("internal error: the solver panicked".to_owned()));
            self.report_failed(node, &error);
            Err(error)
        })
    }
}
