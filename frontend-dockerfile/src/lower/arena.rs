//! Ops before they are encoded.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_solver::Platform;
use cairn_solver::llb::{
    Builder, DecodeError, Definition, LocalSource, Op, OpMetadata, Output, SourceFile, SourceLocation, SourceOp,
    SourceRange,
};

use crate::location::Lines;

use super::UsedPaths;

/// An op in an [`Arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(usize);

/// The inputs of an op under construction, each once.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    nodes: Vec<NodeId>,
    places: HashMap<NodeId, usize>,
}

impl Inputs {
    /// The index of `node` among the inputs.
    pub(super) fn index(&mut self, node: NodeId) -> usize {
        *self.places.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    pub(super) fn into_nodes(self) -> Vec<NodeId> {
        self.nodes
    }
}

/// Ops, each behind those it uses.
#[derive(Debug, Default)]
pub(super) struct Arena {
    nodes: Vec<Node>,
    /// Nodes that many instructions use, by what they are called here.
    named: HashMap<String, NodeId>,
    used: HashMap<NodeId, UsedPaths>,
}

#[derive(Debug)]
struct Node {
    content: Content,
    inputs: Vec<NodeId>,
    platform: Option<Arc<Platform>>,
    metadata: OpMetadata,
    lines: Option<Lines>,
    /// What others say who use the same op.
    others: Vec<(OpMetadata, Option<Lines>)>,
}

#[derive(Debug)]
enum Content {
    Op(Box<Op>),
    /// Whatever a graph made elsewhere comes to; there must be something in it.
    Graph(Arc<Definition>),
}

/// Ops, encoded.
pub(super) struct Encoded {
    pub(super) builder: Builder,
    /// What each of them came to, in their order.
    outputs: Vec<Option<Output>>,
}

impl Encoded {
    /// What an op came to that was among the targets, or that they need.
    ///
    /// # Panics
    /// If it was not.
    pub(super) fn output(&self, node: NodeId) -> Output {
        self.outputs[node.0].expect("the op was needed")
    }
}

impl Arena {
    pub(super) fn add(
        &mut self,
        op: Op,
        inputs: Vec<NodeId>,
        platform: Option<&Arc<Platform>>,
        metadata: OpMetadata,
        lines: Option<Lines>,
    ) -> NodeId {
        self.nodes.push(Node {
            content: Content::Op(Box::new(op)),
            inputs,
            platform: platform.cloned(),
            metadata,
            lines,
            others: Vec::new(),
        });
        NodeId(self.nodes.len() - 1)
    }

    /// An image, which is one op for all who use it on the same platform: an op has each of its inputs once.
    pub(super) fn image(
        &mut self,
        source: SourceOp,
        platform: &Arc<Platform>,
        metadata: OpMetadata,
        lines: Option<Lines>,
    ) -> NodeId {
        let key = format!("image:{platform:?}:{source:?}");
        if let Some(&known) = self.named.get(&key) {
            self.nodes[known.0].others.push((metadata, lines));
            return known;
        }
        let node = self.add(Op::Source(source), Vec::new(), Some(platform), metadata, lines);
        self.named.insert(key, node);
        node
    }

    /// The result of a graph that was made elsewhere; `None` is scratch. Under one `key` it is taken over once.
    pub(super) fn graph(&mut self, key: &str, definition: &Arc<Definition>, lines: Option<Lines>) -> Option<NodeId> {
        if definition.is_empty() {
            return None;
        }
        if let Some(&known) = self.named.get(key) {
            return Some(known);
        }
        self.nodes.push(Node {
            content: Content::Graph(Arc::clone(definition)),
            inputs: Vec::new(),
            platform: None,
            metadata: OpMetadata::default(),
            lines,
            others: Vec::new(),
        });
        let node = NodeId(self.nodes.len() - 1);
        self.named.insert(key.to_owned(), node);
        Some(node)
    }

