//! Builds inside of builds: a vertex whose result is that of a definition which another vertex made.
//!
//! The definition is read when the vertex is identified, and its vertices become vertices of the same build. The key of
//! the vertex is made of the key of what the definition asks for. So it holds for what is really in the result: tags
//! that moved and directories that changed count, even if the definition is the same.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::{Identified, Made, Node};
use crate::SolveError;
use crate::cache_key::InputPart;
use crate::engine::build::{Inner, Loaded, Want};
use crate::llb::{self, BuildOp, Definition, Graph, Op, SourceOp};
use crate::worker::WorkerError;

/// How deep definitions may be in one another.
pub(in crate::engine) const MAX_DEPTH: u8 = 16;
/// Most vertices of one build, once definitions are in one another.
const MAX_VERTICES: usize = 400_000;
/// Most definitions that are loaded by vertices of one build.
const MAX_DEFINITIONS: usize = 1_000;
/// Largest definition: what a client may send as well.
const MAX_BYTES: u64 = 16 << 20;

impl Inner {
    /// Loads what a nested build asks for, and finds out what that depends on.
    pub(super) async fn identify_nested(
        self: &Arc<Self>,
        node: &Arc<Node>,
        op: &BuildOp,
    ) -> Result<Identified, SolveError> {
        let loaded = self.load_nested(node, op).await;
        if let Err(error) = &loaded {
            // A failure of the input was told of as such.
            if node.state().started.is_some() {
                self.report_failed(node, error);
            }
        }
        let Some(want) = loaded? else {
            return Ok(Identified {
                key: self.preimage(&node.vertex, Vec::new()).key(),
                fresh: node.ignore_cache.load(Ordering::Relaxed),
                resolved: None,
                preimage: None,
            });
        };
        let target = self.identified(&self.at(want.node)).await?;
        let part = InputPart::Identity {
            key: target.key,
            output: want.output,
        };
        Ok(Identified {
            key: self.preimage(&node.vertex, vec![part]).key(),
            fresh: target.fresh || node.ignore_cache.load(Ordering::Relaxed),
            resolved: None,
            preimage: None,
        })
    }

    /// Reads a definition and takes its vertices in; `None` is scratch.
    async fn load_nested(self: &Arc<Self>, node: &Arc<Node>, op: &BuildOp) -> Result<Option<Want>, SolveError> {
        let input = self.whole(node.inputs[op.definition()]).await?;
        self.report_started(node);
        let refuse = |message: String| node.error(WorkerError::Invalid(message));
        if node.depth >= MAX_DEPTH {
            return Err(refuse(format!("nested builds are more than {MAX_DEPTH} deep")));
        }
        let file = op.file();
        let worker = &self.engine.worker;
        // One byte more, to see that there is more.
        let read = worker.read_file(input.result.as_ref(), Path::new(file), Some((0, MAX_BYTES + 1)));
        let bytes = tokio::select! {
            bytes = read => bytes.map_err(|error| node.error(error))?,
            () = self.cancel.cancelled() => return Err(SolveError::Cancelled),
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(refuse(format!(
                "the definition in {file} has more than {MAX_BYTES} bytes"
            )));
        }
        let malformed = |error| refuse(format!("failed to load the definition in {file}: {error}"));
        let definition = Definition::from_bytes(bytes).map_err(malformed)?;
        let admitted = self.admit(&definition).await?;
        let definition = admitted.unwrap_or(definition);
        let decode = move || llb::decode(&definition);
        // It may be large, and others would have to wait.
        let graph = tokio::task::spawn_blocking(decode).await;
        let graph = graph.map_err(|error| {
            let message = format!("internal error: loading a definition: {error}");
            node.error(WorkerError::Failed(message))
        })?;
        let want = match graph.map_err(malformed)? {
            None => None,
            Some(mut graph) => {
                self.check_own_sessions(&graph).map_err(refuse)?;
                let loaded = self.take_in(node, &mut graph)?;
                Some(self.begin_caches_anew(loaded).await?)
            }
        };
        self.report_completed(node, None);
        Ok(want)
    }

    /// Whatever wrote a nested definition was not the client: it does not choose whom to ask for files.
    fn check_own_sessions(&self, graph: &Graph) -> Result<(), String> {
        for index in graph.topological() {
            let session = match &graph.vertex(index).op {
                Op::Source(SourceOp::Local(local)) => local.session.as_deref(),
                Op::Source(SourceOp::OciLayout(layout)) => layout.session.as_deref(),
                Op::Source(SourceOp::Blob(blob)) => blob.layout.as_ref().and_then(|layout| layout.session.as_deref()),
                _ => None,
            };
            if session.is_some_and(|session| session != self.options.session) {
                let name = graph.name(index);
                return Err(format!("{name} in a nested build asks for files of another session"));
            }
        }
        Ok(())
    }

    fn take_in(&self, node: &Arc<Node>, graph: &mut Graph) -> Result<Loaded, SolveError> {
        let refuse = |message: String| node.error(WorkerError::Invalid(message));
        self.check(graph)?;
        // Held until the link is there: of two definitions that hold each other, the second to come sees the first.
        let mut definitions = self.definitions.lock();
        if *definitions >= MAX_DEFINITIONS {
            return Err(refuse(format!("more than {MAX_DEFINITIONS} nested builds in one")));
        }
        if self.vertex_count() + graph.len() > MAX_VERTICES {
            return Err(refuse(format!(
                "nested builds have more than {MAX_VERTICES} vertices in all"
            )));
        }
        *definitions += 1;
        let urgency = node.urgency.load(Ordering::Relaxed).saturating_add(1);
        let loaded = self.load(graph, node.depth + 1, urgency);
        if self.leads_to(loaded.want.node, node.number) {
            return Err(refuse("a nested build depends on itself".to_owned()));
        }
        // Only the one task that identifies the vertex sets it.
        let _is_first = node.nested.set(Box::new(loaded.want));
        Ok(loaded)
    }

    /// Whether a vertex needs another one, be it through nested builds.
    fn leads_to(&self, from: u32, to: u32) -> bool {
        let mut seen = HashSet::from([from]);
        let mut pending = vec![from];
        while let Some(number) = pending.pop() {
            if number == to {
                return true;
            }
            let node = self.at(number);
            let below = node.inputs.iter().map(|want| want.node);
            pending.extend(
                below
                    .chain(node.nested.get().map(|want| want.node))
                    .filter(|&number| seen.insert(number)),
            );
        }
        false
    }

    /// Makes what a nested build asks for.
    pub(super) async fn materialise_nested(self: &Arc<Self>, node: &Arc<Node>) -> Result<Made, SolveError> {
        let Some(want) = node.nested.get() else {
            return Ok(Made {
                key: self.preimage(&node.vertex, Vec::new()).key(),
                results: [None].into(),
            });
        };
        let made = self.made(**want).await?;
        Ok(Made {
            key: self.preimage(&node.vertex, vec![made.identity_part()]).key(),
            results: [made.result].into(),
        })
    }
}
