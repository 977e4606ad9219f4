//! Making definitions: what frontends use.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::{canonical, pb};

use super::decode::{DecodeError, decode};
use super::definition::{Definition, SourceFile, SourceLocation};
use super::graph::VertexDigest;
use super::op::{FileOp, Labels, Op, OpMetadata, SourceOp};
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
    ops: Vec<Encoded>,
    /// Where each is among them.
    places: HashMap<VertexDigest, usize>,
    files: Vec<SourceFile>,
}

/// An op, encoded.
#[derive(Clone, Debug)]
struct Encoded {
    digest: VertexDigest,
    bytes: Bytes,
    /// The places of what it uses, which come before it.
    inputs: Vec<usize>,
    metadata: Arc<OpMetadata>,
    locations: Vec<SourceLocation>,
}

impl Builder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty builder with room for so many ops.
    pub fn with_capacity(ops: usize) -> Self {
        Self {
            ops: Vec::with_capacity(ops),
            places: HashMap::with_capacity(ops),
            ..Self::default()
        }
    }

    /// Adds a source. `platform` is for images; other sources leave it out.
    pub fn source(&mut self, source: SourceOp, platform: Option<&Platform>, metadata: OpMetadata) -> Output {
        self.op(Op::Source(source), &[], platform, metadata)
    }

    /// Adds a process run. `inputs` are what the mounts' input indexes refer to.
    pub fn exec(
        &mut self,
        exec: ExecOp,
        inputs: &[Output],
        platform: Option<&Platform>,
        metadata: OpMetadata,
    ) -> Output {
        self.op(Op::Exec(exec), inputs, platform, metadata)
    }

    /// Adds file changes. `inputs` are what [`super::ActionInput::Vertex`] indexes refer to.
    pub fn file(
        &mut self,
        file: FileOp,
        inputs: &[Output],
        platform: Option<&Platform>,
        metadata: OpMetadata,
    ) -> Output {
        self.op(Op::File(file), inputs, platform, metadata)
    }

    /// Adds a merge of `inputs`, lowest first.
    pub fn merge(&mut self, inputs: &[Output], platform: Option<&Platform>, metadata: OpMetadata) -> Output {
        let indexes = (0..inputs.len()).collect();
        self.op(Op::Merge { inputs: indexes }, inputs, platform, metadata)
    }

    /// Adds any op and returns its output 0.
    pub fn op(&mut self, op: Op, inputs: &[Output], platform: Option<&Platform>, metadata: OpMetadata) -> Output {
        let wire = encode::op(op, inputs.iter().map(|input| (input.digest, input.index)), platform);
        let bytes = Bytes::from(canonical::encode_op(&wire));
        let digest = Digest::sha256(&bytes);
        self.insert(
            digest,
            bytes,
            inputs.iter().map(|input| input.digest),
            Arc::new(metadata),
        );
        Output { digest, index: 0 }
    }

    /// Takes over all that `definition` asks for and returns its result; `None` is scratch. Ops keep their bytes, and
    /// with them their digests, whoever encoded them.
    ///
    /// # Errors
    /// If the definition is malformed; then nothing is taken over.
    pub fn import(&mut self, definition: &Definition) -> Result<Option<Output>, DecodeError> {
        let Some(graph) = decode(definition)? else {
            return Ok(None);
        };
        let received: BTreeMap<VertexDigest, &Bytes> = definition
            .parts()
            .wire
            .def
            .iter()
            .map(|bytes| (Digest::sha256(bytes), bytes))
            .collect();
        for index in graph.topological() {
            let vertex = graph.vertex(index);
            let inputs = vertex.inputs.iter().map(|edge| graph.vertex(edge.vertex).digest);
            let bytes = received[&vertex.digest].clone();
            self.insert(vertex.digest, bytes, inputs, vertex.metadata.clone());
        }
        let taken: HashSet<VertexDigest> = graph.topological().map(|index| graph.vertex(index).digest).collect();
        let map = graph.source_map();
        let files: Vec<usize> = map.files.iter().map(|file| self.known_source_file(file)).collect();
        for (digest, locations) in &map.locations {
            for location in locations.iter().filter(|_| taken.contains(digest)) {
                let file = files[location.file];
                self.add_location(
                    *digest,
                    SourceLocation {
                        file,
                        ..location.clone()
                    },
                );
            }
        }
        let target = graph.target();
        Ok(Some(Output {
            digest: graph.vertex(target.vertex).digest,
            index: target.output,
        }))
    }

    fn insert(
        &mut self,
        digest: VertexDigest,
        bytes: Bytes,
        inputs: impl Iterator<Item = VertexDigest>,
        metadata: Arc<OpMetadata>,
    ) {
        if let Some(&known) = self.places.get(&digest) {
            return Arc::make_mut(&mut self.ops[known].metadata).merge(&metadata);
        }
        let inputs = inputs.filter_map(|input| self.places.get(&input).copied()).collect();
        self.places.insert(digest, self.ops.len());
        self.ops.push(Encoded {
            digest,
            bytes,
            inputs,
            metadata,
            locations: Vec::new(),
        });
    }

    /// Adds a file that locations can refer to, and returns its index.
    pub fn add_source_file(&mut self, file: SourceFile) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    fn known_source_file(&mut self, file: &SourceFile) -> usize {
        let known = self.files.iter().position(|known| known == file);
        known.unwrap_or_else(|| self.add_source_file(file.clone()))
    }

    /// Says where in the user's files `output`'s vertex comes from.
    pub fn locate(&mut self, output: Output, location: SourceLocation) {
        self.add_location(output.digest, location);
    }

    fn add_location(&mut self, digest: VertexDigest, location: SourceLocation) {
        let Some(&place) = self.places.get(&digest) else { return };
        let known = &mut self.ops[place].locations;
        if !known.contains(&location) {
            // Hardly any op has more than one.
            known.reserve_exact(1);
            known.push(location);
        }
    }

    /// The definition that asks for `target`, holding only what it depends on.
    pub fn finish(&self, target: Output) -> Definition {
        let wanted = self.reachable(target.digest);
        let mut wire = pb::Definition::default();
        wire.def.reserve_exact(self.ops.len() + 1);
        let mut known = HashMap::with_capacity(self.ops.len() + 1);
        let mut source = encode::source_files(&self.files);
        for (op, _) in self.ops.iter().zip(wanted).filter(|(_, is_wanted)| *is_wanted) {
            wire.def.push(op.bytes.clone());
            known.insert(op.digest, op.metadata.clone());
            if !op.locations.is_empty() {
                source
                    .locations
                    .insert(op.digest.to_string(), encode::locations(&op.locations));
            }
        }
        let terminal = canonical::encode_op(&pb::Op {
            inputs: vec![encode::input(target.digest, target.index)],
            ..pb::Op::default()
        });
        known.insert(Digest::sha256(&terminal), Arc::default());
        wire.def.push(terminal.into());
        wire.source = Some(source);
        Definition::new(wire, known)
    }

    /// Of each op, whether `target` is it or needs it.
    fn reachable(&self, target: VertexDigest) -> Vec<bool> {
        let mut wanted = vec![false; self.ops.len()];
        if let Some(&target) = self.places.get(&target) {
            wanted[target] = true;
            for place in (0..=target).rev() {
                if wanted[place] {
                    self.ops[place].inputs.iter().for_each(|input| wanted[*input] = true);
                }
            }
        }
        wanted
    }
}

