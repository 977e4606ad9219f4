//! Containers that processes are started in one by one, by whoever talks to them: frontends, and clients that look
//! into their builds.
//!
//! A container is everything its processes see. Its first process is the one whose end is that of all others; files
//! can be looked at until the container is released.

use std::sync::Arc;

use cairn_solver::llb::SecurityMode;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::error::ExecError;
use super::networks::{Joined, can_change_network};
use super::plan::OwnDir;
use super::prepare::Stage;
use super::request::ExecRequest;
use super::{ExecRunner, blocking};
use crate::executor::process::{ContainerId, Executor, ExecutorError, ExitStatus, Network, ProcessIo};
use crate::sys::Root;

/// Most processes at the same time in one container.
const MAX_PROCESSES: usize = 64;

/// A container; released when dropped, or when what it was made for is cancelled.
pub struct Container {
    shared: Arc<Shared>,
    _release: DropGuard,
}

struct Shared {
    id: ContainerId,
    executor: Arc<dyn Executor>,
    network: Network,
    state: Mutex<State>,
    /// Processes that are running, or being ended.
    processes: TaskTracker,
    /// Fires when the first process has ended.
    ended: CancellationToken,
    /// Fires when everything is to end.
    release: CancellationToken,
    /// Fires when everything has ended.
    released: CancellationToken,
}

struct State {
    /// The network of all processes; `None` once it was left.
    joined: Option<Joined>,
    /// Whether the network may be used by others afterwards.
    is_network_clean: bool,
    /// `None` once it was released.
    stage: Option<Arc<Stage>>,
    first: First,
}

/// Where a container's first process has got to.
#[derive(Clone, Copy)]
enum First {
    Awaited,
    Running(SecurityMode),
    Ended,
}

/// How a process ends.
pub type Ending = oneshot::Receiver<Result<ExitStatus, ExecError>>;

impl ExecRunner {
    /// Makes a container: of the op, all that does not concern a single process counts. `cancel` releases it, too.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn container(
        &self,
        request: ExecRequest,
        own: Vec<OwnDir>,
        cancel: &CancellationToken,
    ) -> Result<Container, ExecError> {
        let caches = self.cache_dirs(&request, cancel).await?;
        let setting = self.setting(&request);
        let op = request.op.clone();
        let staging = blocking(move || Stage::new(&setting, &request, &own, caches));
        let (stage, joined) = self.networks.join_beside(&op, cancel, staging).await?;
        let release = cancel.child_token();
        let shared = Arc::new(Shared {
            id: ContainerId::random(),
            executor: self.executor.clone(),
            network: joined.network(),
            state: Mutex::new(State {
                stage: Some(Arc::new(stage)),
                joined: Some(joined),
                is_network_clean: true,
                first: First::Awaited,
            }),
            processes: TaskTracker::new(),
            ended: CancellationToken::new(),
            release: release.clone(),
            released: CancellationToken::new(),
        });
        self.containers.spawn(shared.clone().keep());
        Ok(Container {
            shared,
            _release: release.drop_guard(),
        })
    }

    /// Waits until all containers are gone.
    pub async fn containers_gone(&self) {
        self.containers.close();
        self.containers.wait().await;
    }
}

