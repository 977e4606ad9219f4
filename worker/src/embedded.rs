//! The embedded worker: needs no other daemon.
//!
//! A choice of parts: layers as overlays ([`crate::layer`]), clients' directories as trees ([`crate::tree`]), blobs in
//! a content store ([`crate::content`]), processes by an OCI runtime ([`crate::executor`]). A result is either a list
//! of layers or a tree; [`results`] knows which.

mod credentials;
mod exec;
mod export;
mod file;
mod image;
mod images;
mod local;
mod log;
mod results;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_session::SessionManager;
use cairn_solver::llb::{Op, SourceOp};
use cairn_solver::worker::{
    CallContext, ContentSelector, Execution, FileStat, ImageQuery, Ref, ResolvedImage, ResolvedSource, ResultId, Worker,
    WorkerError, WorkerInfo,
};
use cairn_solver::{Digest, Platform};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::content::{ContentStore, Durability};
use crate::executor::{DnsConfig, ExecRunner, Network, OciRuntime};
use crate::layer::{LayerId, LayerStore, PruneOptions};
use crate::registry::{ClientOptions, RegistryClient, RegistryHosts};
use crate::service::{Exporter, ExporterRequest, PruneRequest, UsageRecord, WorkerService};
use crate::tree::TreeStore;
use credentials::Registries;

/// Prefix of the labels by which clients know workers.
const LABEL_PREFIX: &str = "org.mobyproject.buildkit.worker.";
/// How long a received directory may wait to be made durable.
const SYNC_DELAY: Duration = Duration::from_secs(3);
/// How long a blob that nothing refers to is left alone.
const FRESH_BLOB: Duration = Duration::from_secs(3600);
/// Largest manifest or index.
const MAX_DOCUMENT: u64 = 4 << 20;

