//! The embedded worker: needs no other daemon.
//!
//! A choice of parts: layers as overlays ([`crate::layer`]), clients' directories as trees ([`crate::tree`]), blobs in
//! a content store ([`crate::content`]), processes by an OCI runtime ([`crate::executor`]). A result is either a list
//! of layers or a tree; [`results`] knows which.

mod attestations;
mod blob;
mod cache;
mod container;
mod credentials;
mod exec;
mod export;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod git;
mod http;
mod image;
mod images;
mod layout;
mod local;
mod log;
mod merge;
mod platforms;
mod remote;
mod results;
mod secret;
mod spans;
mod ssh;
mod usage;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_session::SessionManager;
use cairn_solver::llb::{GitSource, HttpSource, Op, SourceOp, Vertex};
use cairn_solver::progress::StatusGuard;
use cairn_solver::worker::{
    AttestationChain, CacheName, CallContext, ChecksumRequest, Comparison, ContentSelector, Execution, FileStat,
    ImageQuery, NO_CONTENT, NO_KEY, Ref, ResolvedImage, ResolvedSource, ResultId, SourceMeta, Worker, WorkerError,
    WorkerInfo,
};
use cairn_solver::{Device, Digest, Platform};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::causes::with_causes;
use crate::cdi::{Cdi, CdiConfig};
use crate::cni::{self, Namespaces, NetworkConfig};
use crate::content::{ContentStore, Durability};
use crate::executor::{DnsConfig, ExecRunner, Networks, OciRuntime};
use crate::filter::{Filters, worker_field};
use crate::git::GitStore;
use crate::layer::LayerStore;
use crate::registry::RegistryHosts;
use crate::tree::TreeStore;
use credentials::Registries;

pub(crate) use export::platforms;

/// Prefix of the labels by which clients know workers.
const LABEL_PREFIX: &str = "org.mobyproject.buildkit.worker.";
/// Where sockets are that lead to clients' ssh agents, in the state directory.
const SSH_DIR: &str = "ssh";
/// Where the state of networks is, in the state directory.
const NETWORKS_DIR: &str = "networks";
/// How long a received directory may wait to be made durable.
const SYNC_DELAY: Duration = Duration::from_secs(3);

/// What an embedded worker is made with.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// State directory; made if it is missing.
    pub root: PathBuf,
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Platforms to tell of, the default first; empty for what this machine can run.
    pub platforms: Vec<Platform>,
    /// Name servers of processes.
    pub dns: DnsConfig,
    /// Network of processes that do not ask for one.
    pub network: NetworkConfig,
    /// Path or name of the OCI runtime; `None` looks for the known ones.
    pub runtime: Option<String>,
    /// Registries.
    pub registries: RegistryHosts,
    /// Devices of the host that steps may be given; `None` for none.
    pub cdi: Option<CdiConfig>,
    /// Socket of the collector that processes may send spans to; `None` if there is none.
    pub trace_socket: Option<PathBuf>,
}

/// Why an embedded worker cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct OpenError {
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl OpenError {
    fn new<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self {
            what,
            source: source.into(),
        }
    }
}

/// Runs vertices on this machine. Clones share everything.
#[derive(Clone)]
pub struct EmbeddedWorker(Arc<Parts>);

/// What the worker is made of.
struct Parts {
    info: WorkerInfo,
    /// State directory.
    root: PathBuf,
    content: ContentStore,
    layers: LayerStore,
    trees: TreeStore,
    git: GitStore,
    registries: Registries,
    sessions: SessionManager,
    images: images::ImageStore,
    configs: image::RecentConfigs,
    http: http::HttpSources,
    runner: ExecRunner,
    cdi: Option<Cdi>,
    trace_socket: Option<PathBuf>,
    log_limits: log::LogLimits,
    /// Layers being made into blobs.
    packing: export::LayerBlobs,
    /// Told of every tree that was received.
    trees_to_sync: Arc<Notify>,
    _tree_sync: AbortOnDropHandle<()>,
}

