//! Carrying out an [`ExecOp`]: from result lists and grants to a process, and from what it left to results.
//!
//! | module | part |
//! |---|---|
//! | `request` | what is asked |
//! | `prepare` | putting everything in place, and making results of what the process left |
//! | `container` | processes that are started one by one in the same surroundings |
//! | `plan`, `sources` | what is mounted, in which order; what the mounts show |
//! | `private_dir` | files that nobody else may see |
//! | `networks` | which network is joined |
//! | `environment` | variables |
//!
//! The rules for mounts are those of BuildKit's `ExecOp` (`solver/llbsolver/mounts`, `executor`).
//!
//! [`ExecOp`]: cairn_solver::llb::ExecOp

mod container;
mod environment;
mod error;
mod networks;
mod plan;
mod prepare;
mod private_dir;
mod request;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_solver::llb::MountKind;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::container::{Container, Ending};
pub use self::error::{ExecError, RunFailure};
pub(crate) use self::networks::Networks;
pub use self::plan::OwnDir;
use self::prepare::{Setting, prepare};
pub use self::request::{ExecRequest, Grants};
use super::process::{ContainerId, Executor, OutputSink, ProcessIo, ProcessOutput};
use super::resolv::DnsConfig;
use crate::layer::{CacheDir, CacheRequest, LayerList, LayerStore};
use crate::sys::mounts::{self, MountGuard};
use crate::sys::root::create_private_dirs;
use crate::sys::{Root, at};

/// Carries out [`ExecOp`](cairn_solver::llb::ExecOp)s.
pub struct ExecRunner {
    layers: LayerStore,
    executor: Arc<dyn Executor>,
    /// A directory per run, for what is private to it.
    dir: PathBuf,
    dns: DnsConfig,
    networks: Networks,
    /// Containers that were not released entirely.
    containers: TaskTracker,
    _private: Option<MountGuard>,
}

impl ExecRunner {
    /// Runs with `executor` on layers of `layers`. `dir` is for private files of running processes; what an earlier
    /// daemon left in it is removed.
    pub(crate) fn new(
        layers: LayerStore,
        executor: Arc<dyn Executor>,
        dir: impl AsRef<Path>,
        dns: DnsConfig,
        networks: Networks,
    ) -> Result<Self, ExecError> {
        let failed = |source| ExecError::Private {
            doing: "prepare the directory for runs",
            source,
        };
        create_private_dirs(dir.as_ref()).map_err(failed)?;
        let dir = dir.as_ref().canonicalize().map_err(failed)?;
        mounts::unmount_below(&dir).map_err(failed)?;
        let root = Root::open(&dir).map_err(failed)?;
        at::remove_children(&root).map_err(failed)?;
        let private = mounts::private_dir(&dir)
            .inspect_err(|error| tracing::warn!(%error, "mounts of runs are visible to other mount namespaces"))
            .ok();
        Ok(Self {
            layers,
            executor,
            dir,
            dns,
            networks,
            containers: TaskTracker::new(),
            _private: private,
        })
    }

    /// Runs the process of an op and returns the op's outputs, in order; an empty list is scratch.
    ///
    /// # Cancel safety
    /// To be cancelled by `cancel`, which waits for the clean-up. Dropping the future leaves the clean-up of mounts to
    /// their guards, while the process may still be ending.
    pub async fn run(
        &self,
        request: ExecRequest,
        sink: Arc<dyn OutputSink>,
        cancel: &CancellationToken,
    ) -> Result<Vec<LayerList>, RunFailure> {
        let caches = self.cache_dirs(&request, cancel).await?;
        let request = Arc::new(request);
        let setting = self.setting(&request);
        let asked = request.clone();
        let of_process = |error: ExecError| error.of_process(request.command());
        let preparing = blocking(move || prepare(&setting, &asked, caches));
        let joined = self.networks.join_beside(&request.op, cancel, preparing).await;
        let (mut prepared, joined) = joined.map_err(of_process)?;
        prepared.process.network = joined.network();
        let io = ProcessIo {
            stdin: None,
            output: ProcessOutput::Sink(sink),
            control: None,
            meter: request.meter.clone(),
        };
        let outcome = self
            .executor
            .run(&ContainerId::random(), &prepared.process, io, cancel)
            .await;
        joined.leave(&prepared.process, outcome.is_ok());
        let outcome = outcome.map_err(|error| of_process(error.into()));
        blocking(move || Ok(prepared.finish(&request, outcome))).await?
    }

    /// Takes down all networks. Nothing may be running any more, nor be run afterwards.
    pub(crate) async fn close(&self) {
        self.networks.close().await;
    }

    /// Whether it can be measured what processes use of the machine.
    pub fn can_measure(&self) -> bool {
        self.executor.can_measure()
    }

    fn setting(&self, request: &ExecRequest) -> Setting {
        Setting {
            layers: self.layers.clone(),
            dir: self.dir.join(crate::layer::random_name()),
            dns: self.dns.clone(),
            loopback: self.networks.loopback(request.op.network),
        }
    }

    /// Gets the cache directories of an op, by mount.
    async fn cache_dirs(&self, request: &ExecRequest, cancel: &CancellationToken) -> Result<Caches, ExecError> {
        let mut wanted = Vec::new();
        for (index, mount) in request.op.mounts.iter().enumerate() {
            if let MountKind::Cache { id, sharing } = &mount.kind {
                let seed = request.input(mount)?;
                let description = format!(
                    "cached mount {} from exec {} with id {id:?}",
                    mount.dest,
                    request.command()
                );
                wanted.push((
                    index,
                    CacheRequest {
                        id: id.clone(),
                        seed,
                        sharing: *sharing,
                        description,
                    },
                ));
            }
        }
        // In one order for all, so that two ops that lock the same two directories do not wait for each other.
        wanted.sort_by_key(|(_, wanted)| wanted.key());
        let mut caches = Caches::new();
        let mut last: Option<(CacheRequest, Arc<CacheDir>)> = None;
        for (index, wanted) in wanted {
            // Twice in one op is one directory, which would else wait for itself.
            let cache = match &last {
                Some((known, cache)) if known.key() == wanted.key() => cache.clone(),
                _ => tokio::select! {
                    cache = self.layers.cache_dir(&wanted) => Arc::new(cache?),
                    () = cancel.cancelled() => return Err(ExecError::Cancelled),
                },
            };
            caches.insert(index, cache.clone());
            last = Some((wanted, cache));
        }
        Ok(caches)
    }
}

/// Cache directories by the index of their mount.
type Caches = BTreeMap<usize, Arc<CacheDir>>;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecError> + Send + 'static,
) -> Result<T, ExecError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ExecError::Private {
            doing: "prepare or finish a run",
            source: std::io::Error::other(error),
        }),
    }
}
