//! What a build offers to frontends.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::build::{Build, Entitlement};
use super::trace::{FrontendCall, Trace};
use crate::frontend::{Bridge, BridgeRef, FrontendError, FrontendRequest, FrontendResult};
use crate::llb::{Definition, GitSource, ImageSource, OciLayoutSource, SourceOp};
use crate::policy::{Policy, RawSource};
use crate::progress::{Event, Warning};
use crate::worker::{FileStat, ImageQuery, Ref, ResolvedImage, SourceMeta, Worker, WorkerError, WorkerInfo};
use crate::{Device, Digest, Platform, SolveError};

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
    refs: Arc<Mutex<HashMap<String, Arc<LazyRef>>>>,
    /// What sources named here have to pass, besides what holds for the whole build.
    policies: Vec<Arc<Policy>>,
    depth: usize,
    /// Counts children of the whole build.
    _counted: Option<Arc<Counted>>,
}

/// What all bridges onto one build share.
struct Common {
    build: Arc<Build>,
    frontends: Arc<dyn Frontends>,
    next_ref: AtomicU64,
    /// Makes names differ from those of other builds.
    salt: u64,
    children: Arc<AtomicUsize>,
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
                trace: Trace::default(),
            }),
            refs: Arc::default(),
            policies: Vec::new(),
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
            refs: Arc::default(),
            policies: self.policies.clone(),
            depth: self.depth + 1,
            _counted: Some(Arc::new(counted)),
        }))
    }

    /// The same bridge for one request that brings policies of its own: they hold for all that is named and asked for
    /// through it, also by frontends that it calls.
    pub fn under(self: &Arc<Self>, policies: &[Arc<Policy>]) -> Arc<Self> {
        if policies.is_empty() {
            return self.clone();
        }
        Arc::new(Self {
            common: self.common.clone(),
            refs: self.refs.clone(),
            policies: self.policies.iter().chain(policies).cloned().collect(),
            depth: self.depth,
            _counted: self._counted.clone(),
        })
    }

    /// What policies make of a source, for which nothing is asked yet.
    ///
    /// # Errors
    /// [`SolveError::ResolvePolicy`] if they refuse it.
    pub async fn admit_source(&self, source: &RawSource, platform: Option<&Platform>) -> Result<RawSource, SolveError> {
        let inner = &self.common.build.inner;
        inner.admit_source(source, platform, &self.policies).await
    }

    /// Takes down that an image was asked about, and what it was.
    pub fn note_resolved(&self, query: &ImageQuery, digest: &Digest) {
        self.common.trace.resolved(query, digest);
    }

    /// Whether no policy has to be asked.
    fn is_free(&self) -> bool {
        let options = &self.common.build.inner.options;
        self.policies.is_empty() && options.policies.is_empty() && options.judge.is_none()
    }

    /// What policies make of a question about an image; it stays one about an image of the same kind.
    async fn admit_image(&self, mut query: ImageQuery) -> Result<ImageQuery, SolveError> {
        if self.is_free() {
            return Ok(query);
        }
        let asked = match &query.layout {
            None => SourceOp::Image(ImageSource {
                reference: query.reference.clone(),
                resolve_mode: query.mode,
                ..ImageSource::default()
            }),
            Some(layout) => SourceOp::OciLayout(OciLayoutSource {
                reference: query.reference.clone(),
                session: layout.session.clone(),
                store: layout.store.clone(),
                ..OciLayoutSource::default()
            }),
        };
        let asked = asked.to_raw();
        let admitted = self.admit_source(&asked, query.platform.as_ref()).await?;
        if admitted == asked {
            return Ok(query);
        }
        match (SourceOp::from_raw(&admitted)?, &mut query.layout) {
            (SourceOp::Image(image), None) => {
                query.reference = image.reference;
                query.mode = image.resolve_mode;
            }
            (SourceOp::OciLayout(image), Some(layout)) => {
                query.reference = image.reference;
                layout.session = image.session;
                layout.store = image.store;
            }
            _ => {
                return Err(SolveError::NotAnImage {
                    image: asked.identifier,
                    instead: admitted.identifier,
                });
            }
        }
        Ok(query)
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

    /// The devices that steps may ask for.
    ///
    /// # Errors
    /// The worker's, that it cannot tell.
    pub fn devices(&self) -> Result<Option<Arc<[Device]>>, WorkerError> {
        self.worker().devices()
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
        let definition = Arc::new(definition.under(&self.policies));
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

    async fn begin(&self, definition: Definition) {
        let definition = definition.under(&self.policies);
        if let Err(error) = self.common.build.solve(&definition).await {
            tracing::debug!(%error, "what was begun ahead of time came to nothing");
        }
    }

    async fn read_file(
        &self,
        reference: &BridgeRef,
        path: &Path,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, SolveError> {
        let result = self.evaluate_whole(reference).await?;
        Ok(self.worker().read_file(result.as_ref(), path, range).await?)
    }

    async fn read_dir(
        &self,
        reference: &BridgeRef,
        path: &Path,
        include: Option<&[u8]>,
    ) -> Result<Vec<FileStat>, SolveError> {
        let result = self.evaluate_whole(reference).await?;
        Ok(self.worker().read_dir(result.as_ref(), path, include).await?)
    }

    async fn stat_file(&self, reference: &BridgeRef, path: &Path) -> Result<FileStat, SolveError> {
        let result = self.evaluate_whole(reference).await?;
        Ok(self.worker().stat_file(result.as_ref(), path).await?)
    }

    async fn resolve_image(&self, query: ImageQuery, log_name: &str) -> Result<ResolvedImage, SolveError> {
        let query = self.admit_image(query).await?;
        let resolved = self.common.build.facts().image(&query, log_name).await?;
        self.note_resolved(&query, &resolved.digest);
        Ok(resolved)
    }

    async fn source_meta(&self, source: SourceOp, log_name: &str) -> Result<SourceMeta, SolveError> {
        let source = if self.is_free() {
            source
        } else {
            SourceOp::from_raw(&self.admit_source(&source.to_raw(), None).await?)?
        };
        self.common.build.facts().meta(&source, log_name).await
    }

    async fn host_keys(&self, source: &GitSource) -> String {
        let asked = SourceOp::Git(source.clone()).to_raw();
        if !self.common.build.inner.lets_pass(&asked, &self.policies).await {
            return String::new();
        }
        self.worker().host_keys(source).await
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

    fn warn(&self, vertex: Option<Digest>, warning: Warning) {
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