/// What an embedded worker is made with.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// State directory; made if it is missing.
    pub root: PathBuf,
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Path or name of the OCI runtime; `None` looks for the known ones.
    pub runtime: Option<String>,
    /// Most processes at a time.
    pub max_parallelism: usize,
    /// Registries.
    pub registries: RegistryHosts,
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
    content: ContentStore,
    layers: LayerStore,
    trees: TreeStore,
    registries: Registries,
    sessions: SessionManager,
    images: images::ImageStore,
    runner: ExecRunner,
    /// Slots for processes.
    slots: Semaphore,
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
    pub async fn open(config: EmbeddedConfig, sessions: SessionManager) -> Result<Self, OpenError> {
        let root = &config.root;
        crate::sys::root::create_private_dirs(root).map_err(OpenError::new("failed to make the state directory"))?;
        let runtime = OciRuntime::open(root.join("runtime"), config.runtime.as_deref().map(Path::new)).await;
        let runtime = runtime.map_err(OpenError::new("failed to find a usable OCI runtime"))?;
        let handle = tokio::runtime::Handle::current();
        let opened = tokio::task::spawn_blocking(move || Self::open_stores(config, sessions, runtime, &handle));
        opened.await.map_err(OpenError::new("failed to open the stores"))?
    }

    fn open_stores(
        config: EmbeddedConfig,
        sessions: SessionManager,
        runtime: OciRuntime,
        handle: &tokio::runtime::Handle,
    ) -> Result<Self, OpenError> {
        let root = &config.root;
        let id = worker_id(root).map_err(OpenError::new("failed to keep the worker's id"))?;
        let content = ContentStore::open(&root.join("content"), Durability::Relaxed)
            .map_err(OpenError::new("failed to open the content store"))?;
        let layers = LayerStore::open(root.join("layers")).map_err(OpenError::new("failed to open the layer store"))?;
        let trees = TreeStore::open(&root.join("trees")).map_err(OpenError::new("failed to open the tree store"))?;
        let images = images::ImageStore::open(&root.join("images"))
            .map_err(OpenError::new("failed to open the image store"))?;
        let runner = ExecRunner::new(
            layers.clone(),
            Arc::new(runtime),
            root.join("runs"),
            DnsConfig::default(),
            Network::Host,
        );
        let client = RegistryClient::new(config.registries.clone(), ClientOptions::default());
        let registries = Registries::new(client, sessions.clone());
        let trees_to_sync = Arc::<Notify>::default();
        let tree_sync = handle.spawn(sync_trees(trees.clone(), trees_to_sync.clone()));
        Ok(Self(Arc::new(Parts {
            info: info(id, &config),
            content,
            layers,
            trees,
            registries: registries.map_err(OpenError::new("failed to get random bytes"))?,
            sessions,
            images,
            runner: runner.map_err(OpenError::new("failed to prepare for running processes"))?,
            slots: Semaphore::new(config.max_parallelism),
            packing: export::LayerBlobs::default(),
            trees_to_sync,
            _tree_sync: AbortOnDropHandle::new(tree_sync),
        })))
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
        ("network", "host"),
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
        platforms: vec![Platform::host()],
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
    WorkerError::Failed(chain(error))
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[async_trait]
impl Worker for EmbeddedWorker {
    fn info(&self) -> WorkerInfo {
        self.0.info.clone()
    }

    async fn resolve_source(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let resolved = async {
            match source {
                SourceOp::Image(source) => self.resolve_image_source(source, platform, context).await,
                SourceOp::Local(source) => self.receive_directory(source, context).await,
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
                let platform = vertex.platform.as_ref();
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
            Op::Exec(op) => self.run(op, &vertex, &execution.inputs, context).await,
            Op::File(op) => self.change_files(op, &vertex, &execution.inputs, context).await,
            Op::Merge { inputs } => self.merge(inputs, &execution.inputs).await.map(|made| vec![made]),
            Op::Diff { lower, upper } => {
                let side = |index: Option<usize>| index.and_then(|index| execution.inputs[index].clone());
                self.diff(side(*lower), side(*upper)).await.map(|made| vec![made])
            }
            Op::Passthrough { outputs, .. } => {
                Ok(outputs.iter().map(|&input| execution.inputs[input].clone()).collect())
            }
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
                let text = format!("failed to compute cache key: {}", chain(&error));
                if error.is_not_found() { WorkerError::NotFound(text) } else { WorkerError::Failed(text) }
            })
        })
        .await
    }

    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError> {
        // Two look-ups in memory-mapped tables: not worth another thread.
        self.content(id).map(|content| content.map(|content| content.into_ref(id)))
    }

    async fn resolve_image(&self, query: &ImageQuery, context: &CallContext) -> Result<ResolvedImage, WorkerError> {
        self.resolve_image_config(query, context).await
    }

    async fn read_file(
        &self,
        input: Option<&Ref>,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, WorkerError> {
        let (worker, input, path) = (self.clone(), input.cloned(), path.to_owned());
        blocking(move || results::read_file(&*worker.view(input.as_ref())?, &path, range)).await
    }

    async fn read_dir(
        &self,
        input: Option<&Ref>,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<FileStat>, WorkerError> {
        let (worker, input, path) = (self.clone(), input.cloned(), path.to_owned());
        let include = include.map(str::to_owned);
        blocking(move || results::read_dir(&*worker.view(input.as_ref())?, &path, include.as_deref())).await
    }

    async fn stat_file(&self, input: Option<&Ref>, path: &str) -> Result<FileStat, WorkerError> {
        let (worker, input, path) = (self.clone(), input.cloned(), path.to_owned());
        blocking(move || results::stat_file(&*worker.view(input.as_ref())?, &path)).await
    }
}

impl EmbeddedWorker {
    /// Lays results over one another.
    async fn merge(&self, order: &[usize], inputs: &[Option<Ref>]) -> Result<Option<Ref>, WorkerError> {
        let inputs: Vec<Ref> = order.iter().filter_map(|&index| inputs[index].clone()).collect();
        let worker = self.clone();
        blocking(move || {
            let lists = inputs
                .iter()
                .map(|input| worker.layers_of(Some(input)))
                .collect::<Result<Vec<_>, _>>()?;
            worker.record(&worker.0.layers.scratch().merge(&lists))
        })
        .await
    }

    /// What `upper` adds to `lower`, which it must be built on.
    async fn diff(&self, lower: Option<Ref>, upper: Option<Ref>) -> Result<Option<Ref>, WorkerError> {
        let worker = self.clone();
        blocking(move || {
            let lower = worker.layers_of(lower.as_ref())?;
            let upper = worker.layers_of(upper.as_ref())?;
            if !upper.ids().starts_with(lower.ids()) {
                return Err(WorkerError::Unsupported(
                    "a diff of results that are not built on one another is not supported by this worker".to_owned(),
                ));
            }
            worker.record(&upper.above(lower.ids().len()))
        })
        .await
    }
}

#[async_trait]
impl WorkerService for EmbeddedWorker {
    fn exporter(&self, request: &ExporterRequest) -> Result<Box<dyn Exporter>, WorkerError> {
        export::exporter(self, request)
    }

    async fn disk_usage(&self) -> Result<Vec<UsageRecord>, WorkerError> {
        let worker = self.clone();
        blocking(move || {
            let layers = worker.0.layers.usage().map_err(|error| failed(&error))?;
            let mut records: Vec<UsageRecord> = layers.into_iter().map(layer_usage).collect();
            records.extend(worker.tree_usage()?);
            Ok(records)
        })
        .await
    }

    async fn prune(&self, request: &PruneRequest) -> Result<Vec<UsageRecord>, WorkerError> {
        let (worker, request) = (self.clone(), request.clone());
        blocking(move || worker.prune_now(&request)).await
    }

    fn disk_size(&self) -> u64 {
        match rustix::fs::statvfs(self.0.content.path(&Digest::sha256(b"")).parent().unwrap_or("/".as_ref())) {
            Ok(stat) => stat.f_blocks.saturating_mul(stat.f_frsize),
            Err(_) => 0,
        }
    }
}

impl EmbeddedWorker {
    fn prune_now(&self, request: &PruneRequest) -> Result<Vec<UsageRecord>, WorkerError> {
        let filters = crate::filter::Filters::parse(&request.filters)
            .map_err(|error| WorkerError::Invalid(format!("failed to parse prune filters: {error}")))?;
        let options = PruneOptions {
            all: request.all,
            keep_duration: request.keep_duration,
            reserved_space: request.reserved_space,
            max_used_space: request.max_used_space,
            min_free_space: request.min_free_space,
        };
        let removed = self
            .0
            .layers
            .prune(&options, |record| {
                let record = layer_usage(record.clone());
                filters.matches(|path| crate::filter::usage_field(&record, path))
            })
            .map_err(|error| failed(&error))?;
        let mut removed: Vec<UsageRecord> = removed.into_iter().map(layer_usage).collect();
        removed.extend(self.prune_trees(&filters, request)?);
        self.forget_links()?;
        self.drop_unused_blobs()?;
        Ok(removed)
    }

    /// Forgets which files layers that are gone had links to.
    fn forget_links(&self) -> Result<(), WorkerError> {
        let is_live = |id: &str| match LayerId::parse(id).map(|id| self.0.layers.layer(&id)) {
            Some(Ok(record)) => record.is_some(),
            // Better remembered for nothing than forgotten too early.
            Some(Err(_)) => true,
            None => false,
        };
        self.0.trees.retain_links(is_live).map_err(|error| failed(&error))
    }

    /// Removes blobs that no layer and no named image has. Fresh ones stay: somebody may be about to refer to them.
    fn drop_unused_blobs(&self) -> Result<(), WorkerError> {
        let mut used = self.0.layers.blobs().map_err(|error| failed(&error))?;
        for image in self.0.images.list().map_err(|error| failed(&error))? {
            used.extend(self.blobs_of(&image.target)?);
        }
        let now = SystemTime::now();
        for blob in self.0.content.list().map_err(|error| failed(&error))? {
            let modified = std::fs::metadata(self.0.content.path(&blob.digest)).and_then(|file| file.modified());
            let is_fresh = match modified {
                Ok(modified) => now.duration_since(modified).unwrap_or_default() < FRESH_BLOB,
                Err(_) => true,
            };
            if !is_fresh && !used.contains(&blob.digest) {
                self.0.content.delete(&blob.digest).map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }

    /// Every blob of a named image; of one that is incomplete, what is known.
    fn blobs_of(&self, target: &crate::image::Descriptor) -> Result<Vec<Digest>, WorkerError> {
        let mut blobs = vec![target.digest];
        let content = &self.0.content;
        let Ok(bytes) = content.read(&target.digest, MAX_DOCUMENT) else {
            return Ok(blobs);
        };
        let document = crate::image::Document::parse(bytes.into(), Some(&target.media_type));
        let Ok(tree) = document
            .map_err(|error| failed(&error))
            .and_then(|root| crate::image::ImageTree::of(&root, content).map_err(|error| failed(&error)))
        else {
            return Ok(blobs);
        };
        blobs.extend(tree.blobs.iter().map(|blob| blob.digest));
        blobs.extend(tree.documents.iter().map(crate::image::Document::digest));
        Ok(blobs)
    }

    /// Trees as records of their own.
    fn tree_usage(&self) -> Result<Vec<UsageRecord>, WorkerError> {
        let trees = self.0.trees.trees().map_err(|error| failed(&error))?;
        Ok(trees.iter().map(results::tree_usage).collect())
    }

    fn prune_trees(
        &self,
        filters: &crate::filter::Filters,
        request: &PruneRequest,
    ) -> Result<Vec<UsageRecord>, WorkerError> {
        let now = SystemTime::now();
        let trees = self.0.trees.trees().map_err(|error| failed(&error))?;
        let (gone, kept): (Vec<_>, Vec<_>) = trees.into_iter().partition(|tree| {
            let record = results::tree_usage(tree);
            let last_used = record.last_used_at.unwrap_or(record.created_at);
            let is_old = now.duration_since(last_used).unwrap_or_default() >= request.keep_duration;
            is_old && filters.matches(|path| crate::filter::usage_field(&record, path))
        });
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        let live: Vec<_> = kept.iter().map(|tree| tree.digest).collect();
        self.0.trees.retain(&live).map_err(|error| failed(&error))?;
        let left: std::collections::HashSet<_> = self
            .0
            .trees
            .trees()
            .map_err(|error| failed(&error))?
            .iter()
            .map(|tree| tree.digest)
            .collect();
        // What is in use stays, whatever the request says.
        let gone = gone.iter().filter(|tree| !left.contains(&tree.digest));
        Ok(gone.map(results::tree_usage).collect())
    }
}

fn layer_usage(record: crate::layer::UsageRecord) -> UsageRecord {
    UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size,
        parents: record.parents,
        created_at: record.created_at.into(),
        last_used_at: Some(record.last_used_at.into()),
        usage_count: record.usage_count,
        description: record.description,
        record_type: record.record_type,
        shared: false,
    }
}
