//! The graph that a Dockerfile becomes.

use std::collections::BTreeMap;

use cairn_proto::json as wire_json;
use cairn_solver::Digest;
use cairn_solver::llb::Definition;
use serde::Serialize;
use serde_json::Value;

use super::wire::{Metadata, metadata};
use super::{Answer, json};

#[derive(Debug, Serialize)]
struct Graph {
    def: BTreeMap<String, Value>,
    metadata: BTreeMap<String, Metadata>,
    source: Value,
}

/// A definition as JSON; without one, a graph of nothing.
///
/// # Errors
/// If the definition is none.
pub(crate) fn convert(definition: Option<&Definition>) -> Result<Answer, wire_json::JsonError> {
    let wire = definition.map(Definition::to_wire).unwrap_or_default();
    let ops = wire.def.iter().map(|bytes| {
        let digest = Digest::sha256(bytes).to_string();
        Ok((digest, wire_json::op(bytes)?))
    });
    let graph = Graph {
        def: ops.collect::<Result<_, wire_json::JsonError>>()?,
        metadata: definition.map(metadata).unwrap_or_default(),
        source: wire_json::source(&wire.source.unwrap_or_default())?,
    };
    Ok(Answer {
        version: "0.1.0",
        json: json::pretty(&graph),
        text: None,
        status_code: None,
    })
}
