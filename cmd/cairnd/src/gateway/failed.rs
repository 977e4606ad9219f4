//! States in which steps failed, for whoever drives the build to look into.

use std::collections::HashMap;

use cairn_proto::pb;
use cairn_solver::FailedStep;
use cairn_solver::llb::Op;
use cairn_solver::worker::{FailedSubject, Ref};
use parking_lot::Mutex;

use super::forwarder::Forwarder;
use crate::failure::{Failure, Inspectable, Subject};

/// Most states of failed steps that one driver may name.
const MAX_STATES: usize = 4096;

/// The states by name. They are kept for as long as this lives, which is as long as the build.
#[derive(Default)]
pub(super) struct FailedStates(Mutex<HashMap<String, Ref>>);

impl FailedStates {
    /// The state of a name.
    pub(super) fn get(&self, id: &str) -> Option<Ref> {
        self.0.lock().get(id).cloned()
    }

    /// Names states; what is nothing has the empty name. `None` if there are too many.
    fn name(&self, worker: &str, states: &[Option<Ref>]) -> Option<Vec<String>> {
        let mut known = self.0.lock();
        if known.len().saturating_add(states.len()) > MAX_STATES {
            return None;
        }
        let names = states.iter().map(|state| match state {
            None => String::new(),
            Some(state) => {
                let id = format!("{worker}::{}", state.id());
                known.entry(id.clone()).or_insert_with(|| state.clone());
                id
            }
        });
        Some(names.collect())
    }
}

impl Forwarder {
    /// A failure as it is told to this driver: with the step that failed, and names under which it can look into that.
    pub(super) fn failure(&self, error: impl Into<Failure>) -> Failure {
        let mut failure = error.into();
        let step = failure.step().map(|step| self.inspectable(step));
        failure.attach_solve(&step.unwrap_or_default());
        failure
    }

    fn inspectable(&self, step: &FailedStep) -> Inspectable {
        let vertex = &step.vertex;
        let inputs = self.bridge.build().inputs_of(&vertex.digest);
        let inputs = inputs.into_iter().map(|(digest, index)| pb::Input {
            digest: digest.to_string(),
            index: i64::try_from(index).unwrap_or(i64::MAX),
        });
        let mut told = Inspectable {
            op: Some(pb::Op {
                inputs: inputs.collect(),
                ..vertex.to_wire()
            }),
            description: vertex
                .metadata
                .description
                .iter()
                .map(|(name, text)| (name.to_string(), text.to_string()))
                .collect(),
            ..Inspectable::default()
        };
        let Some(state) = &step.state else { return told };
        let worker = self.worker.info().id;
        let named = (
            self.failed.name(&worker, &state.inputs),
            self.failed.name(&worker, &state.left),
        );
        if let (Some(inputs), Some(mounts)) = named {
            (told.inputs, told.mounts) = (inputs, mounts);
            told.subject = match state.subject {
                FailedSubject::Whole => None,
                FailedSubject::Action(action) if matches!(vertex.op, Op::File(_)) => Some(Subject::File(action)),
                FailedSubject::Action(_) => None,
                FailedSubject::Content(input) => Some(Subject::Content(input)),
            };
        }
        told
    }
}
