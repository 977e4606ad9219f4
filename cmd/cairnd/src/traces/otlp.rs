//! Spans of clients on the wire.

use std::collections::HashSet;

use bytes::Bytes;
use cairn_proto::otlp::trace_service_server::TraceService;
use cairn_proto::otlp::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use cairn_proto::otlp_trace::any_value::Value as Any;
use cairn_proto::otlp_trace::{self as wire, KeyValue};
use jiff::Timestamp;
use opentelemetry::trace::{SpanId, TraceId};
use prost::{DecodeError, Message as _};
use tonic::{Request, Response, Status};

use super::collector::{Refused, Traces};
use super::span::{self, Attribute, Event, Link, Scope, Span, SpanContext, Value};

/// Longest encoding of one span, and of what is said of all spans of a process.
const MAX_PART: usize = 64 << 10;
/// Most attributes of a span, an event, a link or a process.
const MAX_ATTRIBUTES: usize = 64;
/// Most events of a span, and most links.
const MAX_EVENTS: usize = 64;
/// Most texts in a list.
const MAX_LIST: usize = 64;
/// Bits of a span's flags: it is recorded; it is said whether its parent is in another process; it is.
const SAMPLED: u32 = 1;
const REMOTE: u32 = 0x100 | 0x200;

/// Takes spans that clients send of builds: those of their own doing, at its end.
pub(crate) struct TraceReceiver(pub(crate) Traces);

#[tonic::async_trait]
impl TraceService for TraceReceiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (traces, request) = (self.0.clone(), request.into_inner());
        let collected = tokio::task::spawn_blocking(move || collect(&traces, request.resource_spans))
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let rejected =
            collected.map_err(|error| Status::invalid_argument(format!("failed to decode spans: {error}")))?;
        let partial_success = (rejected > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: rejected,
            error_message: "spans are too large, too many, or without valid ids".to_owned(),
        });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

/// Keeps the spans that belong to builds, and returns how many of these it had to refuse. What belongs to no build is
/// of no interest here: clients send spans of all that they do.
fn collect(traces: &Traces, resource_spans: Vec<Bytes>) -> Result<i64, DecodeError> {
    let mut rejected = 0;
    // Whatever else is sent of such a trace need not even be looked at.
    let mut full = HashSet::new();
    for resource_spans in resource_spans {
        let resource_spans = wire::ResourceSpans::decode(resource_spans)?;
        let resource = part::<wire::Resource>(resource_spans.resource)?.unwrap_or_default();
        let (resource, _) = attributes(resource.attributes);
        for scope_spans in resource_spans.scope_spans {
            let scope_spans = wire::ScopeSpans::decode(scope_spans)?;
            let scope = part::<wire::InstrumentationScope>(scope_spans.scope)?.unwrap_or_default();
            let scope = Scope {
                name: span::name(&scope.name),
                version: span::name(&scope.version),
                ..Scope::default()
            };
            for span in scope_spans.spans {
                let kept = match part::<wire::Span>(span)? {
                    Some(span) => keep(traces, &mut full, span, &resource, &scope),
                    None => Err(Refused::Full),
                };
                rejected += i64::from(kept == Err(Refused::Full));
            }
        }
    }
    Ok(rejected)
}

/// Decodes what is not too large.
fn part<T: prost::Message + Default>(encoded: Bytes) -> Result<Option<T>, DecodeError> {
    (encoded.len() <= MAX_PART).then(|| T::decode(encoded)).transpose()
}

fn keep(
    traces: &Traces,
    full: &mut HashSet<TraceId>,
    wire: wire::Span,
    resource: &[Attribute],
    scope: &Scope,
) -> Result<(), Refused> {
    let Some(context) = context(&wire.trace_id, &wire.span_id, wire.flags) else {
        return Err(Refused::Full);
    };
    if !traces.is_open(context.trace) {
        return Err(Refused::Unknown);
    }
    if full.contains(&context.trace) {
        return Err(Refused::Full);
    }
    let line = convert(wire, context, resource, scope).to_line();
    let kept = traces.add(context.trace, &line.map_err(|_| Refused::Full)?);
    if kept == Err(Refused::Full) {
        full.insert(context.trace);
    }
    kept
}

