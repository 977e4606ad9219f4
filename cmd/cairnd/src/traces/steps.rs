//! The spans of a build, made from what it told.

use std::collections::BTreeMap;
use std::time::SystemTime;

use cairn_proto::control::BuildHistoryRecord;
use cairn_solver::llb::VertexDigest;
use cairn_solver::progress::{Event, Status as Action, VertexState};
use jiff::Timestamp;
use opentelemetry::trace::SpanId;

use super::collector::OpenTrace;
use super::span::{self, Attribute, KIND_INTERNAL, KIND_SERVER, Scope, Span, SpanContext, Status, Value};

/// Most runs of steps of one build that become spans, and most actions.
const MAX_RUNS: usize = 5_000;
/// Most bytes of the spans of a build's steps.
const MAX_BYTES: usize = 16 << 20;
/// Most inputs of a step that its span names.
const MAX_INPUTS: usize = 64;
/// The call that is a build.
const SOLVE: &str = "moby.buildkit.v1.Control/Solve";

/// When each step of a build ran, and each action in it.
#[derive(Default)]
pub(crate) struct Steps {
    /// By the beginning: a step may run more than once, first to be identified and then for its result.
    runs: BTreeMap<(VertexDigest, SystemTime), VertexState>,
    /// Those that have ended.
    actions: BTreeMap<(VertexDigest, SystemTime, String), SystemTime>,
    left_out: usize,
}

impl Steps {
    /// Notes what an event says about times.
    pub(crate) fn add(&mut self, event: &Event) {
        match event {
            Event::Vertex(state) => {
                let Some(started) = state.started else { return };
                self.add_run((state.vertex.digest, started), state);
            }
            Event::Status(vertex, action) => self.add_action(*vertex, action),
            Event::Log(..) | Event::Warning(..) => {}
        }
    }

    fn add_run(&mut self, key: (VertexDigest, SystemTime), state: &VertexState) {
        if let Some(known) = self.runs.get_mut(&key) {
            known.clone_from(state);
        } else if self.runs.len() < MAX_RUNS {
            self.runs.insert(key, state.clone());
        } else if state.completed.is_some() {
            self.left_out += 1;
        }
    }

    fn add_action(&mut self, vertex: VertexDigest, action: &Action) {
        let (Some(started), Some(completed)) = (action.started, action.completed) else {
            return;
        };
        if self.actions.len() < MAX_RUNS {
            self.actions.insert((vertex, started, action.id.clone()), completed);
        } else {
            self.left_out += 1;
        }
    }

    /// The run in which something began.
    fn run_at(&self, vertex: VertexDigest, at: SystemTime) -> Option<SystemTime> {
        let before = self.runs.range((vertex, SystemTime::UNIX_EPOCH)..=(vertex, at));
        before.map(|((_, started), _)| *started).next_back()
    }
}

/// A build that has ended, with its steps and its trace.
pub(crate) struct Solve {
    trace: OpenTrace,
    steps: Steps,
}

impl Solve {
    pub(crate) fn new(trace: OpenTrace, steps: Steps) -> Self {
        Self { trace, steps }
    }

    /// All spans that there are of the build by now, as they are stored.
    pub(crate) fn render(&self, record: &BuildHistoryRecord) -> Vec<u8> {
        let mut lines = self.own(record, env!("CARGO_PKG_VERSION"));
        lines.extend(self.trace.lines());
        lines
    }

