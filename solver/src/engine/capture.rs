//! What a build really used, for statements about its results.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::build::{Build, Inner, Want};
use crate::llb::{Definition, Op, SourceOp, Vertex, VertexDigest};
use crate::usage::Usage;
use crate::worker::{Ref, ResolvedSource};
use crate::{Digest, SolveError};

/// A vertex that a result was made of.
#[derive(Clone, Debug)]
pub struct CapturedVertex {
    /// What it did.
    pub vertex: Arc<Vertex>,
    /// For sources but directories of clients: what it stood for in this build.
    pub resolved: Option<Arc<ResolvedSource>>,
}

impl Build {
    /// Everything that the results of `definitions` are made of, inputs before what uses them, with the vertices of
    /// builds in them. The definitions were built before.
    ///
    /// It is the same whether results were made or known: a vertex is only known by what its sources stand for.
    ///
    /// # Errors
    /// The definition's; or that of a source which does not stand for anything.
    pub async fn capture(&self, definitions: &[Arc<Definition>]) -> Result<Vec<CapturedVertex>, SolveError> {
        let mut captured = Vec::new();
        for number in self.below(definitions).await? {
            let node = self.inner.at(number);
            let is_resolved = matches!(&node.vertex.op, Op::Source(source) if !matches!(source, SourceOp::Local(_)));
            captured.push(CapturedVertex {
                vertex: node.vertex.clone(),
                resolved: match is_resolved {
                    true => self.inner.resolved(&node).await?,
                    false => None,
                },
            });
        }
        Ok(captured)
    }

    /// What steps of this build used of the machine, if [`BuildOptions::measures`] says so: those that ran, and were not
    /// run already for a build that does not.
    ///
    /// [`BuildOptions::measures`]: crate::BuildOptions::measures
    pub fn usage(&self) -> HashMap<VertexDigest, Usage> {
        self.inner.usage.lock().clone()
    }

    /// The results of vertices as far as they are known, by vertex; nothing is made for this.
    ///
    /// # Errors
    /// If a definition is malformed or the worker fails.
    pub async fn known_results(
        &self,
        definition: &Arc<Definition>,
    ) -> Result<Vec<(Digest, Vec<Option<Ref>>)>, SolveError> {
        let mut known = Vec::new();
        for number in self.below(std::slice::from_ref(definition)).await? {
            let node = self.inner.at(number);
            if node.is_directory() {
                continue;
            }
            if let Some(outputs) = self.inner.known(&node).await? {
                known.push((node.vertex.digest, outputs));
            }
        }
        Ok(known)
    }

    /// The places of all vertices that `definitions` are made of.
    pub(super) async fn below(&self, definitions: &[Arc<Definition>]) -> Result<BTreeSet<u32>, SolveError> {
        let mut numbers = BTreeSet::new();
        for definition in definitions {
            let want = match self.inner.loaded(definition) {
                Some(want) => Some(want),
                None => self.load(definition).await?,
            };
            let mut pending: Vec<u32> = want.iter().map(|want| want.node).collect();
            while let Some(number) = pending.pop() {
                if numbers.insert(number) {
                    let node = self.inner.at(number);
                    pending.extend(node.inputs.iter().map(|want| want.node));
                    pending.extend(node.nested.get().map(|want| want.node));
                }
            }
        }
        Ok(numbers)
    }
}

impl Inner {
    /// What a definition asks for, if all of it was taken in before: decoding it again would take as long as then.
    fn loaded(&self, definition: &Definition) -> Option<Want> {
        let (vertex, output) = definition.target()?;
        Some(Want {
            node: self.number_of(&vertex)?,
            output,
        })
    }
}
