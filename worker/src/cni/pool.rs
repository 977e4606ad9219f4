//! Namespaces in use and ready for use.
//!
//! A namespace is used by one process after the other: setting one up takes longer than many a step. One in which
//! something could have changed its networks is not used again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::bridge::OwnBridge;
use super::error::CniError;
use super::namespace::Namespace;
use super::{CniConfig, KEEP, NetworkSource, Setup};
use crate::causes::with_causes;
use crate::sys::mounts::{self, MountGuard};
use crate::sys::root::create_private_dirs;

/// Most namespaces that are ready for use, unless more are wanted.
const MAX_READY: usize = 16;
/// Namespaces that are made or ended at a time: plugins wait for each other anyway.
const AT_ONCE: usize = 8;
/// How long after a failure the next namespace is made in advance.
const RETRY: Duration = Duration::from_secs(10);

/// Makes namespaces, and keeps some ready. Dropping this ends what is under way; [`Namespaces::close`] also takes
/// down what is there.
pub(crate) struct Namespaces {
    shared: Arc<Shared>,
    _keeper: AbortOnDropHandle<()>,
}

struct Shared {
    setup: Setup,
    dir: PathBuf,
    /// How many there are to be.
    wanted: usize,
    /// How long more are kept.
    keep: Duration,
    state: Mutex<State>,
    /// Told of all that the keeper may have to do something about.
    changed: Notify,
    at_once: Semaphore,
    tasks: TaskTracker,
    closing: CancellationToken,
    runtime: Handle,
    /// The bridge, while there is one to be removed.
    bridge: Mutex<Option<OwnBridge>>,
    _private: Option<MountGuard>,
}

#[derive(Default)]
struct State {
    /// The one that was used last is last.
    ready: VecDeque<(Namespace, Instant)>,
    /// How many there are: ready, in use and being made, but for those that nobody else can use.
    count: usize,
}

/// A namespace in use. Taken down when dropped.
pub(crate) struct Lease {
    namespace: Option<Namespace>,
    /// Whether another process could use it, too.
    is_common: bool,
    shared: Arc<Shared>,
}

impl Namespaces {
    /// Prepares for namespaces whose state is in `dir`, and makes the first one: whatever is wrong shows now. What an
    /// earlier daemon left was cleared.
    pub(crate) async fn open(config: &CniConfig, dir: &Path) -> Result<Self, CniError> {
        let (config, path) = (config.clone(), dir.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let setup = Setup::read(&config)?;
            Shared::new(setup, &config, &path)
        });
        let shared = read
            .await
            .map_err(|error| CniError::io("prepare", dir)(std::io::Error::other(error)))??;
        Self::start(shared).await
    }

    async fn start(shared: Shared) -> Result<Self, CniError> {
        let shared = Arc::new(shared);
        match shared.make("").await {
            Ok(lease) => lease.give_back(),
            Err(error) => {
                shared.close().await;
                return Err(error);
            }
        }
        let keeper = shared.tasks.spawn(shared.clone().keep());
        Ok(Self {
            shared,
            _keeper: AbortOnDropHandle::new(keeper),
        })
    }

    /// A namespace for a process with this host name; empty for the one that all others have.
    ///
    /// # Cancel safety
    /// Cancel safe: one that was being made is kept for the next.
    pub(crate) async fn lease(&self, hostname: &str) -> Result<Lease, CniError> {
        if hostname.is_empty()
            && let Some(lease) = self.shared.take_ready()
        {
            return Ok(lease);
        }
        let (sender, made) = oneshot::channel();
        let (shared, hostname) = (self.shared.clone(), hostname.to_owned());
        self.shared.tasks.spawn(async move {
            // Nobody has used it if nobody waits for it any more.
            if let Err(Ok(lease)) = sender.send(shared.make(&hostname).await) {
                lease.give_back();
            }
        });
        made.await.unwrap_or(Err(CniError::Closed))
    }

    /// Takes everything down. Nothing may be in use any more.
    pub(crate) async fn close(&self) {
        self.shared.close().await;
    }
}

impl Shared {
    fn new(setup: Setup, config: &CniConfig, dir: &Path) -> Result<Self, CniError> {
        create_private_dirs(dir).map_err(CniError::io("create", dir))?;
        let dir = dir.canonicalize().map_err(CniError::io("resolve", dir))?;
        let bridge = match &config.source {
            NetworkSource::Bridge { name, .. } => OwnBridge::claim(name, &dir)?,
            NetworkSource::File(_) => None,
        };
        let private = mounts::private_dir(&dir)
            .inspect_err(|error| tracing::warn!(%error, "namespaces are visible to other mount namespaces"))
            .ok();
        Ok(Self {
            setup,
            dir,
            wanted: config.pool_size,
            keep: KEEP,
            state: Mutex::default(),
            changed: Notify::new(),
            at_once: Semaphore::new(AT_ONCE),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            runtime: Handle::current(),
            bridge: Mutex::new(bridge),
            _private: private,
        })
    }

