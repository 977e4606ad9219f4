//! What of a build is exported as a cache.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::build::{Build, Inner};
use super::vertex::Node;
use crate::SolveError;
use crate::cache_key::{self, CacheKey, Dependency};
use crate::imported::{CacheRecord, InputLink, SelectedContent, record_digest, selector_digest};
use crate::llb::{Definition, Op};
use crate::worker::Ref;

/// What is known about a vertex when it is exported.
#[derive(Clone)]
pub(super) struct ExportedVertex {
    pub(super) key: CacheKey,
    /// `None` if its results are not known.
    pub(super) outputs: Option<Vec<Option<Ref>>>,
}

impl Build {
    /// Everything that is known about the vertices that `definitions` are made of, inputs before what uses them.
    ///
    /// Nothing is made for this: a vertex below a hit is exported as far as it is remembered. The results of those whose
    /// definition asks not to export them are left out; their records, which others are found by, are not.
    ///
    /// # Errors
    /// If a definition is malformed or the worker fails.
    pub async fn cache_records(&self, definitions: &[Arc<Definition>]) -> Result<Vec<CacheRecord>, SolveError> {
        let numbers = self.below(definitions).await?;
        self.inner.cache_records(&numbers).await
    }
}

impl Inner {
    async fn cache_records(&self, numbers: &BTreeSet<u32>) -> Result<Vec<CacheRecord>, SolveError> {
        let mut records: Vec<CacheRecord> = Vec::new();
        let mut by_key: HashMap<CacheKey, usize> = HashMap::new();
        let mut by_number: HashMap<u32, (usize, ExportedVertex)> = HashMap::new();
        // Inputs have lower numbers than what uses them. What only hands results on is no record.
        for &number in numbers {
            let node = self.at(number);
            if matches!(node.vertex.op, Op::Passthrough { .. } | Op::Build(_)) {
                continue;
            }
            let Some(vertex) = self.exported(&node).await? else {
                continue;
            };
            let inputs = self.export_inputs(&node, &by_number, &mut records).await;
            let position = *by_key.entry(vertex.key).or_insert_with(|| {
                records.push(CacheRecord {
                    digest: record_digest(&vertex.key),
                    outputs: None,
                    contents: Vec::new(),
                    inputs,
                });
                records.len() - 1
            });
            let is_wanted = node.vertex.metadata.export_cache != Some(false);
            if is_wanted && records[position].outputs.is_none() {
                records[position].outputs.clone_from(&vertex.outputs);
            }
            by_number.insert(number, (position, vertex));
        }
        Ok(records)
    }

    /// Links a vertex to the records of its inputs, and notes there what it selects in them.
    async fn export_inputs(
        &self,
        node: &Arc<Node>,
        known: &HashMap<u32, (usize, ExportedVertex)>,
        records: &mut [CacheRecord],
    ) -> Vec<InputLink> {
        let mut links = Vec::with_capacity(node.inputs.len());
        for (want, dependency) in node.inputs.iter().zip(cache_key::dependencies(&node.vertex)) {
            let Some((position, input)) = known.get(&want.node) else {
                continue;
            };
            let selectors = match dependency {
                Dependency::Identity => Vec::new(),
                Dependency::Content(selectors) => selectors,
            };
            for selector in &selectors {
                if let Some(digest) = self.selected(input, want.output, selector).await {
                    let content = SelectedContent {
                        output: want.output,
                        selector: selector_digest(selector),
                        digest,
                    };
                    let contents = &mut records[*position].contents;
                    if !contents.contains(&content) {
                        contents.push(content);
                    }
                }
            }
            links.push(InputLink {
                record: *position,
                selector: selectors.first().map(selector_digest),
            });
        }
        links
    }
}
