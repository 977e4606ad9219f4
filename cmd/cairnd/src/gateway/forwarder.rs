//! One driver of a build, as the gateway sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_proto::control::CacheOptionsEntry;
use cairn_solver::llb::Definition;
use cairn_solver::{Bridge as _, BridgeRef, BuildBridge, FrontendRefs, FrontendRequest, FrontendResult};
use cairn_worker::service::WorkerService;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use super::containers::Containers;
use super::failed::FailedStates;
use super::wire;
use crate::failure::Failure;
use crate::{caches, policy};

/// Where the answer of a driver arrives.
pub(crate) type Answer = oneshot::Receiver<Result<FrontendResult, Failure>>;

/// Whoever drives a build through the gateway, a client or a frontend: what belongs to it, and nobody else.
pub(crate) struct Forwarder {
    /// Names the results that it can see.
    pub(crate) bridge: Arc<BuildBridge>,
    pub(crate) worker: Arc<dyn WorkerService>,
    /// Definitions given to it by name.
    pub(crate) inputs: BTreeMap<String, Definition>,
    pub(super) containers: Containers,
    /// Failed steps that it can look into.
    pub(super) failed: FailedStates,
    /// Where its answer goes, once.
    answer: Mutex<Option<oneshot::Sender<Result<FrontendResult, Failure>>>>,
}

impl Forwarder {
    /// A driver on `bridge`, and what it will come to.
    pub(crate) fn new(
        bridge: Arc<BuildBridge>,
        inputs: BTreeMap<String, Definition>,
        worker: Arc<dyn WorkerService>,
    ) -> (Arc<Self>, Answer) {
        let (sender, answer) = oneshot::channel();
        let forwarder = Self {
            bridge,
            worker,
            inputs,
            containers: Containers::default(),
            failed: FailedStates::default(),
            answer: Mutex::new(Some(sender)),
        };
        (Arc::new(forwarder), answer)
    }

    /// Takes what the driver came to.
    pub(super) fn answer(&self, outcome: Result<FrontendResult, Failure>) -> Result<(), Failure> {
        let sender = self.answer.lock().take();
        let sender = sender.ok_or_else(|| Failure::unknown("gateway result is already set"))?;
        // A build that is over already needs no answer.
        drop(sender.send(outcome));
        Ok(())
    }

    /// The result called `id`; an empty id is scratch.
    pub(super) fn find(&self, id: &str) -> Result<Option<BridgeRef>, Status> {
        if id.is_empty() {
            return Ok(None);
        }
        let found = self.bridge.find(id);
        found
            .map(Some)
            .ok_or_else(|| Status::unknown(format!("no such ref: {id}")))
    }

    /// The result called `id`, which must not be scratch.
    pub(super) fn required(&self, id: &str) -> Result<BridgeRef, Status> {
        self.find(id)?.ok_or_else(|| Status::unknown("empty ref: "))
    }

    /// Carries out a Solve call.
    pub(super) async fn solve(&self, request: wire::SolveRequest) -> Result<FrontendResult, Failure> {
        let policies = policy::from_wire(request.source_policies).await?;
        let bridge = self.bridge.under(&policies);
        // Clients name them here too; those that the build imports already are not imported again. A frontend that is
        // called is told by its options, and says itself what it wants to have.
        let imports = if request.frontend.is_empty() {
            request.cache_imports
        } else {
            Vec::new()
        };
        let imports = imports.into_iter().map(|entry| CacheOptionsEntry {
            r#type: entry.r#type,
            attrs: entry.attrs,
        });
        let imports: Vec<CacheOptionsEntry> = imports.collect();
        caches::import(self.bridge.build(), self.worker.as_ref(), &imports);
        let result = match (request.definition, request.frontend.as_str()) {
            (Some(_), frontend) if !frontend.is_empty() => {
                return Err(Failure::unknown(
                    "cannot solve with both Definition and Frontend specified",
                ));
            }
            (Some(definition), _) => FrontendResult {
                refs: FrontendRefs::Single(bridge.solve(Definition::from_wire(definition)).await?),
                ..FrontendResult::default()
            },
            (None, "") => FrontendResult::default(),
            (None, frontend) => {
                let inputs = request.frontend_inputs.into_iter();
                let request = FrontendRequest {
                    options: request.frontend_opt,
                    inputs: inputs
                        .map(|(name, definition)| (name, Definition::from_wire(definition)))
                        .collect(),
                };
                bridge.solve_frontend(frontend, request).await?
            }
        };
        if request.evaluate {
            try_join_all(result.refs.iter().map(|reference| self.bridge.evaluate(reference))).await?;
        }
        Ok(result)
    }
}