impl Container {
    /// Starts a process: of the op, only what concerns the process counts. Dropping the answer ends nothing.
    ///
    /// # Errors
    /// [`ExecError::Gone`] once the first process has ended.
    pub fn start(&self, request: ExecRequest, terminal: bool, io: ProcessIo) -> Result<Ending, ExecError> {
        let mut state = self.shared.state.lock();
        let (Some(stage), false) = (state.stage.clone(), self.shared.release.is_cancelled()) else {
            return Err(ExecError::Gone);
        };
        let is_first = match state.first {
            First::Awaited => true,
            First::Running(security) if security == request.op.security => false,
            First::Running(_) => {
                let why = "a process cannot be confined otherwise than the first one of its container";
                return Err(ExecError::Invalid(why.to_owned()));
            }
            First::Ended => return Err(ExecError::Gone),
        };
        if self.shared.processes.len() >= MAX_PROCESSES {
            let why = format!("more than {MAX_PROCESSES} processes in one container");
            return Err(ExecError::Invalid(why));
        }
        if is_first {
            state.first = First::Running(request.op.security);
        }
        let (sender, ending) = oneshot::channel();
        let shared = self.shared.clone();
        // Under the lock, so that whoever releases the container knows of it.
        self.shared.processes.spawn(async move {
            let outcome = shared.run(stage, request, terminal, io, is_first).await;
            if is_first {
                shared.state.lock().first = First::Ended;
                shared.ended.cancel();
            }
            // Whoever started it may not care any more.
            drop(sender.send(outcome));
        });
        Ok(ending)
    }

    /// What is mounted for a mount of the container's op, for looking at files in it.
    ///
    /// # Errors
    /// [`ExecError::Gone`] once the container was released; or that nothing can be looked at there.
    pub fn mounted(&self, index: usize) -> Result<Root, ExecError> {
        let stage = self.shared.state.lock().stage.clone().ok_or(ExecError::Gone)?;
        let root = stage.mounted(index);
        root.ok_or_else(|| ExecError::Invalid(format!("mount {index} is no directory that can be looked into")))
    }

    /// Ends all processes and takes everything away.
    ///
    /// # Cancel safety
    /// Cancel safe: it goes on by itself.
    pub async fn release(&self) {
        self.shared.release.cancel();
        self.shared.released.cancelled().await;
    }
}

impl Shared {
    async fn run(
        &self,
        stage: Arc<Stage>,
        request: ExecRequest,
        terminal: bool,
        io: ProcessIo,
        is_first: bool,
    ) -> Result<ExitStatus, ExecError> {
        let command = request.command();
        let of_process = |error: ExecError| match error {
            ExecError::Cancelled | ExecError::Gone => error,
            error => ExecError::Process {
                command: command.clone(),
                source: Box::new(error),
            },
        };
        let described = blocking(move || {
            let user = stage.user(&request.op.user)?;
            let mut process = stage.process(&request, user)?;
            process.terminal = terminal;
            // Kept until it has run.
            Ok((process, stage))
        });
        let (mut process, _stage) = described.await.map_err(of_process)?;
        process.network = self.network.clone();
        if can_change_network(&process) {
            self.state.lock().is_network_clean = false;
        }
        let run = if is_first {
            self.executor.run(&self.id, &process, io, &self.release).await
        } else {
            let exec = self.executor.exec(&self.id, &self.ended, &process, io, &self.release);
            exec.await
        };
        if run.is_err() {
            self.state.lock().is_network_clean = false;
        }
        match run {
            // As with steps, it has told why on the standard error of the process, and ended with a code.
            Err(ExecutorError::Start { code, message, runtime }) if is_first => {
                tracing::debug!(runtime, message, "a process could not be started");
                Ok(ExitStatus {
                    code,
                    out_of_memory: false,
                })
            }
            run => run.map_err(|error| of_process(error.into())),
        }
    }

    /// Waits until the container is to be released, and does that.
    async fn keep(self: Arc<Self>) {
        self.release.cancelled().await;
        let stage = self.state.lock().stage.take();
        self.processes.close();
        self.processes.wait().await;
        let (joined, is_clean) = {
            let mut state = self.state.lock();
            (state.joined.take(), state.is_network_clean)
        };
        if let Some(joined) = joined
            && is_clean
        {
            joined.unused();
        }
        // Unless somebody looks at files in it right now, who then is the last to leave.
        if let Some(stage) = stage.and_then(Arc::into_inner)
            && let Err(error) = blocking(move || stage.undo().map(drop)).await
        {
            tracing::warn!(
                error = crate::causes::with_causes(&error),
                "could not clean up after a container"
            );
        }
        self.released.cancel();
    }
}
