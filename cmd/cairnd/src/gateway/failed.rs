//! States in which steps failed, for whoever drives the build to look into.

use std::collections::HashMap;

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
    /// A failure as it is told to this driver: with names under which it can look into the step that failed.
    pub(super) fn failure(&self, error: impl Into<Failure>) -> Failure {
        let mut failure = error.into();
        if let Some(inspectable) = self.inspectable(&failure) {
            failure.attach_solve(&inspectable);
        }
        failure
    }

    fn inspectable(&self, failure: &Failure) -> Option<Inspectable> {
        let step = failure.step()?;
        let worker = self.worker.info().id;
        let (vertex, state) = (&step.vertex, &step.state);
        Some(Inspectable {
            inputs: self.failed.name(&worker, &state.inputs)?,
            mounts: self.failed.name(&worker, &state.left)?,
            op: vertex.to_wire(),
            subject: match state.subject {
                FailedSubject::Whole => None,
                FailedSubject::Action(action) if matches!(vertex.op, Op::File(_)) => Some(Subject::File(action)),
                FailedSubject::Action(_) => None,
                FailedSubject::Content(input) => Some(Subject::Content(input)),
            },
        })
    }
}