fn convert<'a>(wire: wire::Span, context: SpanContext, resource: &'a [Attribute], scope: &'a Scope) -> Span<'a> {
    let parent = SpanContext {
        remote: wire.flags & REMOTE == REMOTE,
        ..self::context(&wire.trace_id, &wire.parent_span_id, wire.flags).unwrap_or(SpanContext::NONE)
    };
    let (attributes, dropped_attributes) = self::attributes(wire.attributes);
    let (events, dropped_events) = first(wire.events, MAX_EVENTS);
    let (links, dropped_links) = first(wire.links, MAX_EVENTS);
    let start_time = timestamp(wire.start_time_unix_nano);
    let status = wire.status.unwrap_or_default();
    Span {
        name: span::name(&wire.name),
        span_context: context,
        parent,
        span_kind: wire.kind.clamp(0, 5),
        start_time,
        end_time: timestamp(wire.end_time_unix_nano).max(start_time),
        attributes,
        events: events.map(event).collect(),
        links: links.filter_map(link).collect(),
        // The two outcomes have each other's numbers on the wire and in Go.
        status: match status.code {
            1 => span::Status::ok(),
            2 => span::Status::failed(&status.message),
            _ => span::Status::default(),
        },
        dropped_attributes: dropped_attributes.saturating_add(wire.dropped_attributes_count),
        dropped_events: dropped_events.saturating_add(wire.dropped_events_count),
        dropped_links: dropped_links.saturating_add(wire.dropped_links_count),
        child_span_count: 0,
        resource,
        instrumentation_scope: scope,
        instrumentation_library: scope,
    }
}

fn event(wire: wire::SpanEvent) -> Event {
    let (attributes, dropped) = attributes(wire.attributes);
    Event {
        name: span::name(&wire.name),
        attributes,
        dropped_attribute_count: dropped.saturating_add(wire.dropped_attributes_count),
        time: timestamp(wire.time_unix_nano),
    }
}

fn link(wire: wire::SpanLink) -> Option<Link> {
    let (attributes, dropped) = attributes(wire.attributes);
    Some(Link {
        span_context: context(&wire.trace_id, &wire.span_id, wire.flags)?,
        attributes,
        dropped_attribute_count: dropped.saturating_add(wire.dropped_attributes_count),
    })
}

/// Both ids, if they are any.
fn context(trace: &[u8], span: &[u8], flags: u32) -> Option<SpanContext> {
    let trace = TraceId::from_bytes(trace.try_into().ok()?);
    let span = SpanId::from_bytes(span.try_into().ok()?);
    (trace != TraceId::INVALID && span != SpanId::INVALID).then(|| SpanContext {
        trace_flags: if flags & SAMPLED == 0 { "00" } else { "01" },
        ..SpanContext::of(trace, span)
    })
}

/// The attributes that can be kept, and how many cannot.
fn attributes(wire: Vec<KeyValue>) -> (Vec<Attribute>, u32) {
    let all = wire.len();
    let values = wire.into_iter().filter_map(|pair| {
        let value = value(pair.value?.value?)?;
        Some(Attribute::new(&pair.key, value))
    });
    let kept: Vec<Attribute> = values.take(MAX_ATTRIBUTES).collect();
    let dropped = u32::try_from(all - kept.len()).unwrap_or(u32::MAX);
    (kept, dropped)
}

fn value(any: Any) -> Option<Value> {
    Some(match any {
        Any::StringValue(text) => Value::String(span::told(&text)),
        Any::BoolValue(value) => Value::Bool(value),
        Any::IntValue(value) => Value::Int64(value),
        Any::DoubleValue(value) if value.is_finite() => Value::Float64(value),
        // JSON has no number for it.
        Any::DoubleValue(value) => Value::String(value.to_string()),
        Any::ArrayValue(list) => {
            let texts = list.values.into_iter().take(MAX_LIST);
            Value::StringSlice(texts.map(|any| text(any.value)).collect::<Option<_>>()?)
        }
    })
}

/// What stands in a list.
fn text(any: Option<Any>) -> Option<String> {
    match value(any?)? {
        Value::String(text) => Some(text),
        Value::Bool(value) => Some(value.to_string()),
        Value::Int64(value) => Some(value.to_string()),
        Value::Float64(value) => Some(value.to_string()),
        Value::StringSlice(_) => None,
    }
}

fn first<T>(all: Vec<T>, most: usize) -> (impl Iterator<Item = T>, u32) {
    let dropped = u32::try_from(all.len().saturating_sub(most)).unwrap_or(u32::MAX);
    (all.into_iter().take(most), dropped)
}

fn timestamp(nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Collects what these bytes are, and reads back what was kept of it.
///
/// # Panics
/// If that cannot be read, or is too much.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(data: &[u8]) {
    let traces = Traces::default();
    let trace = traces.open(super::Parent {
        trace: TraceId::from_bytes([7; 16]),
        span: None,
    });
    let Ok(request) = ExportTraceServiceRequest::decode(data) else {
        return;
    };
    // An error is an answer too; what was kept before it stays.
    let _outcome = collect(&traces, request.resource_spans);
    let lines = super::Solve::new(trace, super::Steps::default()).render(&Default::default());
    assert!(
        lines.len() <= super::collector::MAX_BYTES + MAX_PART,
        "{} bytes are kept",
        lines.len()
    );
    for span in serde_json::Deserializer::from_slice(&lines).into_iter::<serde_json::Value>() {
        let span = span.expect("a span in JSON");
        assert!(span["StartTime"].as_str() <= span["EndTime"].as_str(), "{span}");
    }
}

#[cfg(test)]
pub(crate) mod tests;
