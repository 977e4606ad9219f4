//! From the wire to a [`Graph`]. Decoding is validating: what comes out needs no further checks.

mod file;
mod ops;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::pb;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use prost::Message;

use super::definition::{Definition, SourceFile, SourceLocation, SourceMap, SourceRange};
use super::graph::{Edge, Graph, Vertex, VertexDigest};
use super::op::{LinuxResources, OpMetadata, ProgressGroup};
use crate::{Digest, Platform};

/// Most ops a definition may hold.
const MAX_VERTICES: usize = 200_000;

/// Why a definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no op besides the terminal one.
    #[error("invalid LLB with {0} vertexes")]
    TooFew(usize),
    /// There are more ops than this daemon accepts.
    #[error("invalid LLB with {0} vertexes: at most {MAX_VERTICES} are accepted")]
    TooMany(usize),
    /// An element is no op.
    #[error("failed to parse llb proto op: {0}")]
    Parse(String),
    /// The last op names no result.
    #[error("invalid LLB with no inputs on last vertex")]
    NoTarget,
    /// An input's output index makes no sense.
    #[error("invalid input {input} output index {index} of vertex {vertex}")]
    OutputIndex {
        /// The vertex that asks.
        vertex: VertexDigest,
        /// Which of its inputs.
        input: usize,
        /// The index it gave.
        index: i64,
    },
    /// An input is not in the definition.
    #[error("invalid missing input digest {0}")]
    MissingInput(String),
    /// Ops depend on each other in a circle.
    #[error("invalid LLB: vertex {0} depends on itself")]
    Cycle(VertexDigest),
    /// An op needs something this daemon does not know.
    #[error("unknown API capability {0}")]
    Capability(String),
    /// An op is malformed.
    #[error("invalid {kind} op {vertex}: {message}")]
    Op {
        /// What it would be.
        kind: &'static str,
        /// Its digest.
        vertex: VertexDigest,
        /// What is wrong.
        message: String,
    },
    /// An op is well-formed, but this daemon cannot do it.
    #[error("{what} is not supported by this daemon (vertex {vertex})")]
    Unsupported {
        /// Its digest.
        vertex: VertexDigest,
        /// What is not supported.
        what: String,
    },
    /// A platform is malformed.
    #[error("invalid platform of vertex {0}")]
    Platform(VertexDigest),
}

/// Decodes and validates a definition. `Ok(None)` is scratch: a definition that is there but holds no op.
///
/// # Errors
/// [`DecodeError`] for anything malformed; it never panics, and its time is linear in the size of the definition.
pub fn decode(definition: &Definition) -> Result<Option<Graph>, DecodeError> {
    let wire = &definition.wire;
    let Some((terminal, ops)) = wire.def.split_last() else {
        return Ok(None);
    };
    if wire.def.len() > MAX_VERTICES {
        return Err(DecodeError::TooMany(wire.def.len()));
    }
    if ops.is_empty() {
        return Err(DecodeError::TooFew(wire.def.len()));
    }
    let mut parsed = BTreeMap::new();
    for bytes in ops {
        parsed.insert(Digest::sha256(bytes), parse(bytes)?);
    }
    let terminal = parse(terminal)?;
    if terminal.op.is_some() {
        return Err(DecodeError::NoTarget);
    }
    let target = terminal.inputs.first().ok_or(DecodeError::NoTarget)?;
    let graph = build(wire, &parsed, target)?;
    Ok(Some(graph))
}

fn parse(bytes: &[u8]) -> Result<pb::Op, DecodeError> {
    pb::Op::decode(bytes).map_err(|error| DecodeError::Parse(error.to_string()))
}

fn build(
    wire: &pb::Definition,
    parsed: &BTreeMap<VertexDigest, pb::Op>,
    target: &pb::Input,
) -> Result<Graph, DecodeError> {
    let order = order(parsed, target)?;
    let mut vertices: StableDiGraph<Vertex, ()> = StableDiGraph::new();
    let mut by_digest: BTreeMap<VertexDigest, NodeIndex> = BTreeMap::new();
    for digest in order {
        let op = &parsed[&digest];
        let mut inputs = Vec::with_capacity(op.inputs.len());
        for (position, input) in op.inputs.iter().enumerate() {
            inputs.push(edge(&vertices, &by_digest, digest, position, input)?);
        }
        let vertex = Vertex {
            digest,
            op: ops::decode(digest, op)?,
            platform: op.platform.as_ref().map(|wire| platform(digest, wire)).transpose()?,
            metadata: metadata(wire.metadata.get(&digest.to_string()))?,
            inputs,
        };
        let froms: BTreeSet<NodeIndex> = vertex.inputs.iter().map(|edge| edge.vertex).collect();
        let node = vertices.add_node(vertex);
        for from in froms {
            vertices.add_edge(from, node, ());
        }
        by_digest.insert(digest, node);
    }
    let asked = Digest::parse(&target.digest).map_err(|_| DecodeError::MissingInput(target.digest.clone()))?;
    let target = edge(&vertices, &by_digest, asked, 0, target)?;
    Ok(Graph {
        vertices,
        by_digest,
        target,
        source_map: source_map(wire.source.as_ref()),
    })
}

