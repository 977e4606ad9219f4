//! Parts of definitions in the JSON form that Go's encoder gives them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_solver::frontend::BridgeRef;
use cairn_solver::llb::{Definition, SourceFile};
use serde::Serialize;

use super::json::is_false;

/// A file, and what it was loaded by.
#[derive(Debug, Serialize)]
pub(super) struct SourceInfo<'a> {
    filename: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<Loaded>,
    #[serde(skip_serializing_if = "str::is_empty")]
    language: &'a str,
}

#[derive(Debug, Serialize)]
struct Loaded {
    def: Vec<String>,
    metadata: BTreeMap<String, Metadata>,
    #[serde(rename = "Source")]
    source: Source,
}

/// What a definition says about an operation.
#[derive(Debug, Serialize)]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "is_false")]
    ignore_cache: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    description: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    caps: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_group: Option<ProgressGroup>,
}

#[derive(Debug, Serialize)]
struct ProgressGroup {
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "is_false")]
    weak: bool,
}

/// The operation that loads a file is from no place in any file.
#[derive(Debug, Serialize)]
struct Source {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locations: BTreeMap<String, Nowhere>,
}

#[derive(Debug, Serialize)]
struct Nowhere {}

impl<'a> SourceInfo<'a> {
    pub(super) fn new(file: &'a SourceFile, source: Option<&BridgeRef>) -> Self {
        Self {
            filename: &file.filename,
            data: STANDARD.encode(&file.data),
            definition: source.map(|source| loaded(&source.definition)),
            language: &file.language,
        }
    }
}

fn loaded(definition: &Definition) -> Loaded {
    let wire = definition.to_wire();
    let locations = wire.source.map(|source| source.locations).unwrap_or_default();
    Loaded {
        def: wire.def.iter().map(|op| STANDARD.encode(op)).collect(),
        source: Source {
            locations: locations.into_keys().map(|digest| (digest, Nowhere {})).collect(),
        },
        metadata: metadata(definition),
    }
}

/// What a definition says about its operations, by their digests.
pub(super) fn metadata(definition: &Definition) -> BTreeMap<String, Metadata> {
    let described = definition.to_wire().metadata.into_iter().map(|(digest, op)| {
        let group = op.progress_group.map(|group| ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        });
        let metadata = Metadata {
            ignore_cache: op.ignore_cache,
            description: op.description,
            caps: op.caps,
            progress_group: group,
        };
        (digest, metadata)
    });
    described.collect()
}