impl OpMetadata {
    /// Metadata with a display name.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let mut metadata = Self::default();
        metadata.description.insert(Labels::CUSTOM_NAME, name);
        metadata
    }

    /// Joins what two users of one vertex say: whoever wants the cache ignored is heard.
    fn merge(&mut self, other: &Self) {
        self.ignore_cache |= other.ignore_cache;
        for (key, value) in other.description.iter() {
            if self.description.get(key).is_none() {
                self.description.insert(key.clone(), value.clone());
            }
        }
        self.caps.extend(other.caps.iter().cloned());
        if self.export_cache.is_none() {
            self.export_cache = other.export_cache;
        }
        if self.progress_group.is_none() {
            self.progress_group = other.progress_group.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::{CopyAction, FileAction, FileActionKind, LocalSource, SourceRange};

    fn local(name: &str) -> SourceOp {
        SourceOp::Local(LocalSource {
            name: name.to_owned(),
            ..LocalSource::default()
        })
    }

    fn at(file: usize, line: u32) -> SourceLocation {
        let range = SourceRange {
            start_line: line,
            end_line: line,
            ..SourceRange::default()
        };
        SourceLocation {
            file,
            ranges: vec![range],
        }
    }

    /// A copy of what an imported definition asks for.
    fn onto(builder: &mut Builder, output: Output) -> Output {
        let copy = FileActionKind::Copy(CopyAction::default());
        let action = FileAction {
            input: None,
            secondary: Some(crate::llb::ActionInput::Vertex(0)),
            output: Some(0),
            kind: copy,
        };
        builder.file(
            FileOp { actions: vec![action] },
            &[output],
            None,
            OpMetadata::named("copy"),
        )
    }

    #[test]
    fn imported_ops_keep_their_bytes() {
        let mut other = Builder::new();
        let mut loading = Builder::new();
        let loaded = loading.source(local("dockerfile"), None, OpMetadata::default());
        let loading = Arc::new(loading.finish(loaded));
        let file = other.add_source_file(SourceFile {
            filename: "other".to_owned(),
            definition: Some(loading.clone()),
            ..SourceFile::default()
        });
        let source = other.source(local("a"), None, OpMetadata::named("theirs"));
        other.locate(source, at(file, 7));
        // An op with a field that this version does not know, as a newer client may send it.
        let mut wire = other.finish(source).to_wire();
        let mut bytes = wire.def[0].to_vec();
        bytes.extend([0xfa, 0x3f, 0x01, 0x41]);
        let (before, digest) = (source.vertex().to_string(), Digest::sha256(&bytes));
        wire.def[0] = bytes.clone().into();
        let metadata = wire.metadata.remove(&before).expect("the source has metadata");
        wire.metadata.insert(digest.to_string(), metadata);
        let map = wire.source.as_mut().expect("there is a source map");
        let locations = map.locations.remove(&before).expect("the source has a place");
        map.locations.insert(digest.to_string(), locations);
        wire.def[1] = canonical::encode_op(&pb::Op {
            inputs: vec![encode::input(digest, 0)],
            ..pb::Op::default()
        })
        .into();

        let mut builder = Builder::new();
        let own = builder.add_source_file(SourceFile::default());
        let definition = Definition::from_wire(wire);
        let output = builder.import(&definition).unwrap().expect("not scratch");
        assert_eq!(builder.import(&definition).unwrap(), Some(output));
        assert_eq!(output.vertex(), digest);
        let target = onto(&mut builder, output);
        builder.locate(target, at(own, 1));
        let made = builder.finish(target);
        assert_eq!(made.to_wire().def[0], bytes);
        let graph = decode(&made).unwrap().expect("not scratch");
        let mut vertices = graph.topological().map(|index| graph.vertex(index));
        let vertex = vertices.find(|vertex| vertex.digest == digest);
        let vertex = vertex.expect("the source is in the graph");
        assert_eq!(vertex.name(), "theirs");
        assert_eq!(graph.source_map().files.len(), 2);
        assert_eq!(graph.source_map().files[1].filename, "other");
        let read_by = graph.source_map().files[1].definition.as_ref();
        assert_eq!(read_by.map(|read_by| read_by.ops()), Some(loading.ops()));
        assert_eq!(graph.source_map().locations[&digest], [at(1, 7)]);
    }

    #[test]
    fn what_is_malformed_is_not_imported() {
        let mut builder = Builder::new();
        assert_eq!(builder.import(&Definition::default()), Ok(None));
        let wire = pb::Definition {
            def: vec![Bytes::from_static(b"x"), Bytes::new()],
            ..pb::Definition::default()
        };
        assert!(builder.import(&Definition::from_wire(wire)).is_err());
    }
}
