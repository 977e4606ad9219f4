//! Ops before they are encoded.

use std::collections::HashMap;

use cairn_solver::Platform;
use cairn_solver::llb::{
    Builder, Definition, LocalSource, Op, OpMetadata, Output, SourceFile, SourceLocation, SourceOp, SourceRange,
};

use crate::location::Lines;

use super::UsedPaths;

/// An op in an [`Arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(usize);

/// Ops, each behind those it uses.
#[derive(Debug, Default)]
pub(super) struct Arena {
    nodes: Vec<Node>,
    locals: HashMap<String, NodeId>,
    used: HashMap<NodeId, UsedPaths>,
}

#[derive(Debug)]
struct Node {
    op: Op,
    inputs: Vec<NodeId>,
    platform: Option<Platform>,
    metadata: OpMetadata,
    lines: Option<Lines>,
}

impl Arena {
    pub(super) fn add(
        &mut self,
        op: Op,
        inputs: Vec<NodeId>,
        platform: Option<&Platform>,
        metadata: OpMetadata,
        lines: Option<Lines>,
    ) -> NodeId {
        self.nodes.push(Node {
            op,
            inputs,
            platform: platform.cloned(),
            metadata,
            lines,
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The directory of the client under `key`, made on first use. Nothing of it counts as used yet.
    pub(super) fn local(&mut self, key: &str, make: impl FnOnce() -> (LocalSource, OpMetadata)) -> NodeId {
        if let Some(&known) = self.locals.get(key) {
            return known;
        }
        let (source, metadata) = make();
        let node = self.add(Op::Source(SourceOp::Local(source)), Vec::new(), None, metadata, None);
        self.locals.insert(key.to_owned(), node);
        self.used.insert(node, UsedPaths::default());
        node
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

    /// Encodes what `target` needs.
    pub(super) fn finish(mut self, target: NodeId, file: &SourceFile) -> Definition {
        for (node, used) in self.used.drain() {
            if let Op::Source(SourceOp::Local(source)) = &mut self.nodes[node.0].op {
                source.follow_paths = used.follow_paths();
            }
        }
        let wanted = self.wanted(target);
        let mut builder = Builder::new();
        let file = builder.add_source_file(file.clone());
        let mut outputs: HashMap<NodeId, Output> = HashMap::new();
        for (index, node) in self.nodes.into_iter().enumerate().filter(|(index, _)| wanted[*index]) {
            let inputs: Vec<Output> = node.inputs.iter().map(|input| outputs[input]).collect();
            let output = builder.op(&node.op, &inputs, node.platform.as_ref(), node.metadata);
            builder.locate(
                output,
                SourceLocation {
                    file,
                    ranges: node.lines.map(ranges).unwrap_or_default(),
                },
            );
            outputs.insert(NodeId(index), output);
        }
        builder.finish(outputs[&target])
    }

    fn wanted(&self, target: NodeId) -> Vec<bool> {
        let mut wanted = vec![false; self.nodes.len()];
        let mut pending = vec![target];
        while let Some(node) = pending.pop() {
            if !std::mem::replace(&mut wanted[node.0], true) {
                pending.extend(&self.nodes[node.0].inputs);
            }
        }
        wanted
    }
}

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
