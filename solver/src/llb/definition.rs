//! A build definition as clients and frontends exchange it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::pb;
use prost::Message as _;

use super::decode::DecodeError;
use super::graph::VertexDigest;
use super::op::OpMetadata;
use super::{decode, encode};
use crate::Digest;
use crate::policy::Policy;

/// A serialized graph, its metadata and its source map.
///
/// Opaque outside of [`crate::llb`]: it is made by [`super::Builder`] or comes from a client, and is turned into a
/// [`super::Graph`] by [`super::decode`]. Its bytes are kept as they came, because digests are taken over them.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Definition {
    parts: Arc<Parts>,
    /// What its sources have to pass, besides what holds for the whole build.
    policies: Vec<Arc<Policy>>,
}

impl PartialEq for Definition {
    /// By what is asked for, and by whose policies.
    fn eq(&self, other: &Self) -> bool {
        let mut policies = self.policies.iter().zip(&other.policies);
        self.parts == other.parts
            && self.policies.len() == other.policies.len()
            && policies.all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// What a definition consists of.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parts {
    /// Without what is said about the ops.
    pub(super) wire: pb::Definition,
    /// What is said about the ops, shared with the graphs made of this: it is much of their size.
    pub(super) metadata: HashMap<VertexDigest, Arc<OpMetadata>>,
}

impl Definition {
    /// Takes a definition from the wire, unchecked.
    pub fn from_wire(mut wire: pb::Definition) -> Self {
        let metadata = std::mem::take(&mut wire.metadata).into_iter();
        let metadata = metadata.filter_map(|(digest, metadata)| {
            // What is said about nothing is not kept.
            Some((Digest::parse(&digest).ok()?, Arc::new(decode::metadata(metadata))))
        });
        Self::of(Parts {
            metadata: metadata.collect(),
            wire,
        })
    }

    fn of(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            policies: Vec::new(),
        }
    }

    /// The same, with more policies that its sources have to pass.
    #[must_use]
    pub fn under(mut self, policies: &[Arc<Policy>]) -> Self {
        self.policies.extend_from_slice(policies);
        self
    }

    /// What its sources have to pass, besides what holds for the whole build.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Bytes of all ops.
    pub fn size(&self) -> usize {
        self.parts.wire.def.iter().map(Bytes::len).sum()
    }

    /// The ops as they are encoded, the one that asks for the result last.
    pub fn ops(&self) -> &[Bytes] {
        &self.parts.wire.def
    }

    /// The vertex that it asks for, and which output of it. `None` if it is malformed or empty.
    pub fn target(&self) -> Option<(VertexDigest, usize)> {
        let last = pb::Op::decode(self.ops().last()?.clone()).ok()?;
        let input = last.inputs.first().filter(|_| last.op.is_none())?;
        Some((Digest::parse(&input.digest).ok()?, usize::try_from(input.index).ok()?))
    }

    /// Where the ops come from in the user's files, on the wire.
    pub fn source(&self) -> Option<&pb::Source> {
        self.parts.wire.source.as_ref()
    }

    /// Joins ops and what is known of them.
    pub(super) fn new(ops: pb::Definition, metadata: HashMap<VertexDigest, Arc<OpMetadata>>) -> Self {
        Self::of(Parts { wire: ops, metadata })
    }

    /// Takes a serialized definition, unchecked.
    ///
    /// # Errors
    /// If the bytes are no definition at all.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let wire = pb::Definition::decode(bytes).map_err(|error| DecodeError::Parse(error.to_string()))?;
        Ok(Self::from_wire(wire))
    }

    /// The wire form.
    pub fn to_wire(&self) -> pb::Definition {
        let metadata = self.parts.metadata.iter();
        pb::Definition {
            metadata: metadata
                .map(|(digest, metadata)| (digest.to_string(), encode::metadata(metadata)))
                .collect(),
            ..self.parts.wire.clone()
        }
    }

    /// Whether there is no op in it: this is how clients say "scratch".
    pub fn is_empty(&self) -> bool {
        self.parts.wire.def.is_empty()
    }
}

/// Where vertices come from in the user's files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceMap {
    /// Files, referred to by index.
    pub files: Vec<Arc<SourceFile>>,
    /// Places a vertex was made from, in these files.
    pub locations: BTreeMap<VertexDigest, Vec<SourceLocation>>,
}

/// A file that vertices come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceFile {
    /// Name to show.
    pub filename: String,
    /// Contents.
    pub data: Bytes,
    /// Language, such as `Dockerfile`.
    pub language: String,
    /// How it was read, if that is known.
    pub definition: Option<Arc<Definition>>,
}

/// A place in a [`SourceFile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceLocation {
    /// Index into [`SourceMap::files`].
    pub file: usize,
    /// Line ranges.
    pub ranges: Vec<SourceRange>,
}

/// A range of text; lines count from 1, characters from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceRange {
    /// First line.
    pub start_line: u32,
    /// First character.
    pub start_character: u32,
    /// Last line.
    pub end_line: u32,
    /// Last character.
    pub end_character: u32,
}
