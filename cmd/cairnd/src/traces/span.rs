//! One span, as it is stored: the JSON into which OpenTelemetry's Go library turns its finished spans.
//!
//! Clients decode it strictly, and some of them end when a value is not what its type says. So only those types of
//! values are written that all of them can read: lists of anything but texts are not among them.

use jiff::Timestamp;
use opentelemetry::trace::{SpanId, TraceId};
use serde::{Serialize, Serializer};

/// Longest name of a span or event, and longest key, in bytes.
const MAX_NAME: usize = 1 << 10;
/// Longest text in a value or a status, in bytes.
const MAX_TEXT: usize = 4 << 10;

/// A span. Fields are what OpenTelemetry says of them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Span<'a> {
    pub(super) name: String,
    pub(super) span_context: SpanContext,
    pub(super) parent: SpanContext,
    pub(super) span_kind: i32,
    pub(super) start_time: Timestamp,
    pub(super) end_time: Timestamp,
    pub(super) attributes: Vec<Attribute>,
    pub(super) events: Vec<Event>,
    pub(super) links: Vec<Link>,
    pub(super) status: Status,
    pub(super) dropped_attributes: u32,
    pub(super) dropped_events: u32,
    pub(super) dropped_links: u32,
    pub(super) child_span_count: u32,
    pub(super) resource: &'a [Attribute],
    pub(super) instrumentation_scope: &'a Scope,
    /// An older name of the scope, which is the one that clients read.
    pub(super) instrumentation_library: &'a Scope,
}

/// Kinds of spans that the daemon makes.
pub(super) const KIND_INTERNAL: i32 = 1;
pub(super) const KIND_SERVER: i32 = 2;

/// Which span of which trace.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SpanContext {
    #[serde(rename = "TraceID", serialize_with = "text")]
    pub(super) trace: TraceId,
    #[serde(rename = "SpanID", serialize_with = "text")]
    pub(super) span: SpanId,
    pub(super) trace_flags: &'static str,
    pub(super) trace_state: &'static str,
    pub(super) remote: bool,
}

impl SpanContext {
    /// What stands for no span.
    pub(super) const NONE: Self = Self {
        trace: TraceId::INVALID,
        span: SpanId::INVALID,
        trace_flags: "00",
        trace_state: "",
        remote: false,
    };

    /// A span that is recorded.
    pub(super) fn of(trace: TraceId, span: SpanId) -> Self {
        Self {
            trace,
            span,
            trace_flags: "01",
            ..Self::NONE
        }
    }
}

/// A key and its value.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attribute {
    key: String,
    value: Value,
}

impl Attribute {
    pub(super) fn new(key: &str, value: impl Into<Value>) -> Self {
        Self {
            key: clipped(key, MAX_NAME),
            value: value.into(),
        }
    }
}

/// A value with its type.
#[derive(Serialize)]
#[serde(tag = "Type", content = "Value", rename_all = "UPPERCASE")]
pub(super) enum Value {
    String(String),
    Bool(bool),
    Int64(i64),
    Float64(f64),
    StringSlice(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(told(text))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Something that happened in a span.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) attributes: Vec<Attribute>,
    pub(super) dropped_attribute_count: u32,
    pub(super) time: Timestamp,
}

/// Another span that a span has to do with.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Link {
    pub(super) span_context: SpanContext,
    pub(super) attributes: Vec<Attribute>,
    pub(super) dropped_attribute_count: u32,
}

/// How a span ended.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Status {
    code: u32,
    description: String,
}

impl Status {
    /// It is said that it went well; of most spans, nothing is said.
    pub(super) fn ok() -> Self {
        Self {
            code: 2,
            ..Self::default()
        }
    }

    pub(super) fn failed(why: &str) -> Self {
        Self {
            code: 1,
            description: told(why),
        }
    }
}

/// What made a span.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Scope {
    pub(super) name: String,
    pub(super) version: String,
    #[serde(rename = "SchemaURL")]
    pub(super) schema_url: &'static str,
    pub(super) attributes: NoAttributes,
}

/// An empty object.
#[derive(Default, Serialize)]
pub(super) struct NoAttributes {}

impl Span<'_> {
    /// The line that stands for it.
    pub(super) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

