use std::time::Duration;

use cairn_proto::rpc;
use cairn_solver::progress::VertexHeader;
use opentelemetry::trace::TraceId;
use serde_json::Value as Json;

use super::*;
use crate::traces::{Parent, Traces};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn vertex(name: &str, inputs: &[&str], started: u64, completed: Option<u64>) -> VertexState {
    VertexState {
        started: Some(at(started)),
        completed: completed.map(at),
        ..VertexState::new(VertexHeader {
            digest: VertexDigest::sha256(name.as_bytes()),
            inputs: inputs
                .iter()
                .map(|name| VertexDigest::sha256(name.as_bytes()))
                .collect(),
            name: name.into(),
            group: None,
        })
    }
}

fn action(vertex: &str, id: &str, started: u64, completed: Option<u64>) -> Event {
    let action = Action {
        id: id.to_owned(),
        name: String::new(),
        current: 0,
        total: 0,
        timestamp: at(started),
        started: Some(at(started)),
        completed: completed.map(at),
    };
    Event::Status(VertexDigest::sha256(vertex.as_bytes()), Box::new(action))
}

fn record() -> BuildHistoryRecord {
    BuildHistoryRecord {
        r#ref: "abc".to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        created_at: Some(crate::convert::timestamp(at(0))),
        completed_at: Some(crate::convert::timestamp(at(60))),
        ..BuildHistoryRecord::default()
    }
}

fn solve(parent: Option<u64>, events: &[Event]) -> Solve {
    let parent = Parent {
        trace: TraceId::from(7),
        span: parent.map(SpanId::from),
    };
    let mut steps = Steps::default();
    events.iter().for_each(|event| steps.add(event));
    Solve::new(Traces::default().open(parent), steps)
}

fn spans(lines: &[u8]) -> Vec<Json> {
    serde_json::Deserializer::from_slice(lines)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn named<'a>(spans: &'a [Json], name: &str) -> &'a Json {
    spans
        .iter()
        .find(|span| span["Name"] == name)
        .expect("a span of this name")
}

fn attribute<'a>(span: &'a Json, key: &str) -> &'a Json {
    let attributes = span["Attributes"].as_array().expect("a list");
    let found = attributes.iter().find(|attribute| attribute["Key"] == key);
    &found.expect("an attribute of this key")["Value"]["Value"]
}

#[test]
fn a_build_becomes_a_tree_of_spans() {
    let failed = VertexState {
        error: "exit code: 1".to_owned(),
        ..vertex("run", &["from", "context"], 20, Some(30))
    };
    let cached = VertexState {
        cached: true,
        ..vertex("context", &[], 5, Some(5))
    };
    let events = [
        Event::Vertex(VertexState::new((*vertex("never", &[], 0, None).vertex).clone())),
        Event::Vertex(vertex("from", &[], 1, None)),
        Event::Vertex(vertex("from", &[], 1, Some(2))),
        Event::Vertex(vertex("from", &[], 10, None)),
        action("from", "extracting", 11, None),
        action("from", "extracting", 11, Some(12)),
        Event::Vertex(vertex("from", &[], 10, Some(15))),
        Event::Vertex(cached),
        Event::Vertex(failed),
        Event::Vertex(vertex("unfinished", &[], 21, None)),
        action("elsewhere", "lost", 1, Some(0)),
    ];
    let record = BuildHistoryRecord {
        error: Some(rpc::Status {
            message: "it failed at https://a:b@c/".to_owned(),
            ..rpc::Status::default()
        }),
        ..record()
    };
    let solve = solve(Some(9), &events);
    let spans = spans(&solve.own(&record, "1.2.3"));
    let names: Vec<&str> = spans.iter().filter_map(|span| span["Name"].as_str()).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    let id = |span: &Json| span["SpanContext"]["SpanID"].as_str().unwrap().to_owned();
    assert_eq!(names.iter().filter(|name| **name == "from").count(), 2);
    let ids: std::collections::BTreeSet<String> = spans.iter().map(id).collect();
    assert_eq!(ids.len(), spans.len(), "every span has its own id");
    for span in &spans {
        assert_eq!(span["SpanContext"]["TraceID"], "00000000000000000000000000000007");
    }

    let build = &spans[0];
    assert_eq!(build["Name"], SOLVE);
    assert_eq!(
        (&build["Parent"]["SpanID"], &build["Parent"]["Remote"]),
        (&"0000000000000009".into(), &true.into())
    );
    assert_eq!(
        (&build["SpanKind"], attribute(build, "build.ref")),
        (&2.into(), &"abc".into())
    );
    assert_eq!(build["Status"]["Description"], "it failed at https://xxxxx@c/");
    assert_eq!(build["EndTime"], "2023-11-14T22:14:20Z");
    assert_eq!(build["Resource"][1]["Value"]["Value"], "1.2.3");

    let run = named(&spans, "run");
    assert_eq!(run["Parent"]["SpanID"], id(build));
    assert_eq!(
        (&run["Status"]["Code"], &run["Status"]["Description"]),
        (&1.into(), &"exit code: 1".into())
    );
    assert_eq!(attribute(run, "vertex"), &VertexDigest::sha256(b"run").to_string());
    assert_eq!(
        attribute(run, "vertex.inputs")[1],
        VertexDigest::sha256(b"context").to_string()
    );
    assert_eq!(attribute(run, "vertex.cached"), false);
    assert_eq!(attribute(named(&spans, "context"), "vertex.cached"), true);
    assert_eq!(named(&spans, "unfinished")["EndTime"], build["EndTime"]);

    let second = spans.iter().rfind(|span| span["Name"] == "from").unwrap();
    let extracting = named(&spans, "extracting");
    assert_eq!(extracting["Parent"]["SpanID"], id(second));
    assert_eq!(extracting["EndTime"], "2023-11-14T22:13:32Z");
    let lost = named(&spans, "lost");
    assert_eq!(lost["Parent"]["SpanID"], id(build), "its step has no run");
    assert_eq!(lost["EndTime"], lost["StartTime"], "no span ends before it began");
}

#[test]
fn a_build_without_a_client_s_trace_is_a_root() {
    let spans = spans(&solve(None, &[]).own(&record(), "1"));
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0]["Parent"]["TraceID"], "00000000000000000000000000000000");
    assert_eq!(spans[0]["Status"]["Code"], 0);
}

#[test]
fn large_builds_are_cut() {
    let many: Vec<Event> = (0..MAX_RUNS as u64 + 5)
        .map(|n| Event::Vertex(vertex("again", &[], n, Some(n))))
        .chain((0..MAX_RUNS as u64 + 5).map(|n| action("again", "and again", n, Some(n))))
        .collect();
    let solve = solve(None, &many);
    let lines = solve.own(&record(), "1");
    assert!(lines.len() <= MAX_BYTES);
    assert_eq!(attribute(&spans(&lines)[0], "build.spans_left_out"), 10);

    let long = Event::Vertex(VertexState {
        error: "x".repeat(1 << 20),
        ..vertex(&"y".repeat(1 << 20), &[], 0, None)
    });
    let lines = self::solve(None, &[long]).own(&record(), "1");
    assert!(lines.len() < 32 << 10, "{}", lines.len());
}
