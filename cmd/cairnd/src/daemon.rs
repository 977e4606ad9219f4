//! The daemon without its sockets: what there is one of.

use std::sync::Arc;
use std::time::Duration;

use cairn_session::SessionManager;
use cairn_solver::engine::Swept;
use cairn_solver::index::{RedbIndex, Removed};
use cairn_solver::{Engine, EngineOptions, WorkerError};
use cairn_worker::embedded::{EmbeddedConfig, EmbeddedWorker};
use cairn_worker::service::{PruneRequest, UsageRecord, WorkerService};

use crate::config::{Config, GcPolicySection};
use crate::frontends::BuiltInFrontends;
use crate::history::History;
use crate::jobs::Jobs;
use crate::provenance::Environment;
use crate::spool::SpoolDir;
use crate::traces::StepSocket;

/// Where steps send spans, in the state directory, unless another place is configured.
const STEP_SOCKET: &str = "otel-grpc.sock";
/// How long ending the steps of a stopping daemon may take.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// Everything that calls work with. Clones share it.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) engine: Arc<Engine>,
    pub(crate) worker: Arc<dyn WorkerService>,
    pub(crate) sessions: SessionManager,
    pub(crate) jobs: Jobs,
    pub(crate) frontends: Arc<BuiltInFrontends>,
    pub(crate) history: History,
    /// What is added to statements about builds.
    pub(crate) environment: Environment,
    pub(crate) config: Arc<Config>,
    /// Where steps and frontends send spans; `None` if nobody can listen there.
    _step_socket: Option<Arc<StepSocket>>,
}

