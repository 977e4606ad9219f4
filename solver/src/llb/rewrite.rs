//! Putting other sources into a definition, as policies want it.
//!
//! A changed op is encoded again, and so is everything that depends on it, because their digests change too. What is said
//! about an op, and where it comes from in the user's files, goes along.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::{canonical, pb};
use prost::Message as _;

use super::decode::{self, DecodeError};
use super::definition::Definition;
use super::encode;
use super::graph::VertexDigest;
use super::op::{Op, OpMetadata, SourceOp};
use crate::policy::RawSource;
use crate::{Digest, Platform};

/// A source of a definition, as it came.
#[derive(Clone, Debug)]
pub struct FoundSource {
    /// The vertex.
    pub vertex: VertexDigest,
    /// What it names.
    pub source: RawSource,
    /// What it is for; `None` for the worker's default.
    pub platform: Option<Platform>,
}

/// All sources in a definition, unchecked but for what is needed to find them; also those that nothing needs.
///
/// # Errors
/// If an element is no op, or a platform is malformed.
pub fn sources(definition: &Definition) -> Result<Vec<FoundSource>, DecodeError> {
    let mut found = Vec::new();
    for bytes in &definition.parts().wire.def {
        // Decoded whole, as it is for the graph: what is judged is what will be used.
        let op: pb::Op = decode::parse(&**bytes)?;
        let Some(pb::op::Op::Source(source)) = op.op else {
            continue;
        };
        let vertex = Digest::sha256(bytes);
        let platform = op.platform.as_ref();
        found.push(FoundSource {
            vertex,
            source: raw(source),
            platform: platform.map(|wire| decode::platform(vertex, wire)).transpose()?,
        });
    }
    Ok(found)
}

/// The definition with other sources in the place of those vertices.
///
/// # Errors
/// If an element is no op. Otherwise as unchecked as the definition was.
pub fn with_sources(
    definition: &Definition,
    replaced: &HashMap<VertexDigest, RawSource>,
) -> Result<Definition, DecodeError> {
    let parts = definition.parts();
    let ops: Vec<Rewritten> = parts.wire.def.iter().map(Rewritten::new).collect::<Result<_, _>>()?;
    let mut renamed: HashMap<String, Digest> = HashMap::new();
    let mut made: Vec<Bytes> = parts.wire.def.clone();
    for number in inputs_first(&ops) {
        let op = &ops[number];
        let source = replaced.get(&op.digest);
        if source.is_none() && !op.inputs.iter().any(|input| renamed.contains_key(input)) {
            continue;
        }
        let mut wire: pb::Op = decode::parse(&*made[number])?;
        for input in &mut wire.inputs {
            if let Some(digest) = renamed.get(&input.digest) {
                input.digest = digest.to_string();
            }
        }
        if let Some(source) = source {
            wire.op = Some(pb::op::Op::Source(to_wire(source)));
        }
        made[number] = canonical::encode_op(&wire).into();
        renamed.insert(op.digest.to_string(), Digest::sha256(&made[number]));
    }
    let mut wire = parts.wire.clone();
    wire.def = made;
    if let Some(source) = &mut wire.source {
        let locations = std::mem::take(&mut source.locations).into_iter();
        let renamed = |digest: String| renamed.get(&digest).map_or(digest, ToString::to_string);
        source.locations = locations.map(|(digest, places)| (renamed(digest), places)).collect();
    }
    let metadata = parts.metadata.iter().map(|(digest, metadata)| {
        let renamed = renamed.get(&digest.to_string()).copied();
        (renamed.unwrap_or(*digest), Arc::clone(metadata))
    });
    let metadata: HashMap<VertexDigest, Arc<OpMetadata>> = metadata.collect();
    Ok(Definition::new(wire, metadata))
}

/// An op of a definition that is rewritten.
struct Rewritten {
    digest: Digest,
    inputs: Vec<String>,
}

impl Rewritten {
    fn new(bytes: &Bytes) -> Result<Self, DecodeError> {
        let op: decode::OpInputs = decode::parse(bytes.clone())?;
        let inputs = op
            .inputs
            .iter()
            .map(|input| decode::text(&input.digest).map(str::to_owned));
        Ok(Self {
            digest: Digest::sha256(bytes),
            inputs: inputs.collect::<Result<_, _>>()?,
        })
    }
}

/// Numbers of the ops, inputs before what uses them. Those that depend on themselves are left out: decoding refuses
/// them, as it refuses inputs that are not there.
fn inputs_first(ops: &[Rewritten]) -> Vec<usize> {
    let names: Vec<String> = ops.iter().map(|op| op.digest.to_string()).collect();
    let mut users: HashMap<&str, Vec<usize>> = names.iter().map(|name| (name.as_str(), Vec::new())).collect();
    let mut waiting = vec![0_usize; ops.len()];
    for (number, op) in ops.iter().enumerate() {
        for input in &op.inputs {
            if let Some(users) = users.get_mut(input.as_str()) {
                users.push(number);
                waiting[number] += 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..ops.len()).filter(|&number| waiting[number] == 0).collect();
    let mut next = 0;
    while let Some(&number) = order.get(next) {
        next += 1;
        // Of ops that are there twice, the first to come lets the users go on.
        for user in users.remove(names[number].as_str()).unwrap_or_default() {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                order.push(user);
            }
        }
    }
    order
}

impl SourceOp {
    /// The source as policies see it.
    pub fn to_raw(&self) -> RawSource {
        raw(encode::source(self))
    }

    /// Decodes a source that stands for itself, as it is decoded in a graph.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn from_raw(source: &RawSource) -> Result<Self, DecodeError> {
        let wire = to_wire(source);
        let vertex = Digest::sha256(&wire.encode_to_vec());
        match decode::ops::decode(vertex, 0, Some(pb::op::Op::Source(wire)))? {
            Op::Source(source) => Ok(source),
            _ => Err(DecodeError::Parse("not a source".to_owned())),
        }
    }
}

fn raw(wire: pb::SourceOp) -> RawSource {
    RawSource {
        identifier: wire.identifier,
        attrs: wire.attrs,
    }
}

fn to_wire(source: &RawSource) -> pb::SourceOp {
    pb::SourceOp {
        identifier: source.identifier.clone(),
        attrs: source.attrs.clone(),
    }
}
