//! Traces of builds, as Docker's client writes them into files.

use std::path::Path;

use anyhow::Context as _;
use cairn_proto::otlp::ExportTraceServiceRequest;
use cairn_proto::otlp_trace::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use serde_json::Value;

use crate::lab::Lab;
use crate::process::Program;

/// What a stored trace is called.
pub const MEDIA_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";

/// The spans in a stored trace.
///
/// # Errors
/// If it is not JSON.
pub fn spans(text: &[u8]) -> anyhow::Result<Vec<Value>> {
    let spans = serde_json::Deserializer::from_slice(text).into_iter();
    spans.collect::<Result<_, _>>().context("the trace is not JSON")
}

/// The id of a span.
pub fn id(span: &Value) -> &str {
    span["SpanContext"]["SpanID"].as_str().unwrap_or_default()
}

/// The value of an attribute in a list; null if there is none.
pub fn attribute<'a>(list: &'a Value, key: &str) -> &'a Value {
    let attributes = list.as_array().into_iter().flatten();
    let found = attributes.into_iter().find(|attribute| attribute["Key"] == key);
    found.map_or(&Value::Null, |attribute| &attribute["Value"]["Value"])
}

/// The trace in what `history export` wrote: the client has decoded it, and encoded it again.
///
/// # Errors
/// If there is none in it.
pub fn exported(lab: &Lab, bundle: &Path) -> anyhow::Result<Vec<Value>> {
    let dir = lab.path("bundle");
    std::fs::create_dir_all(&dir)?;
    Program::new("tar").args(["-xzf"]).args([bundle]).dir(&dir).output()?;
    let blob = |digest: &Value| {
        let name = digest.as_str().unwrap_or_default().replace(':', "/");
        std::fs::read(dir.join("blobs").join(name))
    };
    let index: Value = serde_json::from_slice(&std::fs::read(dir.join("index.json"))?)?;
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])?)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    let trace = layers.iter().find(|layer| layer["mediaType"] == MEDIA_TYPE);
    spans(&blob(
        &trace.with_context(|| format!("no trace: {manifest}"))?["digest"],
    )?)
}

/// A call that sends one span.
pub fn sending(span: &Span) -> ExportTraceServiceRequest {
    let scope_spans = ScopeSpans {
        spans: vec![span.encode_to_vec().into()],
        ..ScopeSpans::default()
    };
    let resource_spans = ResourceSpans {
        scope_spans: vec![scope_spans.encode_to_vec().into()],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![resource_spans.encode_to_vec().into()],
    }
}
