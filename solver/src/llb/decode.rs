//! From the wire to a [`Graph`]. Decoding is validating: what comes out needs no further checks.

mod file;
mod ops;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::pb;
use prost::Message;

use super::definition::{Definition, Parts, SourceFile, SourceLocation, SourceMap, SourceRange};
use super::graph::{Edge, Graph, NodeIndex, Vertex, VertexDigest};
use super::op::{LinuxResources, OpMetadata, ProgressGroup};
use crate::{Digest, Platform};

/// Most ops a definition may hold.
const MAX_VERTICES: usize = 200_000;

/// Most filters on workers that one op may have, and the most bytes of each.
const MAX_FILTERS: usize = 16;
const MAX_FILTER_LEN: usize = 4096;

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
    /// What an op says about workers is malformed.
    #[error("invalid worker constraints of vertex {0}: at most {MAX_FILTERS} of {MAX_FILTER_LEN} bytes are accepted")]
    Constraints(VertexDigest),
    /// A platform is malformed.
    #[error("invalid platform of vertex {0}")]
    Platform(VertexDigest),
}

/// Decodes and validates a definition. `Ok(None)` is scratch: a definition that is there but holds no op.
///
/// # Errors
/// [`DecodeError`] for anything malformed; it never panics, and its time is linear in the size of the definition.
pub fn decode(definition: &Definition) -> Result<Option<Graph>, DecodeError> {
    let Parts { wire, metadata } = definition.parts();
    let Some((terminal, ops)) = wire.def.split_last() else {
        return Ok(None);
    };
    if wire.def.len() > MAX_VERTICES {
        return Err(DecodeError::TooMany(wire.def.len()));
    }
    if ops.is_empty() {
        return Err(DecodeError::TooFew(wire.def.len()));
    }
    let mut ops = Ops::read(ops)?;
    let terminal: pb::Op = parse(terminal)?;
    if terminal.op.is_some() {
        return Err(DecodeError::NoTarget);
    }
    let target = terminal.inputs.first().ok_or(DecodeError::NoTarget)?;
    ops.describe(metadata);
    ops.into_graph(target, wire.source.as_ref()).map(Some)
}

fn parse<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|error| DecodeError::Parse(error.to_string()))
}

/// The ops of a definition, in the order in which they came.
struct Ops<'a> {
    parsed: Vec<Parsed<'a>>,
    by_digest: HashMap<VertexDigest, u32>,
}

/// An op that is not validated yet. Only what the search needs of it is decoded: all ops in their wire form at once
/// would take as much memory as the graph.
struct Parsed<'a> {
    digest: VertexDigest,
    bytes: &'a [u8],
    /// Numbers of the ops it depends on; [`MISSING`] for those that are not there.
    inputs: Box<[u32]>,
    metadata: Option<&'a Arc<OpMetadata>>,
    visit: Visit,
}

/// The number of an op that is not in the definition.
const MISSING: u32 = u32::MAX;

/// The part of [`pb::Op`] that says what it depends on.
#[derive(Clone, PartialEq, prost::Message)]
struct OpInputs {
    #[prost(message, repeated, tag = "1")]
    inputs: Vec<pb::Input>,
}

/// How far the search for what is needed has come with an op.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    Unseen,
    Open,
    Done(NodeIndex),
}

impl<'a> Ops<'a> {
    fn read(ops: &'a [Bytes]) -> Result<Self, DecodeError> {
        let mut parsed = Vec::with_capacity(ops.len());
        let mut by_digest = HashMap::with_capacity(ops.len());
        for bytes in ops {
            let digest = Digest::sha256(bytes);
            let number = u32::try_from(parsed.len()).map_err(|_| DecodeError::TooMany(ops.len()))?;
            if *by_digest.entry(digest).or_insert(number) == number {
                parsed.push(Parsed {
                    digest,
                    bytes,
                    inputs: Box::default(),
                    metadata: None,
                    visit: Visit::Unseen,
                });
            }
        }
        let mut ops = Self { parsed, by_digest };
        for number in 0..ops.parsed.len() {
            let inputs = parse::<OpInputs>(ops.parsed[number].bytes)?.inputs;
            let numbers = inputs.iter().map(|input| ops.number(&input.digest).unwrap_or(MISSING));
            ops.parsed[number].inputs = numbers.collect();
        }
        Ok(ops)
    }

    fn number(&self, digest: &str) -> Option<u32> {
        let digest = Digest::parse(digest).ok()?;
        self.by_digest.get(&digest).copied()
    }

    /// Puts what is said about the ops beside them.
    fn describe(&mut self, metadata: &'a HashMap<VertexDigest, Arc<OpMetadata>>) {
        for op in &mut self.parsed {
            op.metadata = metadata.get(&op.digest);
        }
    }

    /// The error for an input that is not there.
    fn missing(&self, number: usize, position: usize) -> DecodeError {
        let inputs = parse::<OpInputs>(self.parsed[number].bytes).map(|op| op.inputs);
        let input = inputs.ok().and_then(|inputs| inputs.into_iter().nth(position));
        DecodeError::MissingInput(input.map(|input| input.digest).unwrap_or_default())
    }

