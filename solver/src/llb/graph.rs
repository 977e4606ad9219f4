//! The decoded graph of a build.

use std::sync::Arc;

use cairn_proto::pb;

use super::definition::SourceMap;
use super::op::{CdiDevice, Labels, Op, OpMetadata, SourceOp};
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
    pub platform: Option<Arc<Platform>>,
    /// Filters on workers, one of which must match; empty for any worker.
    pub constraints: Box<[String]>,
    /// Everything that does not change its result.
    pub metadata: Arc<OpMetadata>,
}

impl Vertex {
    /// The wire form of what it does, without its inputs: for telling others.
    pub fn to_wire(&self) -> pb::Op {
        super::encode::op_alone(&self.op, self.inputs.len(), self.platform.as_deref())
    }
}

/// A vertex's place in its graph: inputs have lower ones than what uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(u32);

impl NodeIndex {
    /// The place with this number.
    ///
    /// # Panics
    /// If it is beyond what any graph holds.
    pub fn new(number: usize) -> Self {
        Self(u32::try_from(number).expect("graphs are much smaller"))
    }

    /// The number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
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
    /// Inputs before what uses them.
    pub(super) vertices: Vec<Arc<Vertex>>,
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
    pub fn vertex(&self, index: NodeIndex) -> &Arc<Vertex> {
        &self.vertices[index.index()]
    }

    /// Has a process ask for these devices.
    ///
    /// # Panics
    /// If `index` is of another graph.
    pub(crate) fn set_devices(&mut self, index: NodeIndex, devices: Vec<CdiDevice>) {
        if let Op::Exec(exec) = &mut Arc::make_mut(&mut self.vertices[index.index()]).op {
            exec.devices = devices;
        }
    }

    /// All vertices, inputs before what uses them.
    pub fn topological(&self) -> impl DoubleEndedIterator<Item = NodeIndex> + ExactSizeIterator + use<> {
        (0..self.vertices.len()).map(NodeIndex::new)
    }

    /// Number of vertices.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there is no vertex; never so for a decoded graph.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// The name of a vertex that users are shown: the custom one, else one made from the op and, for a merge and a
    /// difference, the names of its inputs. Those are clipped where they get too long.
    ///
    /// # Panics
    /// If `index` is of another graph.
    pub fn name(&self, index: NodeIndex) -> Arc<str> {
        if let Some(name) = self.vertex(index).custom_name() {
            return name.clone();
        }
        let mut name = String::new();
        // No recursion: graphs are deep, and what is left out by the limit is not looked at.
        let mut pending = vec![NamePart::Vertex(index)];
        let is_made = self.name_parts(self.vertex(index), 0).is_some();
        while let Some(part) = pending.pop() {
            match part {
                NamePart::Text(text) => name.push_str(text),
                NamePart::Vertex(index) => match self.name_parts(self.vertex(index), MAX_MADE_NAME - name.len()) {
                    Some(parts) => pending.extend(parts.into_iter().rev()),
                    None => name.push_str(&self.vertex(index).name()),
                },
            }
            if name.len() > MAX_MADE_NAME && is_made {
                let end = (0..=MAX_MADE_NAME).rev().find(|&end| name.is_char_boundary(end));
                name.truncate(end.unwrap_or_default());
                name.push('…');
                break;
            }
        }
        name.into()
    }

    /// What the name of a vertex is made of, if that includes the names of its inputs; enough of it for `room` bytes.
    fn name_parts(&self, vertex: &Vertex, room: usize) -> Option<Vec<NamePart>> {
        if vertex.custom_name().is_some() {
            return None;
        }
        let input = |position: usize| NamePart::Vertex(vertex.inputs[position].vertex);
        let side = |position: Option<usize>| match position {
            Some(position) => vec![NamePart::Text("("), input(position), NamePart::Text(")")],
            None => vec![NamePart::Text("scratch")],
        };
        match &vertex.op {
            Op::Merge { inputs } => {
                let mut parts = vec![NamePart::Text("merge (")];
                for (n, &position) in inputs.iter().take(room / 2 + 1).enumerate() {
                    parts.extend((n > 0).then_some(NamePart::Text(", ")));
                    parts.push(input(position));
                }
                parts.push(NamePart::Text(")"));
                Some(parts)
            }
            Op::Diff { lower, upper } => {
                let (diff, to) = (NamePart::Text("diff "), NamePart::Text(" -> "));
                Some([vec![diff], side(*lower), vec![to], side(*upper)].concat())
            }
            _ => None,
        }
    }

    /// Where vertices come from in the user's files.
    pub fn source_map(&self) -> &SourceMap {
        &self.source_map
    }
}

/// Length, in bytes, from which on a name made of the names of inputs is clipped: they nest, and may double each time.
const MAX_MADE_NAME: usize = 512;

/// A part of the name of a vertex.
#[derive(Clone)]
enum NamePart {
    Text(&'static str),
    Vertex(NodeIndex),
}

impl Vertex {
    /// The custom name, else one made from the op alone; [`Graph::name`] also knows the inputs' names.
    pub fn name(&self) -> String {
        self.custom_name().map_or_else(|| self.op.name(), ToString::to_string)
    }

    /// The name that the client gave it.
    pub fn custom_name(&self) -> Option<&Arc<str>> {
        let name = self.metadata.description.get(Labels::CUSTOM_NAME);
        name.filter(|name| !name.is_empty())
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
            Self::Source(SourceOp::OciLayout(layout)) => format!("oci-layout://{}", layout.reference),
            Self::Source(SourceOp::Git(git)) => git.identifier(),
            Self::Source(SourceOp::Http(http)) => http.url.clone(),
            Self::Source(SourceOp::Blob(blob)) => blob.identifier(),
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
            Self::Build(_) => "build".to_owned(),
        }
    }

    /// How many outputs a vertex with this op has.
    pub fn output_count(&self) -> usize {
        match self {
            Self::Source(_) | Self::Merge { .. } | Self::Diff { .. } | Self::Build(_) => 1,
            Self::Exec(exec) => exec.mounts.iter().filter(|mount| mount.output.is_some()).count(),
            Self::File(file) => file.actions.iter().filter(|action| action.output.is_some()).count(),
            Self::Passthrough { outputs, .. } => outputs.len(),
        }
    }
}
