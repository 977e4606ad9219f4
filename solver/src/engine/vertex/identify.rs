//! Identifying a vertex: what its result depends on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::{Identified, Identity, Node};
use crate::cache_key::{self, CacheKey, InputPart, Preimage};
use crate::engine::build::Inner;
use crate::index::InputEvidence;
use crate::llb::{Op, SourceOp, Vertex};
use crate::worker::WorkerError;
use crate::{Platform, SolveError};

/// What an input adds of which everything counts.
pub(super) fn identity_part(key: CacheKey, output: usize) -> (InputPart, InputEvidence) {
    let part = InputPart::Identity { key, output };
    let evidence = InputEvidence {
        key,
        selectors: Vec::new(),
        result: None,
    };
    (part, evidence)
}

impl Inner {
    /// Identifies a vertex of whose key all parts are there.
    pub(super) fn identify(&self, node: &Node) -> Identified {
        let (parts, depends_on_fresh) = node.take_parts();
        let key = cache_key::op_key(&node.vertex, self.platform_of(&node.vertex), &parts);
        let preimage = self
            .may_import_any()
            .then(|| Arc::new(self.preimage(&node.vertex, parts)));
        Identified {
            key,
            fresh: depends_on_fresh || node.ignore_cache.load(Ordering::Relaxed),
            resolved: None,
            preimage,
        }
    }

    /// What a vertex without inputs is recorded as.
    pub(super) fn identity_of(&self, node: &Node, identified: &Identified) -> Identity {
        let preimage = match &identified.resolved {
            Some(resolved) => cache_key::source_preimage(resolved),
            None => self.preimage(&node.vertex, Vec::new()),
        };
        Identity {
            key: identified.key,
            known: node.known(preimage, Vec::new()),
            fresh: identified.fresh,
            resolved: identified.resolved.clone(),
        }
    }

    pub(super) fn preimage(&self, vertex: &Vertex, parts: Vec<InputPart>) -> Preimage {
        cache_key::op_preimage(vertex, self.platform_of(vertex), parts)
    }

    fn platform_of<'a>(&'a self, vertex: &'a Vertex) -> Option<&'a Platform> {
        vertex.platform.as_deref().or(self.platform.as_ref())
    }

    /// Finds out what a source stands for.
    pub(super) async fn identify_source(self: &Arc<Self>, node: &Arc<Node>) -> Result<Identified, SolveError> {
        // A directory of "the" session is another one for every client.
        let scope = match &node.vertex.op {
            Op::Source(SourceOp::Local(local)) if local.session.is_none() => self.options.session.clone(),
            _ => String::new(),
        };
        self.report_started(node);
        let engine = &self.engine;
        let (ticket, _) = engine.resolving.join(
            (node.vertex.digest, scope),
            || self.shared(),
            |shared, cancel| {
                let (worker, vertex) = (engine.worker.clone(), node.vertex.clone());
                async move {
                    let Op::Source(source) = &vertex.op else {
                        return Err(WorkerError::Invalid("only sources are resolved".to_owned()));
                    };
                    let context = shared.context(vertex.digest, cancel);
                    let outcome = worker
                        .resolve_source(source, vertex.platform.as_deref(), &context)
                        .await;
                    shared.events.close();
                    outcome
                }
            },
        );
        let resolved = self.follow(node, ticket.shared(), ticket.wait()).await;
        self.report_completed(node, resolved.as_ref().err());
        let resolved = resolved?;
        let preimage = cache_key::source_preimage(&resolved);
        Ok(Identified {
            key: preimage.key(),
            fresh: node.ignore_cache.load(Ordering::Relaxed),
            resolved: Some(Arc::new(resolved)),
            preimage: (!self.imports.is_empty()).then(|| Arc::new(preimage)),
        })
    }
}