    /// The daemon's own ones.
    fn own(&self, record: &BuildHistoryRecord, version: &str) -> Vec<u8> {
        let resource = [
            Attribute::new("service.name", "cairnd"),
            Attribute::new("service.version", version),
        ];
        let scope = Scope {
            name: "cairnd".to_owned(),
            version: version.to_owned(),
            ..Scope::default()
        };
        let pen = Pen {
            trace: &self.trace,
            resource: &resource,
            scope: &scope,
        };
        let mut build = self.build(&pen, record);
        let ended = build.end_time;
        let runs = self.steps.runs.iter().map(|((vertex, started), state)| {
            let span = pen.run(vertex, *started);
            let mut made = pen.span(span, self.trace.span, &state.vertex.name, *started, ended);
            made.end_time = state.completed.map_or(ended, timestamp).max(made.start_time);
            made.attributes = about(state);
            if !state.error.is_empty() {
                made.status = Status::failed(&state.error);
            }
            made
        });
        let actions = self.steps.actions.iter().map(|((vertex, started, id), completed)| {
            let span = SpanId::from_bytes(self.trace.context().action(vertex, *started, id).span());
            let run = self.steps.run_at(*vertex, *started);
            let parent = run.map_or(self.trace.span, |run| pen.run(vertex, run));
            let mut made = pen.span(span, parent, id, *started, timestamp(*completed));
            made.attributes = vec![Attribute::new("vertex", vertex.to_string().as_str())];
            made
        });
        let mut lines = Vec::new();
        let mut left_out = self.steps.left_out;
        for span in runs.chain(actions) {
            match span.to_line() {
                Ok(line) if lines.len() + line.len() <= MAX_BYTES => lines.extend(line),
                _ => left_out += 1,
            }
        }
        if left_out > 0 {
            let left_out = i64::try_from(left_out).unwrap_or(i64::MAX);
            build
                .attributes
                .push(Attribute::new("build.spans_left_out", Value::Int64(left_out)));
        }
        let build = build.to_line().unwrap_or_default();
        [build, lines].concat()
    }

    fn build<'a>(&self, pen: &Pen<'a>, record: &BuildHistoryRecord) -> Span<'a> {
        let time = |time: Option<prost_types::Timestamp>| {
            time.and_then(|time| SystemTime::try_from(time).ok())
                .unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let (started, ended) = (time(record.created_at), timestamp(time(record.completed_at)));
        let mut build = pen.span(self.trace.span, SpanId::INVALID, SOLVE, started, ended);
        build.span_kind = KIND_SERVER;
        build.parent = match self.trace.parent.span {
            Some(span) => SpanContext {
                remote: true,
                ..SpanContext::of(self.trace.parent.trace, span)
            },
            None => SpanContext::NONE,
        };
        build.attributes = vec![
            Attribute::new("rpc.system.name", "grpc"),
            Attribute::new("rpc.method", SOLVE),
            Attribute::new("build.ref", record.r#ref.as_str()),
        ];
        if !record.frontend.is_empty() {
            build
                .attributes
                .push(Attribute::new("build.frontend", record.frontend.as_str()));
        }
        if let Some(error) = &record.error {
            build.status = Status::failed(&error.message);
        }
        build
    }
}

/// What all spans of one build have in common.
struct Pen<'a> {
    trace: &'a OpenTrace,
    resource: &'a [Attribute],
    scope: &'a Scope,
}

impl<'a> Pen<'a> {
    fn span(&self, id: SpanId, parent: SpanId, name: &str, started: SystemTime, ended: Timestamp) -> Span<'a> {
        let trace = self.trace.parent.trace;
        let start_time = timestamp(started);
        Span {
            name: span::name(name),
            span_context: SpanContext::of(trace, id),
            parent: SpanContext::of(trace, parent),
            span_kind: KIND_INTERNAL,
            start_time,
            // Clocks may be set back; a client counts without sign.
            end_time: ended.max(start_time),
            attributes: Vec::new(),
            events: Vec::new(),
            links: Vec::new(),
            status: Status::default(),
            dropped_attributes: 0,
            dropped_events: 0,
            dropped_links: 0,
            child_span_count: 0,
            resource: self.resource,
            instrumentation_scope: self.scope,
            instrumentation_library: self.scope,
        }
    }

    /// The span of a run of a step, as its process was told of it.
    fn run(&self, vertex: &VertexDigest, started: SystemTime) -> SpanId {
        SpanId::from_bytes(self.trace.context().run(vertex, started).span())
    }
}

/// What there is to say of a run.
fn about(state: &VertexState) -> Vec<Attribute> {
    let mut attributes = vec![
        Attribute::new("vertex", state.vertex.digest.to_string().as_str()),
        Attribute::new("vertex.cached", state.cached),
    ];
    if !state.vertex.inputs.is_empty() {
        let inputs = state.vertex.inputs.iter().take(MAX_INPUTS);
        let inputs = Value::StringSlice(inputs.map(ToString::to_string).collect());
        attributes.push(Attribute::new("vertex.inputs", inputs));
    }
    attributes
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
