//! The decoded graph of a build.

use std::collections::BTreeMap;

use petgraph::stable_graph::{NodeIndex, StableDiGraph};

use super::definition::SourceMap;
use super::op::{Op, OpMetadata, SourceOp};
use crate::{Digest, Platform};

/// Names a vertex to clients: the sha256 of its op's bytes as they came in.
pub type VertexDigest = Digest;

/// An op with its inputs.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// Identity.
    pub digest: VertexDigest,
    /// What it does.
    pub op: Op,
    /// What it depends on, in the order that the op's input indexes refer to.
    pub inputs: Vec<Edge>,
    /// What it runs on; `None` for the worker's default.
    pub platform: Option<Platform>,
    /// Everything that does not change its result.
    pub metadata: OpMetadata,
}

/// One output of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The vertex.
    pub vertex: NodeIndex,
    /// Which of its outputs.
    pub output: usize,
}

/// A validated, acyclic graph and the output asked of it.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(super) vertices: StableDiGraph<Vertex, ()>,
    pub(super) by_digest: BTreeMap<VertexDigest, NodeIndex>,
    pub(super) target: Edge,
    pub(super) source_map: SourceMap,
}

impl Graph {
    /// The output the definition asks for.
    pub fn target(&self) -> Edge {
        self.target
    }

    /// A vertex of this graph.
    ///
    /// # Panics
    /// If `index` is of another graph.
    pub fn vertex(&self, index: NodeIndex) -> &Vertex {
        &self.vertices[index]
    }

    /// All vertices, inputs before what uses them.
    pub fn topological(&self) -> Vec<NodeIndex> {
        petgraph::algo::toposort(&self.vertices, None).unwrap_or_default()
    }

    /// Number of vertices.
    pub fn len(&self) -> usize {
        self.vertices.node_count()
    }

    /// Whether there is no vertex; never so for a decoded graph.
    pub fn is_empty(&self) -> bool {
        self.vertices.node_count() == 0
    }

    /// The vertex with this digest.
    pub fn find(&self, digest: &VertexDigest) -> Option<NodeIndex> {
        self.by_digest.get(digest).copied()
    }

    /// Where vertices come from in the user's files.
    pub fn source_map(&self) -> &SourceMap {
        &self.source_map
    }
}

impl Vertex {
    /// The name shown to users: the custom one, else one made from the op.
    pub fn name(&self) -> String {
        match self.metadata.description.get("llb.customname") {
            Some(name) if !name.is_empty() => name.clone(),
            _ => self.op.name(),
        }
    }

    /// How many outputs the op has.
    pub fn output_count(&self) -> usize {
        self.op.output_count()
    }
}

impl Op {
    /// A display name for ops without a custom one.
    pub fn name(&self) -> String {
        use super::op::FileActionKind as F;
        match self {
            Self::Source(SourceOp::Image(image)) => format!("docker-image://{}", image.reference),
            Self::Source(SourceOp::Local(local)) => format!("local://{}", local.name),
            Self::Exec(exec) => exec.args.join(" "),
            Self::File(file) => {
                let names: Vec<String> = file
                    .actions
                    .iter()
                    .map(|action| match &action.kind {
                        F::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
                        F::Mkfile { path, .. } => format!("mkfile {path}"),
                        F::Mkdir { path, .. } => format!("mkdir {path}"),
                        F::Rm { path, .. } => format!("rm {path}"),
                        F::Symlink { old_path, new_path, .. } => format!("symlink {new_path} -> {old_path}"),
                    })
                    .collect();
                names.join(", ")
            }
            Self::Merge { .. } => "merge".to_owned(),
            Self::Diff { .. } => "diff".to_owned(),
            Self::Passthrough { id, .. } => format!("passthrough {id}"),
        }
    }

    /// How many outputs a vertex with this op has.
    pub fn output_count(&self) -> usize {
        match self {
            Self::Source(_) | Self::Merge { .. } | Self::Diff { .. } => 1,
            Self::Exec(exec) => exec.mounts.iter().filter(|mount| mount.output.is_some()).count(),
            Self::File(file) => file.actions.iter().filter(|action| action.output.is_some()).count(),
            Self::Passthrough { outputs, .. } => outputs.len(),
        }
    }
}
