//! From the wire to a [`Graph`]. Decoding is validating: what comes out needs no further checks.

mod file;
pub(super) mod ops;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
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
    /// An op lacks what every such op has.
    #[error("invalid {kind} op with no {part} ({vertex})")]
    Lacks {
        /// What it would be.
        kind: &'static str,
        /// What is missing.
        part: &'static str,
        /// Its digest.
        vertex: VertexDigest,
    },
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
    let terminal: pb::Op = parse(&**terminal)?;
    if terminal.op.is_some() {
        return Err(DecodeError::NoTarget);
    }
    let target = terminal.inputs.first().ok_or(DecodeError::NoTarget)?;
    ops.describe(metadata);
    ops.into_graph(target, wire.source.as_ref()).map(Some)
}

pub(super) fn parse<M: Message + Default>(bytes: impl Buf) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|error| DecodeError::Parse(error.to_string()))
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|error| DecodeError::Parse(error.to_string()))
}

/// The ops of a definition, in the order in which they came.
struct Ops<'a> {
    parsed: Vec<Parsed<'a>>,
    by_digest: HashMap<VertexDigest, u32>,
    /// The platform of the last op that has one: most ops of a definition have the same, and share it.
    platform: Option<(pb::Platform, Arc<Platform>)>,
}

/// An op that is not validated yet. Only what the search needs of it is decoded: all ops in their wire form at once
/// would take as much memory as the graph.
struct Parsed<'a> {
    digest: VertexDigest,
    bytes: &'a Bytes,
    /// What it depends on.
    inputs: Box<[Input]>,
    /// How many outputs it has, once that is known.
    outputs: usize,
    metadata: Option<&'a Arc<OpMetadata>>,
    visit: Visit,
}

/// An input of an op that is not validated yet.
#[derive(Clone, Copy)]
struct Input {
    /// Number of an op; [`MISSING`] for one that is not there.
    number: u32,
    /// What is said about its output.
    index: i64,
}

/// The number of an op that is not in the definition.
const MISSING: u32 = u32::MAX;

/// The part of [`pb::Op`] that says what it depends on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OpInputs {
    #[prost(message, repeated, tag = "1")]
    pub(super) inputs: Vec<OpInput>,
}

/// A [`pb::Input`] whose digest is a part of the received bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OpInput {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) digest: Bytes,
    #[prost(int64, tag = "2")]
    index: i64,
}

