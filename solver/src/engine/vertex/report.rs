//! Telling how a vertex is doing.

use std::sync::Arc;
use std::time::SystemTime;

use super::node::Node;
use crate::SolveError;
use crate::engine::build::Inner;
use crate::llb::VertexDigest;
use crate::progress::Event;

impl Inner {
    pub(super) fn report_started(&self, node: &Node) {
        let mut state = node.state.lock();
        state.started = Some(SystemTime::now());
        state.completed = None;
        state.cached = false;
        self.events.push(Event::Vertex(state.clone()));
    }

    pub(super) fn report_completed(&self, node: &Node, error: Option<&SolveError>) {
        let mut state = node.state.lock();
        state.completed = state.started.max(Some(SystemTime::now()));
        state.error = error.map(ToString::to_string).unwrap_or_default();
        self.events.push(Event::Vertex(state.clone()));
    }

    /// Reports a failure of a vertex that may not have been started.
    pub(super) fn report_failed(&self, node: &Node, error: &SolveError) {
        let now = SystemTime::now();
        let mut state = node.state.lock();
        if state.started.is_none() || state.completed.is_some() {
            state.started = Some(now);
            state.cached = false;
        }
        state.completed = state.started.max(Some(now));
        state.error = error.to_string();
        self.events.push(Event::Vertex(state.clone()));
    }

    /// Reports a hit, and everything below it that has not been worked on: nothing of it is needed.
    pub(super) fn report_cached(&self, node: &Arc<Node>) {
        self.mark_cached(node);
        let mut pending: Vec<VertexDigest> = node.inputs.iter().map(|want| want.vertex).collect();
        while let Some(digest) = pending.pop() {
            let Ok(node) = self.node(&digest) else { continue };
            if node.is_unneeded() {
                self.mark_cached(&node);
                pending.extend(node.inputs.iter().map(|want| want.vertex));
            }
        }
    }

    fn mark_cached(&self, node: &Node) {
        let now = SystemTime::now();
        let mut state = node.state.lock();
        if state.cached {
            return;
        }
        state.cached = true;
        state.started = Some(now);
        state.completed = Some(now);
        self.events.push(Event::Vertex(state.clone()));
    }
}