impl EmbeddedWorker {
    /// Opens the state directory, clearing up what a killed daemon left.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong: the directory, or the OCI runtime.
    pub async fn open(mut config: EmbeddedConfig, sessions: SessionManager) -> Result<Self, OpenError> {
        config.network = config.network.resolve();
        let root = &config.root;
        crate::sys::root::create_private_dirs(root).map_err(OpenError::new("failed to make the state directory"))?;
        let runtime = OciRuntime::open(root.join("runtime"), config.runtime.as_deref().map(Path::new)).await;
        let runtime = runtime.map_err(OpenError::new("failed to find a usable OCI runtime"))?;
        // The processes in them are gone now.
        let networks = networks(&config).await?;
        let handle = tokio::runtime::Handle::current();
        let opened =
            tokio::task::spawn_blocking(move || Self::open_stores(config, sessions, runtime, networks, &handle));
        opened.await.map_err(OpenError::new("failed to open the stores"))?
    }

    fn open_stores(
        config: EmbeddedConfig,
        sessions: SessionManager,
        runtime: OciRuntime,
        networks: Networks,
        handle: &tokio::runtime::Handle,
    ) -> Result<Self, OpenError> {
        let root = &config.root;
        let id = worker_id(root).map_err(OpenError::new("failed to keep the worker's id"))?;
        let content = ContentStore::open(&root.join("content"), Durability::Synced)
            .map_err(OpenError::new("failed to open the content store"))?;
        let layers = LayerStore::open(root.join("layers")).map_err(OpenError::new("failed to open the layer store"))?;
        let trees = TreeStore::open(&root.join("trees")).map_err(OpenError::new("failed to open the tree store"))?;
        let git = GitStore::open(&root.join("git")).map_err(OpenError::new("failed to open the git repositories"))?;
        ssh::remove_leftovers(&root.join(SSH_DIR)).map_err(OpenError::new("failed to clear up sockets"))?;
        let images =
            images::ImageStore::open(&root.join("images")).map_err(OpenError::new("failed to open the image store"))?;
        let runner = ExecRunner::new(
            layers.clone(),
            Arc::new(runtime),
            root.join("runs"),
            config.dns.clone(),
            networks,
        );
        let http = http::HttpSources::open(&root.join("http"), layers.clone(), sessions.clone())
            .map_err(OpenError::new("failed to prepare for downloads"))?;
        let registries = Registries::new(config.registries.clone(), sessions.clone());
        let trees_to_sync = Arc::<Notify>::default();
        let tree_sync = handle.spawn(sync_trees(trees.clone(), trees_to_sync.clone()));
        Ok(Self(Arc::new(Parts {
            info: info(id, &config),
            root: config.root.clone(),
            content,
            layers,
            trees,
            git,
            registries: registries.map_err(OpenError::new("failed to get random bytes"))?,
            sessions,
            images,
            configs: image::RecentConfigs::default(),
            http,
            runner: runner.map_err(OpenError::new("failed to prepare for running processes"))?,
            cdi: config.cdi.map(Cdi::new),
            trace_socket: config.trace_socket,
            log_limits: log::LogLimits::from_env(),
            packing: export::LayerBlobs::default(),
            trees_to_sync,
            _tree_sync: AbortOnDropHandle::new(tree_sync),
        })))
    }
}

/// Clears up what an earlier daemon left of networks, under whichever configuration, and opens those of this one.
async fn networks(config: &EmbeddedConfig) -> Result<Networks, OpenError> {
    let dir = config.root.join(NETWORKS_DIR);
    let cleared = cni::clear(&dir).await;
    cleared.map_err(|error| OpenError::new("failed to clear up networks")(with_causes(&error)))?;
    match &config.network {
        NetworkConfig::None => Ok(Networks::None),
        NetworkConfig::Cni(cni) => {
            let namespaces = Namespaces::open(cni, &dir).await;
            let failed = |error| OpenError::new("failed to set up the network of processes")(with_causes(&error));
            let namespaces = namespaces.map_err(failed)?;
            Ok(Networks::Namespaces(namespaces))
        }
        NetworkConfig::Host | NetworkConfig::Auto(_) => Ok(Networks::Host),
    }
}