    /// The directory of the client under `key`, made on first use. Nothing of it counts as used yet.
    pub(super) fn local(&mut self, key: &str, make: impl FnOnce() -> (LocalSource, OpMetadata)) -> NodeId {
        if let Some(&known) = self.named.get(key) {
            return known;
        }
        let (source, metadata) = make();
        let node = self.add(Op::Source(SourceOp::Local(source)), Vec::new(), None, metadata, None);
        self.named.insert(key.to_owned(), node);
        self.used.insert(node, UsedPaths::default());
        node
    }

    /// What many instructions use under this name, if any does so far.
    pub(super) fn known(&self, key: &str) -> Option<NodeId> {
        self.named.get(key).copied()
    }

    /// Notes that `path` of `node` is used; of interest only if it is a client's directory.
    pub(super) fn use_path(&mut self, node: NodeId, path: &str) {
        if let Some(used) = self.used.get_mut(&node) {
            used.add(path);
        }
    }

    /// Notes that anything in `node` may be used.
    pub(super) fn use_all_of(&mut self, node: NodeId) {
        self.use_path(node, "/");
    }

    /// Encodes what `targets` need.
    ///
    /// # Errors
    /// If a graph made elsewhere is malformed.
    pub(super) fn encode(
        mut self,
        targets: impl IntoIterator<Item = NodeId>,
        file: &SourceFile,
    ) -> Result<Encoded, DecodeError> {
        for (node, used) in self.used.drain() {
            if let Content::Op(op) = &mut self.nodes[node.0].content
                && let Op::Source(SourceOp::Local(source)) = &mut **op
            {
                source.follow_paths = used.follow_paths();
            }
        }
        let wanted = self.wanted(targets.into_iter().collect());
        let mut encoded = Encoded {
            builder: Builder::with_capacity(self.nodes.len()),
            outputs: vec![None; self.nodes.len()],
        };
        let file = encoded.builder.add_source_file(file.clone());
        let mut ranges_left = MAX_RANGES;
        for (index, node) in self.nodes.into_iter().enumerate().filter(|(index, _)| wanted[*index]) {
            let inputs: Vec<Output> = node.inputs.iter().map(|input| encoded.output(*input)).collect();
            let builder = &mut encoded.builder;
            let is_own = matches!(node.content, Content::Op(_));
            let output = match node.content {
                Content::Op(op) => {
                    let platform = node.platform.as_deref();
                    let again: Vec<Op> = node.others.iter().map(|_| Op::clone(&op)).collect();
                    let output = builder.op(*op, &inputs, platform, node.metadata);
                    for (op, (metadata, _)) in again.into_iter().zip(&node.others) {
                        builder.op(op, &inputs, platform, metadata.clone());
                    }
                    output
                }
                Content::Graph(definition) => builder.import(&definition)?.ok_or(DecodeError::TooFew(0))?,
            };
            let places = std::iter::once(node.lines).chain(node.others.iter().map(|(_, lines)| *lines));
            for lines in places.filter(|lines| is_own || lines.is_some()) {
                let mut ranges = lines.map(ranges).unwrap_or_default();
                if ranges.len() > ranges_left {
                    ranges.truncate(1);
                }
                ranges_left = ranges_left.saturating_sub(ranges.len());
                builder.locate(output, SourceLocation { file, ranges });
            }
            encoded.outputs[index] = Some(output);
        }
        Ok(encoded)
    }

    fn wanted(&self, mut pending: Vec<NodeId>) -> Vec<bool> {
        let mut wanted = vec![false; self.nodes.len()];
        while let Some(node) = pending.pop() {
            if !std::mem::replace(&mut wanted[node.0], true) {
                pending.extend(&self.nodes[node.0].inputs);
            }
        }
        wanted
    }
}

/// Most ranges in one graph. An instruction of many lines may be many ops, each of which is at all of these lines.
const MAX_RANGES: usize = 4 << 20;

/// One range per line, as clients expect them.
pub(crate) fn ranges(lines: Lines) -> Vec<SourceRange> {
    // A here-document may be long; nobody looks at more lines than this.
    const MAX: u32 = 10_000;
    let last = lines.last.min(lines.first.saturating_add(MAX));
    (lines.first..=last)
        .map(|line| SourceRange {
            start_line: line,
            end_line: line,
            ..SourceRange::default()
        })
        .collect()
}
