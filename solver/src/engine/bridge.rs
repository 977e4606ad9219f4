//! What a build offers to frontends.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::build::{Build, Entitlement};
use super::trace::{FrontendCall, Trace};
use crate::frontend::{Bridge, BridgeRef, FrontendError, FrontendRequest, FrontendResult};
use crate::llb::{Definition, Op, SourceOp};
use crate::progress::{Event, Warning};
use crate::worker::{FileStat, ImageQuery, Ref, ResolvedImage, SourceMeta, Worker, WorkerError, WorkerInfo};
use crate::{Digest, SolveError};

/// How many frontends deep a frontend may be called.
const MAX_DEPTH: usize = 8;
/// Most frontends that run at the same time in one build, besides the one that the client asked for.
const MAX_CHILDREN: usize = 32;
/// Most results that are named on one bridge.
const MAX_REFS: usize = 10_000;

/// A [`Bridge`] onto a build: names results, and makes them when something needs them.
///
/// Names are known on the bridge on which they were made, and where a [`BuildBridge::child`]'s result was adopted.
pub struct BuildBridge {
    common: Arc<Common>,
    refs: Mutex<HashMap<String, Arc<LazyRef>>>,
    depth: usize,
    /// Counts children of the whole build.
    _counted: Option<Counted>,
}

/// What all bridges onto one build share.
struct Common {
    build: Arc<Build>,
    frontends: Arc<dyn Frontends>,
    next_ref: AtomicU64,
    /// Makes names differ from those of other builds.
    salt: u64,
    children: Arc<AtomicUsize>,
    /// Image references resolved for this build, so that a tag means one thing throughout.
    images: Mutex<HashMap<String, Arc<OnceCell<ResolvedImage>>>>,
    /// The same for other sources.
    metas: Mutex<HashMap<String, Arc<OnceCell<SourceMeta>>>>,
    trace: Trace,
}

/// One of what is counted, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let counted = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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

struct LazyRef {
    definition: Arc<Definition>,
    result: OnceCell<Option<Ref>>,
    /// The same with all its files here.
    whole: OnceCell<Option<Ref>>,
}

impl BuildBridge {
    /// A bridge onto `build`, on which frontends may call `frontends`.
    pub fn new(build: Arc<Build>, frontends: Arc<dyn Frontends>) -> Arc<Self> {
        Arc::new(Self {
            common: Arc::new(Common {
                build,
                frontends,
                next_ref: AtomicU64::new(1),
                salt: RandomState::new().hash_one(0),
                children: Arc::default(),
                images: Mutex::default(),
                metas: Mutex::default(),
                trace: Trace::default(),
            }),
            refs: Mutex::default(),
            depth: 0,
            _counted: None,
        })
    }

    /// A bridge onto the same build for somebody who is to see nothing of what is named here.
    ///
    /// # Errors
    /// If frontends call one another too deep, or too many run at the same time.
    pub fn child(&self) -> Result<Arc<Self>, FrontendError> {
        let refused = |message: String| FrontendError::Option(message);
        if self.depth >= MAX_DEPTH {
            return Err(refused(format!(
                "frontends call one another more than {MAX_DEPTH} deep"
            )));
        }
        let counted = Counted::new(&self.common.children, MAX_CHILDREN);
        let counted = counted.ok_or_else(|| {
            refused(format!(
                "more than {MAX_CHILDREN} frontends at the same time in one build"
            ))
        })?;
        Ok(Arc::new(Self {
            common: self.common.clone(),
            refs: Mutex::default(),
            depth: self.depth + 1,
            _counted: Some(counted),
        }))
    }

    /// Makes the results of somebody on `child` known here.
    pub fn adopt(&self, child: &Self, result: &FrontendResult) {
        let theirs = child.refs.lock();
        let mut ours = self.refs.lock();
        for reference in result.references() {
            if let Some(lazy) = theirs.get(&reference.id) {
                ours.insert(reference.id.clone(), lazy.clone());
            }
        }
    }

    /// The build.
    pub fn build(&self) -> &Arc<Build> {
        &self.common.build
    }

    /// Whether the client was granted something.
    pub fn is_allowed(&self, entitlement: Entitlement) -> bool {
        self.common.build.inner.options.entitlements.contains(&entitlement)
    }

    /// A result named earlier.
    pub fn find(&self, id: &str) -> Option<BridgeRef> {
        let refs = self.refs.lock();
        refs.get(id).map(|lazy| BridgeRef {
            id: id.to_owned(),
            definition: lazy.definition.clone(),
        })
    }

    /// Makes a named result.
    ///
    /// # Errors
    /// The build's.
    pub async fn evaluate(&self, reference: &BridgeRef) -> Result<Option<Ref>, SolveError> {
        let lazy = self.refs.lock().get(&reference.id).cloned();
        let lazy = lazy.ok_or_else(|| SolveError::NotFound(format!("no such ref: {}", reference.id)))?;
        lazy.result
            .get_or_try_init(|| {
                self.common.trace.built(&reference.id, &lazy.definition);
                self.common.build.solve(&lazy.definition)
            })
            .await
            .cloned()
    }

