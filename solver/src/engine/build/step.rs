//! Steps that are no vertices: looking an image up, say.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::progress::{Event, EventLog, VertexHeader, VertexProgress, VertexState};
use crate::session::SessionGroup;
use crate::worker::{CallContext, WorkerError};
use crate::{Digest, SolveError, VertexError};

impl Inner {
    /// Begins a step that is no vertex.
    pub(in crate::engine) fn step(&self, key: &str, name: &str) -> Step {
        let header = VertexHeader {
            digest: Digest::sha256(key.as_bytes()),
            inputs: Box::default(),
            name: name.into(),
            group: None,
        };
        let state = VertexState {
            started: Some(SystemTime::now()),
            ..VertexState::new(header)
        };
        self.events.push(Event::Vertex(state.clone()));
        Step {
            state,
            events: self.events.clone(),
            sessions: self.sessions.clone(),
            cancel: self.cancel.clone(),
        }
    }
}

/// A step that is no vertex.
///
/// Ends well with [`Step::finish`]; dropped before that, it is reported as cancelled.
pub struct Step {
    state: VertexState,
    events: Arc<EventLog>,
    sessions: SessionGroup,
    cancel: CancellationToken,
}

impl Step {
    /// What calls made as part of this step are given.
    pub fn context(&self) -> CallContext {
        CallContext {
            progress: VertexProgress::new(self.state.vertex.digest, self.events.clone()),
            sessions: self.sessions.clone(),
            cancel: self.cancel.clone(),
            trace: None,
        }
    }

    /// Reports how the step ended, and passes the outcome on as a vertex's.
    pub fn finish<T>(mut self, outcome: Result<T, WorkerError>) -> Result<T, SolveError> {
        self.state.completed = self.state.started.max(Some(SystemTime::now()));
        let outcome = outcome.map_err(|source| match source {
            WorkerError::Cancelled => SolveError::Cancelled,
            source => SolveError::Vertex(Arc::new(VertexError {
                vertex: self.state.vertex.digest,
                name: self.state.vertex.name.to_string(),
                source,
                places: Vec::new(),
                failed: None,
            })),
        });
        if let Err(error) = &outcome {
            self.state.error = error.to_string();
        }
        self.events.push(Event::Vertex(self.state.clone()));
        outcome
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.state.completed.is_none() {
            self.state.completed = self.state.started.max(Some(SystemTime::now()));
            self.state.error = SolveError::Cancelled.to_string();
            self.events.push(Event::Vertex(self.state.clone()));
        }
    }
}
