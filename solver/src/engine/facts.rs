//! What a build finds out about sources besides their contents: each thing once, so that a tag means one thing
//! throughout.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::build::Inner;
use crate::llb::{HttpSource, Op, SourceOp};
use crate::worker::{AttestationChain, ChecksumRequest, ImageQuery, ResolvedImage, SourceMeta, WorkerError};
use crate::{Digest, SolveError};

/// What is known already, by what was asked.
#[derive(Default)]
pub(super) struct Known {
    images: Mutex<HashMap<String, Arc<OnceCell<ResolvedImage>>>>,
    metas: Mutex<HashMap<String, Arc<OnceCell<SourceMeta>>>>,
}

/// Asks the worker about sources on behalf of a build. Policies are not asked here.
pub struct SourceFacts {
    inner: Arc<Inner>,
}

impl SourceFacts {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Resolves an image reference; shown to users as a step named `log_name`, or a name made of the reference.
    ///
    /// # Errors
    /// The worker's.
    pub async fn image(&self, query: &ImageQuery, log_name: &str) -> Result<ResolvedImage, SolveError> {
        let platform = query.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let key = format!(
            "resolve-image {} {platform} {:?} {:?}",
            query.reference, query.mode, query.layout
        );
        let cell = self.inner.known.images.lock().entry(key.clone()).or_default().clone();
        let ask = async || {
            let name = if log_name.is_empty() {
                let scheme = match &query.layout {
                    None => "docker-image",
                    Some(_) => "oci-layout",
                };
                format!("resolve image config for {scheme}://{}", query.reference)
            } else {
                log_name.to_owned()
            };
            let step = self.inner.step(&key, &name);
            let context = step.context();
            let outcome = tokio::select! {
                outcome = self.inner.engine.worker().resolve_image(query, &context) => outcome,
                () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
            };
            step.finish(outcome)
        };
        cell.get_or_try_init(ask).await.cloned()
    }

    /// Finds out what is stated of an image that was resolved to `root`; shown to users as a step of its own.
    ///
    /// # Errors
    /// The worker's.
    pub async fn attestations(
        &self,
        query: &ImageQuery,
        root: Digest,
        predicates: &[String],
    ) -> Result<AttestationChain, SolveError> {
        let key = format!("attestations {query:?} {root} {predicates:?}");
        let step = self
            .inner
            .step(&key, &format!("resolve attestations of {}", query.reference));
        let context = step.context();
        let worker = self.inner.engine.worker();
        let outcome = tokio::select! {
            outcome = worker.attestations(query, root, predicates, &context) => outcome,
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        };
        step.finish(outcome)
    }

    /// Finds out about a git or http source what its contents do not tell; shown to users as an image is.
    ///
    /// # Errors
    /// The worker's.
    pub async fn meta(&self, source: &SourceOp, log_name: &str) -> Result<SourceMeta, SolveError> {
        let key = format!("source-meta {source:?}");
        let cell = self.inner.known.metas.lock().entry(key.clone()).or_default().clone();
        let ask = async || {
            let name = if log_name.is_empty() {
                format!("resolve source metadata for {}", Op::Source(source.clone()).name())
            } else {
                log_name.to_owned()
            };
            let step = self.inner.step(&key, &name);
            let context = step.context();
            let outcome = tokio::select! {
                outcome = self.inner.engine.worker().source_meta(source, &context) => outcome,
                () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
            };
            step.finish(outcome)
        };
        cell.get_or_try_init(ask).await.cloned()
    }

    /// Hashes the file that a URL was found to stand for, and more; shown to users as a step of its own.
    ///
    /// # Errors
    /// The worker's.
    pub async fn checksum(&self, source: &HttpSource, request: &ChecksumRequest) -> Result<String, SolveError> {
        let key = format!("source-checksum {request:?} {source:?}");
        let name = format!("hash {} with {}", source.url, request.algorithm.name());
        let step = self.inner.step(&key, &name);
        let context = step.context();
        let outcome = tokio::select! {
            outcome = self.inner.engine.worker().source_checksum(source, request, &context) => outcome,
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        };
        step.finish(outcome)
    }
}
