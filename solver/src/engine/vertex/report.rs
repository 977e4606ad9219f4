//! Telling how a vertex is doing.

use std::sync::Arc;
use std::time::SystemTime;

use super::node::Node;
use crate::engine::build::Inner;
use crate::progress::{Event, VertexState};
use crate::worker::{NO_CONTENT, NO_KEY};
use crate::{SolveError, TraceContext};

impl Inner {
    pub(super) fn report_started(&self, node: &Node) {
        let mut state = node.state.lock();
        state.started = Some(SystemTime::now());
        state.completed = None;
        state.cached = false;
        self.events.push(Event::Vertex(state.clone()));
    }

    /// The run of a vertex that was reported last, as a place in the trace of the build.
    pub(super) fn run_in_trace(&self, node: &Node) -> Option<TraceContext> {
        let started = node.state.lock().started?;
        let build = self.options.trace?;
        Some(build.run(&node.vertex.digest, started))
    }

    pub(super) fn report_completed(&self, node: &Node, error: Option<&SolveError>) {
        let mut state = node.state.lock();
        state.completed = state.started.max(Some(SystemTime::now()));
        state.error = error.map(told).unwrap_or_default();
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
        state.error = told(error);
        self.events.push(Event::Vertex(state.clone()));
    }

    /// Reports a hit, and everything below it that has not been worked on: nothing of it is needed.
    pub(super) fn report_cached(&self, node: &Arc<Node>) {
        let now = SystemTime::now();
        let mut news = Vec::new();
        let mut pending = vec![node.clone()];
        while let Some(node) = pending.pop() {
            if let Some(state) = node.mark_cached(now) {
                news.push(Event::Vertex(state));
                let below = node.inputs.iter().chain(node.nested.get().map(|want| &**want));
                let inputs = below.map(|want| self.at(want.node));
                pending.extend(inputs.filter(|input| input.is_unneeded()));
            }
        }
        self.events.push_all(news);
    }
}

/// What a vertex says of its failure: not for what it was needed.
fn told(error: &SolveError) -> String {
    let text = error.to_string();
    let needless = [NO_KEY, NO_CONTENT];
    match needless.iter().find_map(|words| text.strip_prefix(words)) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

impl Node {
    /// Notes that it was known; `None` if that is no news.
    fn mark_cached(&self, now: SystemTime) -> Option<VertexState> {
        let mut state = self.state.lock();
        if state.cached {
            return None;
        }
        state.cached = true;
        state.started = Some(now);
        state.completed = Some(now);
        Some(state.clone())
    }
}
