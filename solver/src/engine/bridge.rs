//! What a build offers to frontends.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::build::Build;
use crate::frontend::{Bridge, BridgeRef, FrontendError, FrontendRequest, FrontendResult};
use crate::llb::{Definition, Op, SourceOp};
use crate::progress::{Event, Warning};
use crate::worker::{FileStat, ImageQuery, Ref, ResolvedImage, SourceMeta, WorkerError, WorkerInfo};
use crate::{Digest, SolveError};

/// A [`Bridge`] onto a build: names results, and makes them when something needs them.
pub struct BuildBridge {
    build: Arc<Build>,
    refs: Mutex<Refs>,
    frontends: Arc<dyn Frontends>,
    /// Image references resolved for this build, so that a tag means one thing throughout.
    images: Mutex<HashMap<String, Arc<OnceCell<ResolvedImage>>>>,
    /// The same for other sources.
    metas: Mutex<HashMap<String, Arc<OnceCell<SourceMeta>>>>,
}

/// The frontends of a daemon, by name.
#[async_trait]
pub trait Frontends: Send + Sync + 'static {
    /// Has the frontend `name` carry out a request, with `bridge` to reach the rest.
    ///
    /// # Errors
    /// The frontend's; or that there is none of that name.
    async fn solve(
        &self,
        name: &str,
        bridge: Arc<BuildBridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, FrontendError>;
}

#[derive(Default)]
struct Refs {
    next: u64,
    by_id: HashMap<String, Arc<LazyRef>>,
}

struct LazyRef {
    definition: Arc<Definition>,
    result: OnceCell<Option<Ref>>,
}

impl BuildBridge {
    /// A bridge onto `build`, on which frontends may call `frontends`.
    pub fn new(build: Arc<Build>, frontends: Arc<dyn Frontends>) -> Arc<Self> {
        Arc::new(Self {
            build,
            refs: Mutex::default(),
            frontends,
            images: Mutex::default(),
            metas: Mutex::default(),
        })
    }

    /// The build.
    pub fn build(&self) -> &Arc<Build> {
        &self.build
    }

    /// A result named earlier.
    pub fn find(&self, id: &str) -> Option<BridgeRef> {
        let refs = self.refs.lock();
        refs.by_id.get(id).map(|lazy| BridgeRef {
            id: id.to_owned(),
            definition: lazy.definition.clone(),
        })
    }

    /// Makes a named result.
    ///
    /// # Errors
    /// The build's.
    pub async fn evaluate(&self, reference: &BridgeRef) -> Result<Option<Ref>, SolveError> {
        let lazy = self.refs.lock().by_id.get(&reference.id).cloned();
        let lazy = lazy.ok_or_else(|| SolveError::NotFound(format!("no such ref: {}", reference.id)))?;
        lazy.result
            .get_or_try_init(|| self.build.solve(&lazy.definition))
            .await
            .cloned()
    }
}

#[async_trait]
impl Bridge for BuildBridge {
    fn session_id(&self) -> &str {
        self.build.session()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        vec![self.build.engine().worker().info()]
    }

    async fn solve(&self, definition: Definition) -> Result<Option<BridgeRef>, SolveError> {
        if definition.is_empty() {
            return Ok(None);
        }
        let definition = Arc::new(definition);
        let mut refs = self.refs.lock();
        refs.next += 1;
        let id = ref_id(self.build.session(), refs.next);
        refs.by_id.insert(
            id.clone(),
            Arc::new(LazyRef {
                definition: definition.clone(),
                result: OnceCell::new(),
            }),
        );
        Ok(Some(BridgeRef { id, definition }))
    }

    async fn read_file(
        &self,
        reference: &BridgeRef,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, SolveError> {
        let result = self.evaluate(reference).await?;
        let worker = self.build.engine().worker();
        Ok(worker.read_file(result.as_ref(), path, range).await?)
    }

    async fn read_dir(
        &self,
        reference: &BridgeRef,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, SolveError> {
        let result = self.evaluate(reference).await?;
        let worker = self.build.engine().worker();
        Ok(worker.read_dir(result.as_ref(), path, include).await?)
    }

    async fn stat_file(&self, reference: &BridgeRef, path: &str) -> Result<FileStat, SolveError> {
        let result = self.evaluate(reference).await?;
        let worker = self.build.engine().worker();
        Ok(worker.stat_file(result.as_ref(), path).await?)
    }

    async fn resolve_image(&self, query: ImageQuery, log_name: &str) -> Result<ResolvedImage, SolveError> {
        let platform = query.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let key = format!(
            "resolve-image {} {platform} {:?} {:?}",
            query.reference, query.mode, query.layout
        );
        let cell = self.images.lock().entry(key.clone()).or_default().clone();
        cell.get_or_try_init(async || {
            let name = if log_name.is_empty() {
                format!("resolve image config for docker-image://{}", query.reference)
            } else {
                log_name.to_owned()
            };
            let step = self.build.step(&key, &name);
            let context = step.context();
            let outcome = tokio::select! {
                outcome = self.build.engine().worker().resolve_image(&query, &context) => outcome,
                () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
            };
            step.finish(outcome)
        })
        .await
        .cloned()
    }

    async fn source_meta(&self, source: SourceOp, log_name: &str) -> Result<SourceMeta, SolveError> {
        let key = format!("source-meta {source:?}");
        let cell = self.metas.lock().entry(key.clone()).or_default().clone();
        cell.get_or_try_init(async || {
            let name = if log_name.is_empty() {
                format!("resolve source metadata for {}", Op::Source(source.clone()).name())
            } else {
                log_name.to_owned()
            };
            let step = self.build.step(&key, &name);
            let context = step.context();
            let outcome = tokio::select! {
                outcome = self.build.engine().worker().source_meta(&source, &context) => outcome,
                () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
            };
            step.finish(outcome)
        })
        .await
        .cloned()
    }

    async fn solve_frontend(
        self: Arc<Self>,
        name: &str,
        request: FrontendRequest,
    ) -> Result<FrontendResult, FrontendError> {
        let frontends = self.frontends.clone();
        frontends.solve(name, self, request).await
    }

    fn warn(&self, vertex: Digest, warning: Warning) {
        self.build.events().push(Event::Warning(vertex, warning));
    }
}

/// A name of the shape clients know: 25 lower-case base36 digits. Unique within a build, which is all it is used for.
fn ref_id(session: &str, number: u64) -> String {
    let hash = blake3::hash(format!("{session} {number}").as_bytes());
    hash.as_bytes()
        .iter()
        .take(25)
        .map(|byte| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::from(byte % 36)]))
        .collect()
}
