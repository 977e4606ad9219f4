use cairn_proto::otlp_trace::{AnyValue, ArrayValue, ResourceSpans, ScopeSpans, SpanEvent, SpanLink, SpanStatus};
use serde_json::Value as Json;

use super::*;
use crate::traces::{OpenTrace, Parent, Solve, Steps};

const TRACE: [u8; 16] = [7; 16];

pub(crate) fn request(spans: Vec<wire::Span>) -> Vec<Bytes> {
    let scope = wire::InstrumentationScope {
        name: "a/scope".to_owned(),
        version: "2".to_owned(),
    };
    let resource = wire::Resource {
        attributes: vec![pair("service.name", Some(Any::StringValue("client".to_owned())))],
    };
    let scope_spans = ScopeSpans {
        scope: scope.encode_to_vec().into(),
        spans: spans.iter().map(|span| span.encode_to_vec().into()).collect(),
    };
    let resource_spans = ResourceSpans {
        resource: resource.encode_to_vec().into(),
        scope_spans: vec![scope_spans.encode_to_vec().into()],
    };
    vec![resource_spans.encode_to_vec().into()]
}

pub(crate) fn span(name: &str) -> wire::Span {
    wire::Span {
        trace_id: Bytes::copy_from_slice(&TRACE),
        span_id: Bytes::from_static(&[1; 8]),
        name: name.to_owned(),
        kind: 3,
        start_time_unix_nano: 1_700_000_000_000_000_001,
        end_time_unix_nano: 1_700_000_001_000_000_000,
        ..wire::Span::default()
    }
}

fn pair(key: &str, value: Option<Any>) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value.map(|value| AnyValue { value: Some(value) }),
    }
}

fn list(values: Vec<Any>) -> Option<Any> {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) });
    Some(Any::ArrayValue(ArrayValue {
        values: values.collect(),
    }))
}

fn open(traces: &Traces) -> OpenTrace {
    traces.open(Parent {
        trace: TraceId::from_bytes(TRACE),
        span: None,
    })
}

/// The stored spans but the build's own.
fn stored(trace: OpenTrace) -> Vec<Json> {
    let lines = Solve::new(trace, Steps::default()).render(&Default::default());
    let spans = serde_json::Deserializer::from_slice(&lines)
        .into_iter()
        .map(Result::unwrap);
    spans.skip(1).collect()
}

#[test]
fn spans_of_clients_are_kept_as_they_are() {
    let traces = Traces::default();
    let trace = open(&traces);
    let full = wire::Span {
        parent_span_id: Bytes::from_static(&[2; 8]),
        flags: 0x301,
        attributes: vec![
            pair("text", Some(Any::StringValue("at https://me:secret@host/".to_owned()))),
            pair("yes", Some(Any::BoolValue(true))),
            pair("number", Some(Any::IntValue(i64::MIN))),
            pair("half", Some(Any::DoubleValue(0.5))),
            pair("no number", Some(Any::DoubleValue(f64::NAN))),
            pair(
                "list",
                list(vec![
                    Any::StringValue("a".to_owned()),
                    Any::IntValue(1),
                    Any::BoolValue(false),
                ]),
            ),
            pair("nested", list(vec![Any::ArrayValue(ArrayValue::default())])),
            pair("nothing", None),
        ],
        dropped_attributes_count: 1,
        events: vec![SpanEvent {
            time_unix_nano: 1_700_000_000_500_000_000,
            name: "halfway".to_owned(),
            attributes: vec![pair("a", Some(Any::BoolValue(true)))],
            dropped_attributes_count: 0,
        }],
        links: vec![
            SpanLink {
                trace_id: Bytes::copy_from_slice(&TRACE),
                span_id: Bytes::from_static(&[3; 8]),
                ..SpanLink::default()
            },
            SpanLink::default(),
        ],
        status: Some(SpanStatus {
            message: "it failed".to_owned(),
            code: 2,
        }),
        ..span("all of it")
    };
    let ended_early = wire::Span {
        end_time_unix_nano: 0,
        status: Some(SpanStatus {
            code: 1,
            ..SpanStatus::default()
        }),
        kind: 77,
        ..span("early")
    };
    assert_eq!(collect(&traces, request(vec![full, ended_early])), Ok(0));
    let spans = stored(trace);
    let [full, early] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&full["Name"], &full["SpanKind"]), (&"all of it".into(), &3.into()));
    assert_eq!(full["SpanContext"]["TraceID"], "07".repeat(16));
    assert_eq!(full["SpanContext"]["TraceFlags"], "01");
    assert_eq!(
        (&full["Parent"]["SpanID"], &full["Parent"]["Remote"]),
        (&"02".repeat(8).into(), &true.into())
    );
    assert_eq!(full["StartTime"], "2023-11-14T22:13:20.000000001Z");
    assert_eq!(full["Status"]["Code"], 1);
    assert_eq!(full["Links"].as_array().map(Vec::len), Some(1));
    assert_eq!(full["Events"][0]["Name"], "halfway");
    assert_eq!(full["DroppedAttributes"], 3, "one before, two that clients cannot read");
    assert_eq!(full["Resource"][0]["Value"]["Value"], "client");
    assert_eq!(full["InstrumentationLibrary"]["Name"], "a/scope");
    let values: Vec<String> = full["Attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attribute| {
            format!(
                "{}={}",
                attribute["Value"]["Type"].as_str().unwrap(),
                attribute["Value"]["Value"]
            )
        })
        .collect();
    let want = [
        r#"STRING="at https://xxxxx@host/""#,
        "BOOL=true",
        "INT64=-9223372036854775808",
        "FLOAT64=0.5",
        r#"STRING="NaN""#,
        r#"STRINGSLICE=["a","1","false"]"#,
    ];
    assert_eq!(values, want);
    assert_eq!((&early["Status"]["Code"], &early["SpanKind"]), (&2.into(), &5.into()));
    assert_eq!(early["EndTime"], early["StartTime"]);
    assert_eq!(early["Parent"]["SpanID"], "0".repeat(16));
}