/// Makes trees durable a while after they were received, so that they outlive a crash of the machine. Never ends.
async fn sync_trees(trees: TreeStore, received: Arc<Notify>) {
    loop {
        received.notified().await;
        tokio::time::sleep(SYNC_DELAY).await;
        let trees = trees.clone();
        match tokio::task::spawn_blocking(move || trees.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "received directories are not durable yet"),
            Err(error) => tracing::error!(%error, "received directories are not durable yet"),
        }
    }
}

fn info(id: String, config: &EmbeddedConfig) -> WorkerInfo {
    let host = rustix::system::uname();
    let mut labels: BTreeMap<String, String> = [
        ("executor", "oci"),
        ("snapshotter", "overlayfs"),
        ("hostname", &host.nodename().to_string_lossy()),
        ("network", config.network.label()),
        ("oci.process-mode", "sandbox"),
        ("selinux.enabled", "false"),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{LABEL_PREFIX}{name}"), value.to_owned()))
    .collect();
    labels.extend(config.labels.clone());
    WorkerInfo {
        id,
        labels,
        platforms: if config.platforms.is_empty() {
            platforms::supported()
        } else {
            config.platforms.clone()
        },
    }
}

/// The worker's id: made once, kept in the state directory.
fn worker_id(root: &std::path::Path) -> std::io::Result<String> {
    let path = root.join("worker-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut random = [0; 25];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let digits = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let id: String = random
        .iter()
        .map(|byte| char::from(digits[usize::from(*byte) % digits.len()]))
        .collect();
    let staged = root.join("worker-id.new");
    std::fs::write(&staged, &id)?;
    std::fs::rename(&staged, &path)?;
    Ok(id)
}

/// Runs `work` where it may block, and gives up waiting for it when nobody waits any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(WorkerError::Failed(format!("internal error: {error}"))),
    }
}