/// The rest of [`pb::Op`].
#[derive(Clone, PartialEq, prost::Message)]
struct OpBody {
    #[prost(oneof = "pb::op::Op", tags = "2, 3, 4, 5, 6, 7, 8")]
    op: Option<pb::op::Op>,
    #[prost(message, optional, tag = "10")]
    platform: Option<pb::Platform>,
    #[prost(message, optional, tag = "11")]
    constraints: Option<pb::WorkerConstraints>,
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
                    outputs: 0,
                    metadata: None,
                    visit: Visit::Unseen,
                });
            }
        }
        let mut ops = Self {
            parsed,
            by_digest,
            platform: None,
        };
        for number in 0..ops.parsed.len() {
            let wire: OpInputs = parse(ops.parsed[number].bytes.clone())?;
            let mut inputs = Vec::with_capacity(wire.inputs.len());
            for input in &wire.inputs {
                let number = ops.number(text(&input.digest)?).unwrap_or(MISSING);
                let index = input.index;
                inputs.push(Input { number, index });
            }
            ops.parsed[number].inputs = inputs.into_boxed_slice();
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
        let inputs = parse::<OpInputs>(self.parsed[number].bytes.clone()).map(|op| op.inputs);
        let input = inputs.ok().and_then(|inputs| inputs.into_iter().nth(position));
        let digest = input.and_then(|input| text(&input.digest).map(str::to_owned).ok());
        DecodeError::MissingInput(digest.unwrap_or_default())
    }

    /// The ops that `target` depends on, inputs first. Iterative, so that depth costs no stack.
    fn into_graph(mut self, target: &pb::Input, source: Option<&pb::Source>) -> Result<Graph, DecodeError> {
        let mut graph = Graph {
            vertices: Vec::with_capacity(self.parsed.len()),
            target: Edge {
                vertex: NodeIndex::new(0),
                output: 0,
            },
            source_map: source_map(source),
        };
        let last = self.number(&target.digest);
        let last = last.ok_or_else(|| DecodeError::MissingInput(target.digest.clone()))?;
        let target = Input {
            number: last,
            index: target.index,
        };
        let mut pending = vec![last as usize];
        // Inputs of the op at hand that are not in the graph yet.
        let mut missing = Vec::new();
        while let Some(&number) = pending.last() {
            let op = &self.parsed[number];
            if op.visit == Visit::Unseen {
                for (position, input) in op.inputs.iter().enumerate() {
                    if input.number == MISSING {
                        return Err(self.missing(number, position));
                    }
                    let input = input.number as usize;
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
        graph.target = self.edge(self.parsed[last as usize].digest, 0, target)?;
        Ok(graph)
    }

    /// Validates an op whose inputs are all in the graph, and puts it there.
    fn add(&mut self, number: usize, graph: &mut Graph) -> Result<(), DecodeError> {
        let Parsed { digest, metadata, .. } = self.parsed[number];
        let unchecked = std::mem::take(&mut self.parsed[number].inputs);
        metadata.map_or(Ok(()), |metadata| check_caps(metadata))?;
        let wire: OpBody = parse(&**self.parsed[number].bytes)?;
        let mut inputs = Vec::with_capacity(unchecked.len());
        for (position, input) in unchecked.iter().enumerate() {
            inputs.push(self.edge(digest, position, *input)?);
        }
        let vertex = Vertex {
            digest,
            platform: wire.platform.map(|wire| self.platform(digest, wire)).transpose()?,
            op: ops::decode(digest, inputs.len(), wire.op)?,
            constraints: constraints(digest, wire.constraints)?,
            metadata: metadata.cloned().unwrap_or_default(),
            inputs,
        };
        let parsed = &mut self.parsed[number];
        parsed.outputs = vertex.output_count();
        parsed.visit = Visit::Done(NodeIndex::new(graph.vertices.len()));
        graph.vertices.push(Arc::new(vertex));
        Ok(())
    }

    fn platform(&mut self, vertex: VertexDigest, wire: pb::Platform) -> Result<Arc<Platform>, DecodeError> {
        match &self.platform {
            Some((last, platform)) if *last == wire => Ok(platform.clone()),
            _ => {
                let platform = Arc::new(platform(vertex, &wire)?);
                self.platform = Some((wire, platform.clone()));
                Ok(platform)
            }
        }
    }

    /// An input of `vertex`, if its op has such an output.
    fn edge(&self, vertex: VertexDigest, position: usize, input: Input) -> Result<Edge, DecodeError> {
        let Parsed {
            digest, visit, outputs, ..
        } = self.parsed[input.number as usize];
        let Visit::Done(node) = visit else {
            return Err(DecodeError::MissingInput(digest.to_string()));
        };
        let out_of_range = || DecodeError::OutputIndex {
            vertex,
            input: position,
            index: input.index,
        };
        let output = usize::try_from(input.index).map_err(|_| out_of_range())?;
        if output >= outputs {
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

pub(super) fn platform(vertex: VertexDigest, wire: &pb::Platform) -> Result<Platform, DecodeError> {
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
        progress_group: wire.progress_group.map(|group| {
            Arc::new(ProgressGroup {
                id: group.id,
                name: group.name,
                weak: group.weak,
            })
        }),
        resources: wire.linux_resources.map(|limits| {
            Box::new(LinuxResources {
                memory: limits.memory,
                memory_swap: limits.memory_swap,
                cpu_shares: limits.cpu_shares,
                cpu_period: limits.cpu_period,
                cpu_quota: limits.cpu_quota,
                cpuset_cpus: limits.cpuset_cpus,
                cpuset_mems: limits.cpuset_mems,
            })
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
            .map(|info| {
                Arc::new(SourceFile {
                    filename: info.filename.clone(),
                    data: info.data.clone(),
                    language: info.language.clone(),
                    definition: info
                        .definition
                        .clone()
                        .map(|wire| Arc::new(Definition::from_wire(wire))),
                })
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