    /// The ops that `target` depends on, inputs first. Iterative, so that depth costs no stack.
    fn into_graph(mut self, target: &pb::Input, source: Option<&pb::Source>) -> Result<Graph, DecodeError> {
        let mut graph = Graph {
            vertices: Vec::with_capacity(self.parsed.len()),
            by_digest: HashMap::with_capacity(self.parsed.len()),
            target: Edge {
                vertex: NodeIndex::new(0),
                output: 0,
            },
            source_map: source_map(source),
        };
        let last = self.number(&target.digest);
        let last = last.ok_or_else(|| DecodeError::MissingInput(target.digest.clone()))? as usize;
        let mut pending = vec![last];
        // Inputs of the op at hand that are not in the graph yet.
        let mut missing = Vec::new();
        while let Some(&number) = pending.last() {
            let op = &self.parsed[number];
            if op.visit == Visit::Unseen {
                for (position, &input) in op.inputs.iter().enumerate() {
                    if input == MISSING {
                        return Err(self.missing(number, position));
                    }
                    let input = input as usize;
                    match self.parsed[input].visit {
                        Visit::Done(_) => {}
                        Visit::Unseen if input != number => missing.push(input),
                        Visit::Unseen | Visit::Open => return Err(DecodeError::Cycle(self.parsed[input].digest)),
                    }
                }
                self.parsed[number].visit = Visit::Open;
            }
            if missing.is_empty() {
                pending.pop();
                if self.parsed[number].visit == Visit::Open {
                    self.add(number, &mut graph)?;
                }
            } else {
                pending.append(&mut missing);
            }
        }
        let digest = self.parsed[last].digest;
        graph.target = self.edge(&graph, digest, 0, (last, target))?;
        Ok(graph)
    }

    /// Validates an op whose inputs are all in the graph, and puts it there.
    fn add(&mut self, number: usize, graph: &mut Graph) -> Result<(), DecodeError> {
        let Parsed { digest, metadata, .. } = self.parsed[number];
        let numbers = std::mem::take(&mut self.parsed[number].inputs);
        metadata.map_or(Ok(()), |metadata| check_caps(metadata))?;
        let mut wire: pb::Op = parse(self.parsed[number].bytes)?;
        let mut inputs = Vec::with_capacity(wire.inputs.len());
        for (position, (input, &number)) in wire.inputs.iter().zip(&numbers).enumerate() {
            inputs.push(self.edge(graph, digest, position, (number as usize, input))?);
        }
        let vertex = Vertex {
            digest,
            platform: wire.platform.as_ref().map(|wire| platform(digest, wire)).transpose()?,
            op: ops::decode(digest, inputs.len(), wire.op.take())?,
            constraints: constraints(digest, wire.constraints.take())?,
            metadata: metadata.cloned().unwrap_or_default(),
            inputs,
        };
        let index = NodeIndex::new(graph.vertices.len());
        graph.vertices.push(Arc::new(vertex));
        graph.by_digest.insert(digest, index);
        self.parsed[number].visit = Visit::Done(index);
        Ok(())
    }

    fn edge(
        &self,
        graph: &Graph,
        vertex: VertexDigest,
        position: usize,
        (number, input): (usize, &pb::Input),
    ) -> Result<Edge, DecodeError> {
        let Visit::Done(node) = self.parsed[number].visit else {
            return Err(DecodeError::MissingInput(input.digest.clone()));
        };
        let out_of_range = || DecodeError::OutputIndex {
            vertex,
            input: position,
            index: input.index,
        };
        let output = usize::try_from(input.index).map_err(|_| out_of_range())?;
        if output >= graph.vertex(node).output_count() {
            return Err(out_of_range());
        }
        Ok(Edge { vertex: node, output })
    }
}

fn constraints(vertex: VertexDigest, wire: Option<pb::WorkerConstraints>) -> Result<Box<[String]>, DecodeError> {
    let filter = wire.unwrap_or_default().filter;
    let is_sound = |filter: &String| filter.len() <= MAX_FILTER_LEN && !filter.contains('\0');
    if filter.len() > MAX_FILTERS || !filter.iter().all(is_sound) {
        return Err(DecodeError::Constraints(vertex));
    }
    Ok(filter.into())
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

/// Takes what is said about an op from the wire, unchecked.
pub(super) fn metadata(wire: pb::OpMetadata) -> OpMetadata {
    OpMetadata {
        ignore_cache: wire.ignore_cache,
        description: wire.description.into_iter().collect(),
        export_cache: wire.export_cache.map(|export| export.value),
        progress_group: wire.progress_group.map(|group| ProgressGroup {
            id: group.id,
            name: group.name,
            weak: group.weak,
        }),
        resources: wire.linux_resources.map(|limits| LinuxResources {
            memory: limits.memory,
            memory_swap: limits.memory_swap,
            cpu_shares: limits.cpu_shares,
            cpu_period: limits.cpu_period,
            cpu_quota: limits.cpu_quota,
            cpuset_cpus: limits.cpuset_cpus,
            cpuset_mems: limits.cpuset_mems,
        }),
        caps: wire.caps.into_keys().collect(),
    }
}

fn check_caps(metadata: &OpMetadata) -> Result<(), DecodeError> {
    match metadata.caps.iter().find(|cap| !super::caps::is_known(cap)) {
        None => Ok(()),
        Some(cap) => Err(DecodeError::Capability(cap.clone())),
    }
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