/// An error with everything that led to it in one line.
fn failed(error: &(dyn std::error::Error + 'static)) -> WorkerError {
    WorkerError::Failed(with_causes(error))
}

/// Says that what other steps left is combined, in the words of the client if it has some.
fn combining(vertex: &Vertex, action: &str, context: &CallContext) -> StatusGuard {
    let shown = vertex.custom_name().map_or(action, |name| &**name);
    context.progress.begin_action(shown, action)
}

/// An error in finding out what a source stands for, as clients know it.
fn no_key(error: WorkerError) -> WorkerError {
    let prefixed = |text: String| format!("{NO_KEY}{text}");
    match error {
        WorkerError::NotFound(text) => WorkerError::NotFound(prefixed(text)),
        WorkerError::Invalid(text) => WorkerError::Invalid(prefixed(text)),
        WorkerError::Failed(text) => WorkerError::Failed(prefixed(text)),
        other => other,
    }
}

fn unsupported(source: &SourceOp) -> WorkerError {
    let name = Op::Source(source.clone()).name();
    WorkerError::Unsupported(format!("source {name} is not supported by this worker"))
}

#[async_trait]
impl Worker for EmbeddedWorker {
    fn info(&self) -> WorkerInfo {
        self.0.info.clone()
    }

    fn devices(&self) -> Result<Option<Arc<[Device]>>, WorkerError> {
        Ok(self.0.cdi.as_ref().map(Cdi::devices))
    }

    fn accepts(&self, filter: &[String]) -> Result<bool, WorkerError> {
        let filters = Filters::parse(filter).map_err(|error| WorkerError::Invalid(error.to_string()))?;
        Ok(filters.matches(|path| worker_field(&self.0.info, path)))
    }

    async fn resolve_source(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let resolved = async {
            match source {
                SourceOp::Image(source) => {
                    let resolved = self.resolve_image_source(source, platform, context).await;
                    resolved.map_err(no_key)
                }
                SourceOp::Local(source) => self.receive_directory(source, context).await,
                SourceOp::Git(source) => self.resolve_git(source, context).await,
                SourceOp::Http(source) => self.0.http.resolve(source, context).await,
                SourceOp::OciLayout(source) => self.resolve_layout_source(source, platform, context).map_err(no_key),
                SourceOp::Blob(source) => Self::resolve_blob(source),
            }
        };
        tokio::select! {
            resolved = resolved => resolved,
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        }
    }

    async fn execute(&self, execution: Execution, context: &CallContext) -> Result<Vec<Option<Ref>>, WorkerError> {
        let vertex = execution.vertex.clone();
        match &vertex.op {
            Op::Source(SourceOp::Image(source)) => {
                let platform = vertex.platform.as_deref();
                let made = tokio::select! {
                    made = self.make_image(source, platform, execution.resolved.as_ref(), context) => made?,
                    () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
                };
                Ok(vec![made])
            }
            Op::Source(SourceOp::Local(_)) => match execution.resolved.and_then(|resolved| resolved.result) {
                Some(received) => Ok(vec![Some(received)]),
                None => Err(WorkerError::Failed("the directory was not received".to_owned())),
            },
            Op::Source(SourceOp::Git(source)) => {
                let made = self.make_git(source, execution.resolved.as_ref(), context).await?;
                Ok(vec![made])
            }
            Op::Source(SourceOp::OciLayout(source)) => {
                let made = tokio::select! {
                    made = self.make_layout_image(source, vertex.platform.as_deref(), context) => made?,
                    () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
                };
                Ok(vec![made])
            }
            Op::Source(SourceOp::Blob(source)) => {
                let made = tokio::select! {
                    made = self.make_blob(source, context) => made?,
                    () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
                };
                Ok(vec![made])
            }
            Op::Source(SourceOp::Http(source)) => {
                let made = tokio::select! {
                    made = self.0.http.make(source, execution.resolved.as_ref(), context) => made?,
                    () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
                };
                Ok(vec![made])
            }
            Op::Exec(op) => self.run(op, &vertex, &execution.inputs, execution.meter, context).await,
            Op::File(op) => self.change_files(op, &vertex, &execution.inputs, context).await,
            Op::Merge { inputs } => {
                let _status = combining(&vertex, "merging", context);
                self.merge(inputs, &execution.inputs).await.map(|made| vec![made])
            }
            Op::Diff { lower, upper } => {
                let side = |index: Option<usize>| index.and_then(|index| execution.inputs[index].clone());
                let _status = combining(&vertex, "diffing", context);
                let made = self.diff(side(*lower), side(*upper), &vertex).await?;
                Ok(vec![made])
            }
            Op::Passthrough { outputs, .. } => {
                Ok(outputs.iter().map(|&input| execution.inputs[input].clone()).collect())
            }
            Op::Build(_) => Err(WorkerError::Invalid("nested builds are not for workers".to_owned())),
        }
    }

    async fn digest(
        &self,
        input: Option<&Ref>,
        selector: &ContentSelector,
        _: &CallContext,
    ) -> Result<Digest, WorkerError> {
        let (worker, input, selector) = (self.clone(), input.cloned(), selector.clone());
        blocking(move || {
            let name = input.as_ref().map_or("scratch", |input| input.id().as_str());
            let view = worker.view(input.as_ref())?;
            crate::checksum::digest(&*view, name, &selector).map_err(|error| {
                let text = format!("{NO_CONTENT}{}", with_causes(&error));
                if error.is_not_found() {
                    WorkerError::NotFound(text)
                } else {
                    WorkerError::Failed(text)
                }
            })
        })
        .await
    }

    async fn has(&self, id: &ResultId) -> Result<bool, WorkerError> {
        self.knows(id)
    }

    fn is_remote(&self, result: &Ref) -> Result<bool, WorkerError> {
        let is_whole = self.0.layers.is_whole(result.id());
        is_whole.map(|is_whole| !is_whole).map_err(|error| failed(&error))
    }

    async fn fetch(&self, result: &Ref, context: &CallContext) -> Result<(), WorkerError> {
        self.fetch_result(result, context).await
    }

    async fn begin_caches_anew(&self, caches: Vec<CacheName>) -> Result<(), WorkerError> {
        let layers = self.0.layers.clone();
        let begun = tokio::task::spawn_blocking(move || layers.begin_caches_anew(&caches)).await;
        begun
            .map_err(|error| WorkerError::Failed(format!("internal error: beginning caches anew: {error}")))?
            .map_err(|error| failed(&error))
    }

    async fn compare(
        &self,
        old: Option<&ResultId>,
        new: Option<&ResultId>,
        selector: &ContentSelector,
        limit: usize,
    ) -> Result<Option<Comparison>, WorkerError> {
        let (worker, selector) = (self.clone(), selector.clone());
        let (old, new) = (old.cloned(), new.cloned());
        blocking(move || worker.compare_results(old.as_ref(), new.as_ref(), &selector, limit)).await
    }

    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError> {
        // Two look-ups in memory-mapped tables: not worth another thread.
        self.content_for_build(id)
            .map(|content| content.map(|content| content.into_ref(id)))
    }

    async fn resolve_image(&self, query: &ImageQuery, context: &CallContext) -> Result<ResolvedImage, WorkerError> {
        self.resolve_image_config(query, context).await
    }

    async fn attestations(
        &self,
        query: &ImageQuery,
        root: Digest,
        predicates: &[String],
        context: &CallContext,
    ) -> Result<AttestationChain, WorkerError> {
        self.resolve_attestations(query, root, predicates, context).await
    }

    async fn source_meta(&self, source: &SourceOp, context: &CallContext) -> Result<SourceMeta, WorkerError> {
        match source {
            SourceOp::Git(source) => self.git_meta(source, context).await,
            SourceOp::Http(source) => self.0.http.meta(source, context).await.map(SourceMeta::Http),
            _ => Err(unsupported(source)),
        }
    }

    async fn host_keys(&self, source: &GitSource) -> String {
        self.git_host_keys(source).await
    }

    async fn source_checksum(
        &self,
        source: &HttpSource,
        request: &ChecksumRequest,
        context: &CallContext,
    ) -> Result<String, WorkerError> {
        self.0.http.checksum(source, request, context).await
    }

    async fn read_file(
        &self,
        input: Option<&Ref>,
        path: &Path,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, WorkerError> {
        let (worker, input, path) = (self.clone(), input.cloned(), path.to_owned());
        blocking(move || results::read_file(&*worker.view(input.as_ref())?, &path, range)).await
    }

    async fn read_dir(
        &self,
        input: Option<&Ref>,
        path: &Path,
        include: Option<&[u8]>,
    ) -> Result<Vec<FileStat>, WorkerError> {
        let (worker, input, path) = (self.clone(), input.cloned(), path.to_owned());
        let include = include.map(<[u8]>::to_vec);
        blocking(move || results::read_dir(&*worker.view(input.as_ref())?, &path, include.as_deref())).await
    }

    async fn stat_file(&self, input: Option<&Ref>, path: &Path) -> Result<FileStat, WorkerError> {
        let (worker, input, path) = (self.clone(), input.cloned(), path.to_owned());
        blocking(move || results::stat_file(&*worker.view(input.as_ref())?, &path)).await
    }
}