    /// Makes a namespace.
    async fn make(self: &Arc<Self>, hostname: &str) -> Result<Lease, CniError> {
        let is_common = hostname.is_empty();
        if is_common {
            self.state.lock().count += 1;
        }
        let made = match self.at_once.acquire().await {
            _ if self.closing.is_cancelled() => Err(CniError::Closed),
            Ok(_permit) => Namespace::create(&self.dir, &self.setup, hostname).await,
            Err(_) => Err(CniError::Closed),
        };
        if made.is_err() && is_common {
            self.state.lock().count -= 1;
        }
        Ok(self.lease(made?, is_common))
    }

    fn lease(self: &Arc<Self>, namespace: Namespace, is_common: bool) -> Lease {
        Lease {
            namespace: Some(namespace),
            is_common,
            shared: self.clone(),
        }
    }

    /// The one that was used last: the others get old.
    fn take_ready(self: &Arc<Self>) -> Option<Lease> {
        let (namespace, _) = self.state.lock().ready.pop_back()?;
        Some(self.lease(namespace, true))
    }

    /// Takes a namespace down, on a task of its own.
    fn discard(self: &Arc<Self>, namespace: Namespace, is_common: bool) {
        if is_common {
            self.state.lock().count -= 1;
            self.changed.notify_one();
        }
        let shared = self.clone();
        let removal = async move {
            let _permit = shared.at_once.acquire().await;
            namespace.remove().await;
        };
        self.tasks.spawn_on(removal, &self.runtime);
    }

    /// Has as many namespaces as are wanted, until they are not any more.
    async fn keep(self: Arc<Self>) {
        while !self.closing.is_cancelled() {
            let aged = self.discard_aged();
            let lacking = self.state.lock().count < self.wanted;
            let retry = match lacking.then_some(self.make("")) {
                None => None,
                Some(making) => match making.await {
                    Ok(lease) => {
                        lease.give_back();
                        continue;
                    }
                    Err(error) => {
                        let error = with_causes(&error);
                        tracing::warn!(error, "could not prepare a network namespace");
                        Some(Instant::now() + RETRY)
                    }
                },
            };
            let next = aged.into_iter().chain(retry).min();
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = self.changed.notified() => {}
                () = async { tokio::time::sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
            }
        }
    }

    /// Takes down what exceeds the wanted number and was not used for long; returns when there may be more to do.
    fn discard_aged(self: &Arc<Self>) -> Option<Instant> {
        loop {
            let namespace = {
                let mut state = self.state.lock();
                let end = state.ready.front()?.1 + self.keep;
                if state.count <= self.wanted {
                    return None;
                }
                if end > Instant::now() {
                    return Some(end);
                }
                state.ready.pop_front()?.0
            };
            self.discard(namespace, true);
        }
    }

    async fn close(self: &Arc<Self>) {
        self.closing.cancel();
        let ready = std::mem::take(&mut self.state.lock().ready);
        for (namespace, _) in ready {
            self.discard(namespace, true);
        }
        self.tasks.close();
        self.tasks.wait().await;
        let bridge = self.bridge.lock().take();
        if let Some(bridge) = bridge
            && let Err(error) = tokio::task::spawn_blocking(move || bridge.remove()).await
        {
            tracing::warn!(%error, "could not remove a bridge");
        }
    }
}

impl Lease {
    /// Where the namespace can be entered.
    pub(crate) fn path(&self) -> PathBuf {
        self.namespace.as_ref().map(Namespace::net).unwrap_or_default()
    }

    /// Leaves the namespace to the next: nobody is in it, and nobody could have changed its networks.
    pub(crate) fn give_back(mut self) {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let has_room = state.ready.len() < MAX_READY.max(shared.wanted);
        if self.is_common
            && has_room
            && !shared.closing.is_cancelled()
            && let Some(namespace) = self.namespace.take()
        {
            state.ready.push_back((namespace, Instant::now()));
            shared.changed.notify_one();
        }
        drop(state);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(namespace) = self.namespace.take() {
            self.shared.discard(namespace, self.is_common);
        }
    }
}

#[cfg(test)]
mod tests;
