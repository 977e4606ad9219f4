//! Taking the vertices of definitions into a build.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;

use super::{Inner, Want};
use crate::SolveError;
use crate::engine::vertex::Node;
use crate::llb::{self, Definition, Edge, Graph, MountKind, Op, SourceFile, SourceLocation, Vertex, VertexDigest};
use crate::progress::{Event, VertexHeader};
use crate::worker::CacheName;

/// What is known of a definition whose vertices were taken in.
pub(in crate::engine) struct Loaded {
    /// What it asks for.
    pub(in crate::engine) want: Want,
    /// Directories that its steps mount and that are to begin anew, before any of them runs.
    pub(in crate::engine) anew: Vec<CacheName>,
}

impl Inner {
    /// Decodes a definition, checks that its vertices are allowed, and announces them.
    pub(super) fn decode_and_load(&self, definition: &Definition) -> Result<Option<Loaded>, SolveError> {
        let Some(mut graph) = llb::decode(definition)? else {
            return Ok(None);
        };
        self.check(&mut graph)?;
        Ok(Some(self.load(&graph, 0, 0)))
    }

    /// Takes a graph's vertices in and announces those that are new.
    ///
    /// `depth` is in how many nested builds the graph is, and `urgency` the length of the chain that waits for it.
    pub(in crate::engine) fn load(&self, graph: &Graph, depth: u8, urgency: u32) -> Loaded {
        let mut nodes = self.nodes.write();
        let first = nodes.in_order.len();
        nodes.in_order.reserve(graph.len());
        nodes.by_digest.reserve(graph.len());
        let mut numbers = Vec::with_capacity(graph.len());
        let mut anew = BTreeSet::new();
        for index in graph.topological() {
            let vertex = graph.vertex(index);
            let number = match nodes.by_digest.get(&vertex.digest) {
                Some(&known) => {
                    let node = &nodes.in_order[known as usize];
                    if !node.ignore_cache.load(Ordering::Relaxed) {
                        anew.extend(caches_to_begin_anew(vertex));
                    }
                    node.add_metadata(&vertex.metadata, places(graph, &vertex.digest));
                    known
                }
                None => {
                    anew.extend(caches_to_begin_anew(vertex));
                    let number = u32::try_from(nodes.in_order.len()).expect("no build has as many vertices");
                    let inputs = vertex.inputs.iter().map(|edge| want(&numbers, *edge)).collect();
                    let places = places(graph, &vertex.digest);
                    let header = VertexHeader {
                        digest: vertex.digest,
                        inputs: distinct(graph, vertex),
                        name: graph.name(index),
                        group: vertex.metadata.progress_group.clone(),
                    };
                    let node = Node::new(number, vertex.clone(), header, inputs, places, depth);
                    nodes.in_order.push(Arc::new(node));
                    nodes.by_digest.insert(vertex.digest, number);
                    number
                }
            };
            numbers.push(number);
        }
        let target = want(&numbers, graph.target());
        let waiting = &nodes.in_order[target.node as usize].urgency;
        waiting.fetch_max(urgency, Ordering::Relaxed);
        // From the target down, so that the chain of what waits for a vertex is known before its inputs' turn.
        for index in graph.topological().rev() {
            let node = &nodes.in_order[numbers[index.index()] as usize];
            let below = node.urgency.load(Ordering::Relaxed).saturating_add(1);
            for input in &node.inputs {
                nodes.in_order[input.node as usize]
                    .urgency
                    .fetch_max(below, Ordering::Relaxed);
            }
        }
        // Whatever comes to be known of them comes later: nobody has their places yet.
        let nodes = RwLockWriteGuard::downgrade(nodes);
        let new = nodes.in_order[first..].iter();
        self.events.push_all(new.map(|node| Event::Vertex(node.state())));
        Loaded {
            want: target,
            anew: anew.into_iter().collect(),
        }
    }

    /// Has the directories of what was taken in begin anew that have to.
    pub(in crate::engine) async fn begin_caches_anew(&self, loaded: Loaded) -> Result<Want, SolveError> {
        if !loaded.anew.is_empty() {
            self.engine.worker.begin_caches_anew(loaded.anew).await?;
        }
        Ok(loaded.want)
    }
}

/// The directories of a step that ignores what is cached: what earlier runs left in them is cached as well.
fn caches_to_begin_anew(vertex: &Vertex) -> impl Iterator<Item = CacheName> {
    let mounts = match &vertex.op {
        Op::Exec(exec) if vertex.metadata.ignore_cache => exec.mounts.as_slice(),
        _ => &[],
    };
    mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache { id, .. } => Some(CacheName {
            id: id.clone(),
            seeded: mount.input.is_some(),
        }),
        _ => None,
    })
}

/// An edge of a graph as the output of a vertex of the build, given the places of the graph's vertices.
fn want(numbers: &[u32], edge: Edge) -> Want {
    Want {
        node: numbers[edge.vertex.index()],
        output: edge.output,
    }
}

/// The vertices among inputs, each once.
fn distinct(graph: &Graph, vertex: &Vertex) -> Box<[VertexDigest]> {
    let digest = |edge: &Edge| graph.vertex(edge.vertex).digest;
    let inputs = &vertex.inputs;
    // Most have so few that looking at them all is the fastest.
    if inputs.len() <= 8 {
        let is_first = |(n, edge): &(usize, &Edge)| !inputs[..*n].iter().any(|other| other.vertex == edge.vertex);
        let first = inputs.iter().enumerate().filter(is_first);
        return first.map(|(_, edge)| digest(edge)).collect();
    }
    let mut seen = HashSet::with_capacity(inputs.len());
    inputs
        .iter()
        .filter(|edge| seen.insert(edge.vertex))
        .map(digest)
        .collect()
}

fn places(graph: &Graph, vertex: &VertexDigest) -> Vec<(Arc<SourceFile>, SourceLocation)> {
    let map = graph.source_map();
    map.locations
        .get(vertex)
        .into_iter()
        .flatten()
        .filter_map(|location| Some((map.files.get(location.file)?.clone(), location.clone())))
        .collect()
}