fn edge(
    vertices: &StableDiGraph<Vertex, ()>,
    by_digest: &BTreeMap<VertexDigest, NodeIndex>,
    vertex: VertexDigest,
    position: usize,
    input: &pb::Input,
) -> Result<Edge, DecodeError> {
    let node = Digest::parse(&input.digest)
        .ok()
        .and_then(|digest| by_digest.get(&digest).copied())
        .ok_or_else(|| DecodeError::MissingInput(input.digest.clone()))?;
    let out_of_range = || DecodeError::OutputIndex {
        vertex,
        input: position,
        index: input.index,
    };
    let output = usize::try_from(input.index).map_err(|_| out_of_range())?;
    if output >= vertices[node].output_count() {
        return Err(out_of_range());
    }
    Ok(Edge { vertex: node, output })
}

/// The ops that `target` depends on, inputs first. Iterative, so that depth costs no stack.
fn order(parsed: &BTreeMap<VertexDigest, pb::Op>, target: &pb::Input) -> Result<Vec<VertexDigest>, DecodeError> {
    enum Visit {
        Enter(VertexDigest),
        Leave(VertexDigest),
    }
    let find = |text: &str| {
        Digest::parse(text)
            .ok()
            .filter(|digest| parsed.contains_key(digest))
            .ok_or_else(|| DecodeError::MissingInput(text.to_owned()))
    };
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    let mut open = BTreeSet::new();
    let mut pending = vec![Visit::Enter(find(&target.digest)?)];
    while let Some(visit) = pending.pop() {
        match visit {
            Visit::Leave(digest) => {
                open.remove(&digest);
                done.insert(digest);
                order.push(digest);
            }
            Visit::Enter(digest) if done.contains(&digest) => {}
            Visit::Enter(digest) => {
                if !open.insert(digest) {
                    return Err(DecodeError::Cycle(digest));
                }
                pending.push(Visit::Leave(digest));
                for input in &parsed[&digest].inputs {
                    let input = find(&input.digest)?;
                    if open.contains(&input) {
                        return Err(DecodeError::Cycle(input));
                    }
                    pending.push(Visit::Enter(input));
                }
            }
        }
    }
    Ok(order)
}

fn platform(vertex: VertexDigest, wire: &pb::Platform) -> Result<Platform, DecodeError> {
    let has_slash = [&wire.os, &wire.architecture, &wire.variant]
        .iter()
        .any(|part| part.contains('/'));
    let mut text = format!("{}/{}", wire.os, wire.architecture);
    if !wire.variant.is_empty() {
        text = format!("{text}/{}", wire.variant);
    }
    if has_slash || text.parse::<Platform>().is_err() {
        return Err(DecodeError::Platform(vertex));
    }
    Ok(Platform {
        architecture: wire.architecture.clone(),
        os: wire.os.clone(),
        variant: wire.variant.clone(),
        os_version: wire.os_version.clone(),
        os_features: wire.os_features.clone(),
    }
    .normalized())
}

fn metadata(wire: Option<&pb::OpMetadata>) -> Result<OpMetadata, DecodeError> {
    let Some(wire) = wire else {
        return Ok(OpMetadata::default());
    };
    for cap in wire.caps.keys() {
        if !super::caps::is_known(cap) {
            return Err(DecodeError::Capability(cap.clone()));
        }
    }
    Ok(OpMetadata {
        ignore_cache: wire.ignore_cache,
        description: wire.description.clone(),
        export_cache: wire.export_cache.as_ref().map(|export| export.value),
        progress_group: wire.progress_group.as_ref().map(|group| ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
        resources: wire.linux_resources.as_ref().map(|limits| LinuxResources {
            memory: limits.memory,
            memory_swap: limits.memory_swap,
            cpu_shares: limits.cpu_shares,
            cpu_period: limits.cpu_period,
            cpu_quota: limits.cpu_quota,
            cpuset_cpus: limits.cpuset_cpus.clone(),
            cpuset_mems: limits.cpuset_mems.clone(),
        }),
        caps: wire.caps.keys().cloned().collect(),
    })
}

/// Reads a source map. It only serves to point at places, so what is out of place in it is left out.
fn source_map(wire: Option<&pb::Source>) -> SourceMap {
    let Some(wire) = wire else {
        return SourceMap::default();
    };
    let number = |n: i32| u32::try_from(n).unwrap_or(0);
    let range = |range: &pb::Range| {
        let start = range.start.unwrap_or_default();
        let end = range.end.unwrap_or(start);
        SourceRange {
            start_line: number(start.line),
            start_character: number(start.character),
            end_line: number(end.line),
            end_character: number(end.character),
        }
    };
    let location = |location: &pb::Location| {
        let file = usize::try_from(location.source_index).ok()?;
        (file < wire.infos.len()).then(|| SourceLocation {
            file,
            ranges: location.ranges.iter().map(range).collect(),
        })
    };
    SourceMap {
        files: wire
            .infos
            .iter()
            .map(|info| SourceFile {
                filename: info.filename.clone(),
                data: info.data.clone(),
                language: info.language.clone(),
            })
            .collect(),
        locations: wire
            .locations
            .iter()
            .filter_map(|(digest, locations)| {
                let digest = Digest::parse(digest).ok()?;
                Some((digest, locations.locations.iter().filter_map(location).collect()))
            })
            .collect(),
    }
}