fn text<S: Serializer>(id: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// A name without passwords, of bounded length.
pub(super) fn name(text: &str) -> String {
    clipped(&crate::history::conceal(&clipped(text, MAX_TEXT)), MAX_NAME)
}

/// A text without passwords, of bounded length.
pub(super) fn told(text: &str) -> String {
    clipped(&crate::history::conceal(&clipped(text, 2 * MAX_TEXT)), MAX_TEXT)
}

fn clipped(text: &str, most: usize) -> String {
    let most = most.min(text.len());
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_as_go_writes_it() {
        let at = |nanos: i128| Timestamp::from_nanosecond(1_795_332_280_018_203_544 + nanos).unwrap();
        let trace = TraceId::from_bytes(*b"0123456789abcdef");
        let scope = Scope {
            name: "made/by".to_owned(),
            version: "1".to_owned(),
            ..Scope::default()
        };
        let span = Span {
            name: "[2/3] RUN echo \"hello\"".to_owned(),
            span_context: SpanContext::of(trace, SpanId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7])),
            parent: SpanContext::NONE,
            span_kind: KIND_SERVER,
            start_time: at(0),
            end_time: at(981_796_456),
            attributes: vec![
                Attribute::new("text", "at https://me:secret@example.com/"),
                Attribute::new("yes", true),
                Attribute::new("number", Value::Int64(-7)),
                Attribute::new("half", Value::Float64(0.5)),
                Attribute::new("list", Value::StringSlice(vec!["a".to_owned()])),
            ],
            events: vec![Event {
                name: "begun".to_owned(),
                attributes: Vec::new(),
                dropped_attribute_count: 1,
                time: at(1),
            }],
            links: vec![Link {
                span_context: SpanContext::of(trace, SpanId::INVALID),
                attributes: Vec::new(),
                dropped_attribute_count: 0,
            }],
            status: Status::failed("exit code: 1"),
            dropped_attributes: 2,
            dropped_events: 3,
            dropped_links: 4,
            child_span_count: 0,
            resource: &[Attribute::new("service.name", "cairnd")],
            instrumentation_scope: &scope,
            instrumentation_library: &scope,
        };
        let line = String::from_utf8(span.to_line().unwrap()).unwrap();
        let want = concat!(
            r#"{"Name":"[2/3] RUN echo \"hello\"","#,
            r#""SpanContext":{"TraceID":"30313233343536373839616263646566","SpanID":"0001020304050607","#,
            r#""TraceFlags":"01","TraceState":"","Remote":false},"#,
            r#""Parent":{"TraceID":"00000000000000000000000000000000","SpanID":"0000000000000000","#,
            r#""TraceFlags":"00","TraceState":"","Remote":false},"#,
            r#""SpanKind":2,"StartTime":"2026-11-22T07:24:40.018203544Z","EndTime":"2026-11-22T07:24:41Z","#,
            r#""Attributes":[{"Key":"text","Value":{"Type":"STRING","Value":"at https://xxxxx@example.com/"}},"#,
            r#"{"Key":"yes","Value":{"Type":"BOOL","Value":true}},"#,
            r#"{"Key":"number","Value":{"Type":"INT64","Value":-7}},"#,
            r#"{"Key":"half","Value":{"Type":"FLOAT64","Value":0.5}},"#,
            r#"{"Key":"list","Value":{"Type":"STRINGSLICE","Value":["a"]}}],"#,
            r#""Events":[{"Name":"begun","Attributes":[],"DroppedAttributeCount":1,"#,
            r#""Time":"2026-11-22T07:24:40.018203545Z"}],"#,
            r#""Links":[{"SpanContext":{"TraceID":"30313233343536373839616263646566","SpanID":"0000000000000000","#,
            r#""TraceFlags":"01","TraceState":"","Remote":false},"Attributes":[],"DroppedAttributeCount":0}],"#,
            r#""Status":{"Code":1,"Description":"exit code: 1"},"#,
            r#""DroppedAttributes":2,"DroppedEvents":3,"DroppedLinks":4,"ChildSpanCount":0,"#,
            r#""Resource":[{"Key":"service.name","Value":{"Type":"STRING","Value":"cairnd"}}],"#,
            r#""InstrumentationScope":{"Name":"made/by","Version":"1","SchemaURL":"","Attributes":{}},"#,
            r#""InstrumentationLibrary":{"Name":"made/by","Version":"1","SchemaURL":"","Attributes":{}}}"#,
            "\n"
        );
        assert_eq!(line, want);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "ä".repeat(MAX_TEXT);
        assert_eq!(told(&long).len(), MAX_TEXT);
        assert_eq!(name(&format!("x{long}")).len(), MAX_NAME - 1);
    }
}
