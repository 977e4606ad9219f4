//! Making definitions: what frontends use.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_proto::{canonical, pb};

use super::definition::{Definition, SourceFile, SourceLocation};
use super::graph::VertexDigest;
use super::op::{FileOp, Op, OpMetadata, SourceOp};
use super::{ExecOp, encode};
use crate::{Digest, Platform};

/// An output of an op in a [`Builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Output {
    digest: VertexDigest,
    index: usize,
}

impl Output {
    /// The vertex it is of.
    pub fn vertex(&self) -> VertexDigest {
        self.digest
    }

    /// Another output of the same vertex.
    #[must_use]
    pub fn sibling(&self, index: usize) -> Self {
        Self { index, ..*self }
    }
}

/// Collects ops into a [`Definition`].
///
/// Every op is encoded in canonical form at once, so that its digest is known and equal ops are one vertex.
/// Inputs come first by construction: an op can only name outputs that exist.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    order: Vec<VertexDigest>,
    ops: BTreeMap<VertexDigest, (Bytes, Vec<VertexDigest>, OpMetadata)>,
    files: Vec<SourceFile>,
    locations: BTreeMap<VertexDigest, Vec<SourceLocation>>,
}

impl Builder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source. `platform` is for images; other sources leave it out.
    pub fn source(&mut self, source: SourceOp, platform: Option<&Platform>, metadata: OpMetadata) -> Output {
        self.op(&Op::Source(source), &[], platform, metadata)
    }

    /// Adds a process run. `inputs` are what the mounts' input indexes refer to.
    pub fn exec(
        &mut self,
        exec: ExecOp,
        inputs: &[Output],
        platform: Option<&Platform>,
        metadata: OpMetadata,
    ) -> Output {
        self.op(&Op::Exec(exec), inputs, platform, metadata)
    }

    /// Adds file changes. `inputs` are what [`super::ActionInput::Vertex`] indexes refer to.
    pub fn file(
        &mut self,
        file: FileOp,
        inputs: &[Output],
        platform: Option<&Platform>,
        metadata: OpMetadata,
    ) -> Output {
        self.op(&Op::File(file), inputs, platform, metadata)
    }

    /// Adds a merge of `inputs`, lowest first.
    pub fn merge(&mut self, inputs: &[Output], platform: Option<&Platform>, metadata: OpMetadata) -> Output {
        let indexes = (0..inputs.len()).collect();
        self.op(&Op::Merge { inputs: indexes }, inputs, platform, metadata)
    }

    /// Adds any op and returns its output 0.
    pub fn op(&mut self, op: &Op, inputs: &[Output], platform: Option<&Platform>, metadata: OpMetadata) -> Output {
        let wire = encode::op(op, inputs.iter().map(|input| (input.digest, input.index)), platform);
        let bytes = Bytes::from(canonical::encode_op(&wire));
        let digest = Digest::sha256(&bytes);
        let order = &mut self.order;
        self.ops
            .entry(digest)
            .and_modify(|(_, _, known)| known.merge(&metadata))
            .or_insert_with(|| {
                order.push(digest);
                let inputs = inputs.iter().map(|input| input.digest).collect();
                (bytes, inputs, metadata.clone())
            });
        Output { digest, index: 0 }
    }

    /// Adds a file that locations can refer to, and returns its index.
    pub fn add_source_file(&mut self, file: SourceFile) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// Says where in the user's files `output`'s vertex comes from.
    pub fn locate(&mut self, output: Output, location: SourceLocation) {
        let known = self.locations.entry(output.digest).or_default();
        if !known.contains(&location) {
            known.push(location);
        }
    }

    /// The definition that asks for `target`, holding only what it depends on.
    pub fn finish(&self, target: Output) -> Definition {
        let wanted = self.reachable(target.digest);
        let mut wire = pb::Definition::default();
        let mut source = encode::source_files(&self.files);
        for digest in self.order.iter().filter(|digest| wanted.contains(*digest)) {
            let (bytes, _, metadata) = &self.ops[digest];
            wire.def.push(bytes.clone());
            wire.metadata.insert(digest.to_string(), encode::metadata(metadata));
            if let Some(locations) = self.locations.get(digest) {
                source
                    .locations
                    .insert(digest.to_string(), encode::locations(locations));
            }
        }
        let terminal = canonical::encode_op(&pb::Op {
            inputs: vec![encode::input(target.digest, target.index)],
            ..pb::Op::default()
        });
        wire.metadata.insert(
            Digest::sha256(&terminal).to_string(),
            encode::metadata(&OpMetadata::default()),
        );
        wire.def.push(terminal.into());
        wire.source = Some(source);
        Definition { wire }
    }

    fn reachable(&self, target: VertexDigest) -> std::collections::BTreeSet<VertexDigest> {
        let mut wanted = std::collections::BTreeSet::new();
        let mut pending = vec![target];
        while let Some(digest) = pending.pop() {
            if wanted.insert(digest)
                && let Some((_, inputs, _)) = self.ops.get(&digest)
            {
                pending.extend(inputs);
            }
        }
        wanted
    }
}

impl OpMetadata {
    /// Metadata with a display name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            description: BTreeMap::from([("llb.customname".to_owned(), name.into())]),
            ..Self::default()
        }
    }

    /// Joins what two users of one vertex say: whoever wants the cache ignored is heard.
    fn merge(&mut self, other: &Self) {
        self.ignore_cache |= other.ignore_cache;
        for (key, value) in &other.description {
            self.description.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self.caps.extend(other.caps.iter().cloned());
        if self.progress_group.is_none() {
            self.progress_group = other.progress_group.clone();
        }
    }
}