#[test]
fn spans_of_no_build_are_dropped_and_wrong_ones_refused() {
    let traces = Traces::default();
    assert_eq!(collect(&traces, request(vec![span("early")])), Ok(0));
    let trace = open(&traces);
    let other = wire::Span {
        trace_id: Bytes::from_static(&[8; 16]),
        ..span("of another")
    };
    assert_eq!(collect(&traces, request(vec![other])), Ok(0), "that is no mistake");
    let wrong = vec![
        wire::Span {
            trace_id: Bytes::from_static(&[7; 15]),
            ..span("short")
        },
        wire::Span {
            span_id: Bytes::from_static(&[0; 8]),
            ..span("none")
        },
        span(&"x".repeat(MAX_PART)),
    ];
    assert_eq!(collect(&traces, request(wrong)), Ok(3));
    assert!(collect(&traces, vec![Bytes::from_static(b"\x0a\xff")]).is_err());
    assert!(stored(trace).is_empty());
}

#[test]
fn spans_are_bounded() {
    let traces = Traces::default();
    let trace = open(&traces);
    let attributes: Vec<KeyValue> = (0..200)
        .map(|n| pair(&n.to_string(), Some(Any::StringValue("x".repeat(200)))))
        .collect();
    let event = SpanEvent {
        attributes: attributes[..1].to_vec(),
        ..SpanEvent::default()
    };
    let large = wire::Span {
        attributes,
        events: vec![event; 70],
        links: vec![SpanLink::default(); 70],
        ..span("large")
    };
    let long = wire::Span {
        attributes: vec![pair("key", Some(Any::StringValue("x".repeat(20_000))))],
        ..span(&"y".repeat(20_000))
    };
    assert_eq!(collect(&traces, request(vec![large, long])), Ok(0));
    let spans = stored(trace);
    assert_eq!(spans[0]["Attributes"].as_array().map(Vec::len), Some(MAX_ATTRIBUTES));
    assert_eq!(spans[0]["DroppedAttributes"], 200 - MAX_ATTRIBUTES);
    assert_eq!(spans[0]["Events"].as_array().map(Vec::len), Some(MAX_EVENTS));
    assert_eq!(
        (&spans[0]["DroppedEvents"], &spans[0]["DroppedLinks"]),
        (&6.into(), &6.into())
    );
    assert!(spans[1].to_string().len() < 10_000);

    let trace = open(&traces);
    let many = vec![span("one of many"); 1_000];
    let refused: i64 = (0..11).map(|_| collect(&traces, request(many.clone())).unwrap()).sum();
    let kept = stored(trace).len();
    assert!(
        refused > 0 && kept + usize::try_from(refused).unwrap() == 11_000,
        "{kept} and {refused}"
    );
}