/// Why a daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("failed to use state directory {path}: {message}")]
    Root {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        message: String,
    },
    /// Another daemon uses the state directory.
    #[error("failed to use state directory {0}: another daemon is using it")]
    InUse(std::path::PathBuf),
    /// The cache index cannot be used.
    #[error(transparent)]
    Index(#[from] cairn_solver::index::IndexError),
    /// The history of builds cannot be used.
    #[error("failed to open the history of builds: {0}")]
    History(#[from] crate::history::HistoryError),
    /// What is to be added to statements cannot be read.
    #[error(transparent)]
    Environment(#[from] crate::provenance::EnvironmentError),
    /// The worker cannot start.
    #[error("failed to start the worker: {0}")]
    Worker(String),
    /// An address cannot be listened on.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// What is to secure TCP addresses cannot be used.
    #[error("failed to set up TLS: {0}")]
    Tls(String),
    /// Serving ended with an error.
    #[error("failed to serve: {0}")]
    Serve(String),
}

impl Daemon {
    /// Opens the state directory and starts the worker.
    pub(crate) async fn open(config: Config) -> Result<Self, StartError> {
        let root = config.root.clone();
        let fail = |message: String| StartError::Root {
            path: root.clone(),
            message,
        };
        make_private_dir(&config.root).map_err(|error| fail(error.to_string()))?;
        let sessions = SessionManager::default();
        let history = History::open(&config.root.join("history"), config.history).await?;
        let step_socket = step_socket(&config, &history).await?;
        let worker_config = EmbeddedConfig {
            root: config.root.join("worker"),
            labels: config.labels.clone(),
            platforms: config.platforms.clone(),
            dns: config.dns.clone(),
            network: config.network.clone(),
            runtime: config.runtime.clone(),
            registries: crate::registries::hosts(&config.registries),
            cdi: config.cdi.clone(),
            trace_socket: step_socket.as_ref().map(|socket| socket.path().to_owned()),
        };
        let worker = EmbeddedWorker::open(worker_config, sessions.clone()).await;
        let worker = worker.map_err(|error| StartError::Worker(error.to_string()))?;
        let index_path = config.root.join("cache.redb");
        let index = tokio::task::spawn_blocking(move || RedbIndex::open(&index_path)).await;
        let index = index.map_err(|error| StartError::Worker(error.to_string()))??;
        let dir = config.provenance_dir.clone();
        let environment = tokio::task::spawn_blocking(move || Environment::read(&dir)).await;
        let environment = environment.map_err(|error| fail(error.to_string()))??;
        let worker = Arc::new(worker);
        let spool = config.root.join("spool");
        let spools = tokio::task::spawn_blocking(move || SpoolDir::open(spool)).await;
        let spools = spools.map_err(|error| fail(error.to_string()))?;
        let options = EngineOptions {
            parallelism: config.max_parallelism,
            spools: Some(Arc::new(spools.map_err(|error| fail(error.to_string()))?)),
        };
        Ok(Self {
            engine: Engine::with_options(worker.clone(), Arc::new(index), options),
            frontends: Arc::new(BuiltInFrontends {
                worker: worker.clone(),
                rules: config.frontends.clone(),
            }),
            worker,
            sessions,
            jobs: Jobs::default(),
            history,
            environment,
            config: Arc::new(config),
            _step_socket: step_socket.map(Arc::new),
        })
    }

    /// Removes what the policies say, once.
    pub(crate) async fn collect_garbage(&self) {
        self.history.expire().await;
        for policy in &self.config.gc {
            let request = prune_request(policy, self.worker.disk_size());
            match self.prune(&request, Removed::Collected).await {
                Ok(removed) if removed.is_empty() => {}
                Ok(removed) => {
                    let bytes: u64 = removed.iter().map(|record| record.size).sum();
                    tracing::info!(records = removed.len(), bytes, "removed unused results");
                }
                Err(error) => tracing::warn!(%error, "failed to remove unused results"),
            }
        }
    }

    /// Removes results, and from the index what is known about them.
    pub(crate) async fn prune(&self, request: &PruneRequest, how: Removed) -> Result<Vec<UsageRecord>, WorkerError> {
        let removed = self.worker.prune(request).await?;
        if !removed.is_empty() {
            self.engine.removed(how);
            self.sweep().await;
        }
        Ok(removed)
    }

    /// Clears records out of the index whose results are gone: what a crash or pruning left.
    pub(crate) async fn sweep(&self) {
        match self.engine.sweep().await {
            Ok(swept) if swept.forgotten + swept.strays == 0 => {
                tracing::debug!(records = swept.records, "the cache index is in order");
            }
            Ok(Swept {
                records,
                forgotten,
                strays,
            }) => {
                tracing::info!(records, forgotten, strays, "cleared the cache index of what is gone");
            }
            Err(error) => tracing::warn!(%error, "failed to check the cache index"),
        }
    }

    /// Waits until a daemon that takes the place of this one, if this one was killed, would find what builds have made.
    /// Takes no time if they have made nothing.
    pub(crate) async fn settle(&self) {
        let index = async {
            if !self.engine.index().is_settled() {
                self.flush().await;
            }
        };
        let (settled, ()) = tokio::join!(self.worker.settle(), index);
        if let Err(error) = settled {
            tracing::warn!(%error, "the records of results did not reach the disk");
        }
    }

    /// Ends all builds, waits a while for what they ran to be gone, and writes everything down.
    pub(crate) async fn close(&self) {
        self.jobs.close_all();
        self.history.close().await;
        let gone = async {
            tokio::join!(self.engine.finished(), self.worker.containers_gone());
            self.worker.close().await;
        };
        if tokio::time::timeout(CLEAN_UP, gone).await.is_err() {
            tracing::warn!("steps are still being ended; the next daemon will do so");
        }
        self.flush().await;
    }

    /// Writes down what is only in memory.
    async fn flush(&self) {
        let index = self.engine.index().clone();
        match tokio::task::spawn_blocking(move || index.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "failed to write the cache index"),
            Err(error) => tracing::error!(%error, "failed to write the cache index"),
        }
    }
}

/// Opens the socket for spans of steps. One that was not asked for is not worth failing for.
async fn step_socket(config: &Config, history: &History) -> Result<Option<StepSocket>, StartError> {
    let path = match &config.trace_socket {
        Some(path) => path.clone(),
        None => config.root.join(STEP_SOCKET),
    };
    match StepSocket::open(&path, history.traces().clone()).await {
        Ok(socket) => Ok(Some(socket)),
        Err(source) if config.trace_socket.is_some() => Err(StartError::Listen {
            address: format!("unix://{}", path.display()),
            source,
        }),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "steps cannot send spans");
            Ok(None)
        }
    }
}

fn prune_request(policy: &GcPolicySection, disk: u64) -> cairn_worker::service::PruneRequest {
    let bytes = |space: Option<crate::config::DiskSpace>| space.map_or(0, |space| space.bytes(disk));
    cairn_worker::service::PruneRequest {
        filters: policy.filters.clone(),
        all: policy.all,
        keep_duration: policy.keep_duration.unwrap_or_default(),
        reserved_space: bytes(policy.reserved_space),
        max_used_space: bytes(policy.max_used_space),
        min_free_space: bytes(policy.min_free_space),
    }
}

/// Makes a directory that only its owner can enter: layers hold other users' files and setuid programs.
fn make_private_dir(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}
