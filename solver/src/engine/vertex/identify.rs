//! Identifying a vertex: what its result depends on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::try_join_all;

use super::node::{Identity, Node};
use crate::SolveError;
use crate::cache_key::{self, CacheKey, Dependency, InputPart, Preimage};
use crate::engine::build::Inner;
use crate::index::InputEvidence;
use crate::llb::{Op, SourceOp, Vertex};
use crate::worker::WorkerError;

/// What an input adds of which everything counts.
pub(super) fn identity_part(key: CacheKey, output: usize) -> (InputPart, InputEvidence) {
    let part = InputPart::Identity {
        key: key.to_string(),
        output,
    };
    let evidence = InputEvidence {
        key,
        selectors: Vec::new(),
        result: None,
    };
    (part, evidence)
}

impl Inner {
    pub(super) async fn identify(self: &Arc<Self>, node: &Arc<Node>) -> Result<Identity, SolveError> {
        if let Op::Source(source) = &node.vertex.op {
            return self.identify_source(node, source).await;
        }
        let dependencies = cache_key::dependencies(&node.vertex);
        // Each by itself from end to end: an input that has to be made for its content must not wait for the others.
        let inputs = node.inputs.iter().zip(&dependencies);
        let inputs = try_join_all(inputs.map(async |(want, dependency)| {
            let input = self.node(&want.vertex)?;
            let identity = self.identity(&input).await?;
            let (part, evidence) = match dependency {
                Dependency::Identity => identity_part(identity.key, want.output),
                Dependency::Content(selectors) => self.content_part(node, *want, &identity, selectors).await?,
            };
            Ok::<_, SolveError>((part, evidence, identity.fresh && *dependency == Dependency::Identity))
        }))
        .await?;
        let depends_on_fresh = inputs.iter().any(|(_, _, is_fresh)| *is_fresh);
        let (parts, evidence): (_, Vec<_>) = inputs.into_iter().map(|(part, evidence, _)| (part, evidence)).unzip();
        let preimage = self.preimage(&node.vertex, parts);
        Ok(Identity {
            key: preimage.key(),
            preimage: Arc::new(preimage),
            inputs: evidence.into(),
            fresh: depends_on_fresh || node.ignore_cache.load(Ordering::Relaxed),
            resolved: None,
        })
    }

    pub(super) fn preimage(&self, vertex: &Vertex, parts: Vec<InputPart>) -> Preimage {
        let platform = vertex.platform.as_ref().or(self.platform.as_ref());
        cache_key::op_preimage(vertex, platform, parts)
    }

    async fn identify_source(self: &Arc<Self>, node: &Arc<Node>, source: &SourceOp) -> Result<Identity, SolveError> {
        // A directory of "the" session is another one for every client.
        let scope = match source {
            SourceOp::Local(local) if local.session.is_none() => self.options.session.clone(),
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
                    let outcome = worker.resolve_source(source, vertex.platform.as_ref(), &context).await;
                    shared.events.close();
                    outcome
                }
            },
        );
        let resolved = self.follow(node, ticket.shared(), ticket.wait()).await;
        self.report_completed(node, resolved.as_ref().err());
        let resolved = resolved?;
        let preimage = cache_key::source_preimage(&resolved);
        Ok(Identity {
            key: preimage.key(),
            preimage: Arc::new(preimage),
            inputs: Arc::default(),
            fresh: node.ignore_cache.load(Ordering::Relaxed),
            resolved: Some(resolved),
        })
    }
}
