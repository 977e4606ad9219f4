//! Taking part in work that several builds share.

use std::sync::Arc;

use super::node::Node;
use crate::engine::Shared;
use crate::engine::build::Inner;
use crate::llb::VertexDigest;
use crate::progress::{Event, EventLog, VertexProgress};
use crate::worker::{CallContext, WorkerError};
use crate::{SessionGroup, SolveError};

impl Inner {
    /// Waits for shared work, passing on what it tells as news about `node`.
    pub(super) async fn follow<T>(
        &self,
        node: &Node,
        shared: &Shared,
        outcome: impl Future<Output = Result<Result<T, WorkerError>, crate::flight::Lost>>,
    ) -> Result<T, SolveError> {
        shared.sessions.join(&self.sessions);
        let mut reader = shared.events.reader();
        let mut outcome = std::pin::pin!(outcome);
        let outcome = loop {
            tokio::select! {
                biased;
                Some(events) = reader.next() => self.pass_on(node, events),
                outcome = &mut outcome => break outcome,
            }
        };
        while let Some(events) = reader.ready().await {
            self.pass_on(node, events);
        }
        match outcome {
            Ok(outcome) => outcome.map_err(|error| node.error(error)),
            Err(lost) => Err(node.error(WorkerError::Failed(format!("internal error: {lost}")))),
        }
    }

    fn pass_on(&self, node: &Node, events: Vec<Event>) {
        let digest = node.vertex.digest;
        for event in events {
            self.events.push(match event {
                Event::Status(_, status) => Event::Status(digest, status),
                Event::Log(_, log) => Event::Log(digest, log),
                Event::Warning(_, warning) => Event::Warning(Some(digest), warning),
                Event::Vertex(state) => Event::Vertex(state),
            });
        }
    }

    pub(super) fn shared(&self) -> Shared {
        let sessions = SessionGroup::default();
        sessions.join(&self.sessions);
        Shared {
            events: Arc::new(EventLog::new(self.engine.spools.clone())),
            sessions,
            slot: None,
            meter: None,
            trace: None,
        }
    }
}

impl Shared {
    pub(super) fn context(&self, vertex: VertexDigest, cancel: tokio_util::sync::CancellationToken) -> CallContext {
        CallContext {
            progress: VertexProgress::new(vertex, self.events.clone()),
            sessions: self.sessions.clone(),
            cancel,
            trace: self.trace,
        }
    }
}
