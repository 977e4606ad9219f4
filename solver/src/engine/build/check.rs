//! What a definition may ask of a build.

use std::collections::HashSet;

use super::{Entitlement, Inner};
use crate::SolveError;
use crate::llb::{Graph, NetMode, NodeIndex, Op, SecurityMode, Vertex};
use crate::worker::WorkerError;

/// Most worker constraints that differ, in one definition: each is parsed and may hold regular expressions.
const MAX_CONSTRAINTS: usize = 64;

/// Most devices that the steps of one definition get in all: a few words stand for all of a kind.
const MAX_DEVICES: usize = 100_000;

impl Inner {
    /// Checks that a graph's vertices are allowed, and that there is a worker for each; decides which devices they get.
    pub(in crate::engine) fn check(&self, graph: &mut Graph) -> Result<(), SolveError> {
        self.settle_devices(graph)?;
        let mut checked: HashSet<&[String]> = HashSet::new();
        for index in graph.topological() {
            let vertex = graph.vertex(index);
            self.check_allowed(vertex)?;
            let filter = &vertex.constraints[..];
            if filter.is_empty() || checked.contains(filter) {
                continue;
            }
            if checked.len() >= MAX_CONSTRAINTS {
                let message = format!("more than {MAX_CONSTRAINTS} different worker constraints in one definition");
                return Err(WorkerError::Invalid(message).into());
            }
            if !self.engine.worker.accepts(filter)? {
                return Err(SolveError::NoWorker {
                    name: graph.name(index).to_string(),
                    filter: filter.join(", "),
                });
            }
            checked.insert(filter);
        }
        Ok(())
    }

    /// Has every step that asks for devices ask for those that it gets, by their full names.
    fn settle_devices(&self, graph: &mut Graph) -> Result<(), SolveError> {
        let asks = |index: &NodeIndex| match &graph.vertex(*index).op {
            Op::Exec(exec) => !exec.devices.is_empty(),
            _ => false,
        };
        let asking: Vec<NodeIndex> = graph.topological().filter(asks).collect();
        if asking.is_empty() {
            return Ok(());
        }
        let known = self.engine.worker.devices()?;
        let granted = self.options.devices.among(known.as_deref());
        let mut count = 0;
        for index in asking {
            let Op::Exec(exec) = &graph.vertex(index).op else {
                continue;
            };
            let settled = granted
                .settle(&exec.devices, &graph.name(index))
                .map_err(|error| SolveError::NotAllowed(format!("failed to load LLB: {error}")))?;
            count += settled.len();
            if count > MAX_DEVICES {
                let message = format!("the steps of one definition ask for more than {MAX_DEVICES} devices in all");
                return Err(WorkerError::Invalid(message).into());
            }
            graph.set_devices(index, settled);
        }
        Ok(())
    }

    fn check_allowed(&self, vertex: &Vertex) -> Result<(), SolveError> {
        let Op::Exec(exec) = &vertex.op else {
            return Ok(());
        };
        let needs = [
            (exec.network == NetMode::Host).then_some(Entitlement::NetworkHost),
            (exec.security == SecurityMode::Insecure).then_some(Entitlement::SecurityInsecure),
        ];
        match needs
            .into_iter()
            .flatten()
            .find(|need| !self.options.entitlements.contains(need))
        {
            None => Ok(()),
            Some(need) => Err(SolveError::NotAllowed(format!(
                "failed to load LLB: {} is not allowed",
                need.name()
            ))),
        }
    }
}
