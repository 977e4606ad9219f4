//! Spans of clients, for as long as somebody may want them.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_solver::TraceContext;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use parking_lot::Mutex;

use super::parent::Parent;

/// Most spans of clients in one trace.
pub(super) const MAX_SPANS: usize = 10_000;
/// Most bytes of them.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// Most bytes in all traces.
const MAX_TOTAL: usize = 32 << 20;

/// The traces of builds that run or ended a moment ago. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Traces(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    open: HashMap<TraceId, Collected>,
    /// Of all traces.
    bytes: usize,
}

#[derive(Default)]
struct Collected {
    /// Several builds can be in one trace.
    builds: usize,
    spans: usize,
    /// Lines, each a span.
    lines: Vec<u8>,
}

/// Why a span is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No build that anybody could ask for is in this trace.
    Unknown,
    /// There are too many already.
    Full,
}

impl Traces {
    /// Collects what clients send of the trace that a build belongs to.
    pub(crate) fn open(&self, parent: Parent) -> OpenTrace {
        self.0.lock().open.entry(parent.trace).or_default().builds += 1;
        OpenTrace {
            traces: self.clone(),
            parent,
            span: RandomIdGenerator::default().new_span_id(),
        }
    }

    /// Whether a build is in this trace.
    pub(super) fn is_open(&self, trace: TraceId) -> bool {
        self.0.lock().open.contains_key(&trace)
    }

    /// Keeps a span.
    pub(super) fn add(&self, trace: TraceId, line: &[u8]) -> Result<(), Refused> {
        let mut table = self.0.lock();
        let has_room = table.bytes + line.len() <= MAX_TOTAL;
        let collected = table.open.get_mut(&trace).ok_or(Refused::Unknown)?;
        if !has_room || collected.spans >= MAX_SPANS || collected.lines.len() + line.len() > MAX_BYTES {
            return Err(Refused::Full);
        }
        collected.spans += 1;
        collected.lines.extend_from_slice(line);
        table.bytes += line.len();
        Ok(())
    }
}

/// The trace of one build. What is collected for it goes when nobody has it any more.
pub(crate) struct OpenTrace {
    traces: Traces,
    pub(super) parent: Parent,
    /// The build's own span.
    pub(super) span: SpanId,
}

impl OpenTrace {
    /// The build's place, for what it starts.
    pub(crate) fn context(&self) -> TraceContext {
        TraceContext::new(self.parent.trace.to_bytes(), self.span.to_bytes())
    }

    /// The same, if the client traces the build. Where nobody does, steps find an environment that is always the same.
    pub(crate) fn of_client(&self) -> Option<TraceContext> {
        self.parent.span.map(|_| self.context())
    }

    /// What clients sent so far.
    pub(super) fn lines(&self) -> Vec<u8> {
        let table = self.traces.0.lock();
        table
            .open
            .get(&self.parent.trace)
            .map(|collected| collected.lines.clone())
            .unwrap_or_default()
    }
}

impl Drop for OpenTrace {
    fn drop(&mut self) {
        let mut table = self.traces.0.lock();
        let Some(collected) = table.open.get_mut(&self.parent.trace) else {
            return;
        };
        collected.builds -= 1;
        if collected.builds == 0 {
            let bytes = collected.lines.len();
            table.open.remove(&self.parent.trace);
            table.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(n: u64) -> Parent {
        Parent {
            trace: TraceId::from(u128::from(n) + 1),
            span: None,
        }
    }

    #[test]
    fn spans_are_kept_while_a_build_of_their_trace_is() {
        let traces = Traces::default();
        let known = parent(1);
        assert_eq!(traces.add(known.trace, b"a"), Err(Refused::Unknown));
        let (one, other) = (traces.open(known), traces.open(known));
        assert_ne!(one.span, other.span);
        traces.add(known.trace, b"a").unwrap();
        drop(one);
        traces.add(known.trace, b"b").unwrap();
        assert_eq!(other.lines(), b"ab");
        drop(other);
        assert_eq!(traces.add(known.trace, b"c"), Err(Refused::Unknown));
        assert_eq!(traces.0.lock().bytes, 0);
    }

    #[test]
    fn there_are_limits_to_each_trace_and_to_all() {
        let traces = Traces::default();
        let crowded = traces.open(parent(0));
        for _ in 0..MAX_SPANS {
            traces.add(parent(0).trace, b"x").unwrap();
        }
        assert_eq!(traces.add(parent(0).trace, b"x"), Err(Refused::Full));
        drop(crowded);

        let half = vec![b'x'; MAX_BYTES / 2];
        let large: Vec<OpenTrace> = (0..5).map(|n| traces.open(parent(n))).collect();
        for trace in &large[..4] {
            traces.add(trace.parent.trace, &half).unwrap();
            traces.add(trace.parent.trace, &half).unwrap();
            assert_eq!(traces.add(trace.parent.trace, b"x"), Err(Refused::Full));
        }
        let last = large[4].parent.trace;
        assert_eq!(traces.add(last, b"x"), Err(Refused::Full), "of all together");
        drop(large.into_iter().next());
        assert_eq!(traces.add(last, b"x"), Err(Refused::Unknown), "all were let go of");
        let last = traces.open(parent(4));
        traces.add(last.parent.trace, b"x").unwrap();
    }
}
