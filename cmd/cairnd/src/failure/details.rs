//! Details of failures, in the JSON that clients know.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cairn_proto::pb;
use cairn_solver::llb::{Definition, SourceFile, SourceRange};
use serde_json::{Map, Value, json};

use super::{Inspectable, Subject};

/// Under which names a failed step, whose op is `op`, can be looked into.
pub(super) fn solve(step: &Inspectable, op: Option<Value>) -> Value {
    let mut detail = Map::new();
    for (name, ids) in [("inputIDs", &step.inputs), ("mountIDs", &step.mounts)] {
        if !ids.is_empty() {
            detail.insert(name.to_owned(), json!(ids));
        }
    }
    if let Some(op) = op {
        detail.insert("op".to_owned(), op);
    }
    if !step.description.is_empty() {
        detail.insert("description".to_owned(), json!(step.description));
    }
    // Zero is left out, and 64 bits are text, in protobuf's JSON form.
    let index = |index: usize| match index {
        0 => json!({}),
        index => json!({ "index": index.to_string() }),
    };
    match step.subject {
        None => {}
        Some(Subject::File(action)) => drop(detail.insert("file".to_owned(), index(action))),
        Some(Subject::Content(input)) => drop(detail.insert("cache".to_owned(), index(input))),
    }
    Value::Object(detail)
}

/// Where in the user's files something comes from.
pub(super) fn source(file: &SourceFile, ranges: &[SourceRange]) -> Value {
    json!({
        "info": source_info(file),
        "ranges": ranges.iter().map(range).collect::<Vec<_>>(),
    })
}

/// Leaves zero values out, as receivers expect.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let is_zero = |value: &Value| match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(is_set) => !is_set,
        Value::Object(fields) => fields.is_empty(),
        Value::Null => true,
        _ => false,
    };
    let fields = fields.into_iter().filter(|(_, value)| !is_zero(value));
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

/// Which frontend it was.
pub(super) fn frontend(name: &str, image: &str) -> Value {
    object([("name", Value::from(name)), ("source", Value::from(image))])
}

fn source_info(file: &SourceFile) -> Value {
    let definition = file.definition.as_deref().map(definition);
    object([
        ("filename", Value::from(file.filename.as_str())),
        ("data", Value::from(BASE64.encode(&file.data))),
        ("definition", Value::from(definition)),
        ("language", Value::from(file.language.as_str())),
    ])
}

/// How a file was read. Where the vertices of that come from is left out: it is no file.
fn definition(definition: &Definition) -> Value {
    let wire = definition.to_wire();
    let ops: Vec<String> = wire.def.iter().map(|op| BASE64.encode(op)).collect();
    let metadata: BTreeMap<String, Value> = wire
        .metadata
        .iter()
        .map(|(digest, metadata)| (digest.clone(), op_metadata(metadata)))
        .collect();
    json!({ "def": ops, "metadata": metadata })
}

fn op_metadata(metadata: &pb::OpMetadata) -> Value {
    let group = metadata.progress_group.as_ref().map(|group| {
        object([
            ("id", Value::from(group.id.as_str())),
            ("name", Value::from(group.name.as_str())),
            ("weak", Value::from(group.weak)),
        ])
    });
    object([
        ("ignore_cache", Value::from(metadata.ignore_cache)),
        ("description", json!(metadata.description)),
        ("caps", json!(metadata.caps)),
        ("progress_group", Value::from(group)),
    ])
}

fn range(range: &SourceRange) -> Value {
    let position =
        |line: u32, character: u32| object([("line", Value::from(line)), ("character", Value::from(character))]);
    json!({
        "start": position(range.start_line, range.start_character),
        "end": position(range.end_line, range.end_character),
    })
}