    /// Makes a named result whose files are needed: none of them is elsewhere afterwards.
    ///
    /// # Errors
    /// The build's.
    pub async fn evaluate_whole(&self, reference: &BridgeRef) -> Result<Option<Ref>, SolveError> {
        let Some(result) = self.evaluate(reference).await? else {
            return Ok(None);
        };
        let lazy = self.refs.lock().get(&reference.id).cloned();
        let Some(lazy) = lazy.filter(|_| self.worker().is_remote(&result).unwrap_or(true)) else {
            return Ok(Some(result));
        };
        lazy.whole
            .get_or_try_init(|| self.common.build.solve_whole(&lazy.definition))
            .await
            .cloned()
    }

    /// What was asked for on this bridge and on all others onto the same build.
    pub fn trace(&self) -> &Trace {
        &self.common.trace
    }

    fn worker(&self) -> &Arc<dyn Worker> {
        self.common.build.engine().worker()
    }
}

#[async_trait]
impl Bridge for BuildBridge {
    fn session_id(&self) -> &str {
        self.common.build.session()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        vec![self.worker().info()]
    }

    async fn solve(&self, definition: Definition) -> Result<Option<BridgeRef>, SolveError> {
        if definition.is_empty() {
            return Ok(None);
        }
        let definition = Arc::new(definition);
        let mut refs = self.refs.lock();
        if refs.len() >= MAX_REFS {
            let message = format!("more than {MAX_REFS} results of one frontend");
            return Err(WorkerError::Invalid(message).into());
        }
        let number = self.common.next_ref.fetch_add(1, Ordering::Relaxed);
        let id = ref_id(self.common.salt, number);
        let lazy = LazyRef {
            definition: definition.clone(),
            result: OnceCell::new(),
            whole: OnceCell::new(),
        };
        refs.insert(id.clone(), Arc::new(lazy));
        Ok(Some(BridgeRef { id, definition }))
    }

    async fn read_file(
        &self,
        reference: &BridgeRef,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, SolveError> {
        let result = self.evaluate_whole(reference).await?;
        Ok(self.worker().read_file(result.as_ref(), path, range).await?)
    }

    async fn read_dir(
        &self,
        reference: &BridgeRef,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, SolveError> {
        let result = self.evaluate_whole(reference).await?;
        Ok(self.worker().read_dir(result.as_ref(), path, include).await?)
    }

    async fn stat_file(&self, reference: &BridgeRef, path: &str) -> Result<FileStat, SolveError> {
        let result = self.evaluate_whole(reference).await?;
        Ok(self.worker().stat_file(result.as_ref(), path).await?)
    }

    async fn resolve_image(&self, query: ImageQuery, log_name: &str) -> Result<ResolvedImage, SolveError> {
        let platform = query.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let key = format!(
            "resolve-image {} {platform} {:?} {:?}",
            query.reference, query.mode, query.layout
        );
        let cell = self.common.images.lock().entry(key.clone()).or_default().clone();
        cell.get_or_try_init(async || {
            let name = if log_name.is_empty() {
                let scheme = match &query.layout {
                    None => "docker-image",
                    Some(_) => "oci-layout",
                };
                format!("resolve image config for {scheme}://{}", query.reference)
            } else {
                log_name.to_owned()
            };
            let step = self.common.build.step(&key, &name);
            let context = step.context();
            let outcome = tokio::select! {
                outcome = self.worker().resolve_image(&query, &context) => outcome,
                () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
            };
            let resolved = step.finish(outcome)?;
            self.common.trace.resolved(&query, &resolved.digest);
            Ok(resolved)
        })
        .await
        .cloned()
    }

    async fn source_meta(&self, source: SourceOp, log_name: &str) -> Result<SourceMeta, SolveError> {
        let key = format!("source-meta {source:?}");
        let cell = self.common.metas.lock().entry(key.clone()).or_default().clone();
        cell.get_or_try_init(async || {
            let name = if log_name.is_empty() {
                format!("resolve source metadata for {}", Op::Source(source.clone()).name())
            } else {
                log_name.to_owned()
            };
            let step = self.common.build.step(&key, &name);
            let context = step.context();
            let outcome = tokio::select! {
                outcome = self.worker().source_meta(&source, &context) => outcome,
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
        let frontends = self.common.frontends.clone();
        let image = request.options.get("source").cloned().unwrap_or_default();
        let call = FrontendCall {
            frontend: name.to_owned(),
            request: request.clone(),
        };
        let common = self.common.clone();
        let result = frontends.solve(name, self, request).await;
        let result = result.map_err(|error| FrontendError::Called {
            name: name.to_owned(),
            image,
            source: Box::new(error),
        })?;
        common.trace.answered(call, &result);
        Ok(result)
    }

    fn warn(&self, vertex: Digest, warning: Warning) {
        self.common
            .build
            .events()
            .push(Event::Warning(vertex, Box::new(warning)));
    }
}

/// A name of the shape clients know: 25 lower-case base36 digits. Unique within a build, which is all it is used for;
/// in another build it names nothing.
fn ref_id(salt: u64, number: u64) -> String {
    let hash = blake3::hash(format!("{salt} {number}").as_bytes());
    hash.as_bytes()
        .iter()
        .take(25)
        .map(|byte| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::from(byte % 36)]))
        .collect()
}
