//! Containers for whoever talks to the processes in them.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::llb::ExecOp;
use cairn_solver::worker::{CallContext, FileStat, WorkerError};
use rustix::process::Signal;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use super::ssh::LentAgent;
use super::{EmbeddedWorker, blocking, failed, results, spans};
use crate::executor::{
    self, Container as Running, ExecError, ExecRequest, ProcessIo, ProcessOutput, Terminal, TerminalSize,
};
use crate::service::{Container, ContainerRequest, Process, ProcessControl, ProcessError, ProcessRequest, Streams};
use crate::sys::Root;

/// Signals and changes of size under way to a process; more are dropped.
const MAX_ASKED: usize = 32;
/// What a container is for, in descriptions of the cache directories it makes.
const PURPOSE: &str = "container of a client or frontend";

impl EmbeddedWorker {
    /// Makes a container.
    pub(super) async fn make_container(
        &self,
        request: ContainerRequest,
        context: &CallContext,
    ) -> Result<Arc<dyn Container>, WorkerError> {
        let mounts = request.mounts.into_iter().map(|mut mount| {
            mount.output = None;
            mount
        });
        let op = ExecOp {
            args: vec![PURPOSE.to_owned()],
            cwd: "/".to_owned(),
            mounts: mounts.collect(),
            network: request.network,
            hostname: request.hostname,
            extra_hosts: request.extra_hosts,
            remove_mount_stubs_recursive: true,
            ..ExecOp::default()
        };
        let (grants, agents) = tokio::select! {
            grants = self.grants(&op, context) => grants?,
            () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
        };
        let (worker, held) = (self.clone(), request.inputs);
        let inputs = blocking(move || {
            let lists = held.iter().map(|input| match input {
                None => Ok(None),
                Some(input) => worker.layers_of(Some(input)).map(Some),
            });
            lists.collect::<Result<Vec<_>, _>>()
        });
        let collector = context.trace.and_then(|_| self.collector());
        let has_collector = collector.is_some();
        let asked = ExecRequest {
            op,
            resources: Default::default(),
            inputs: inputs.await?,
            grants,
            devices: Default::default(),
            collector,
            meter: None,
        };
        let own = request.own_dirs.into_iter().map(|dir| executor::OwnDir {
            dest: dir.dest,
            files: dir.files,
        });
        let running = self.0.runner.container(asked, own.collect(), &context.cancel).await?;
        Ok(Arc::new(EmbeddedContainer {
            running,
            worker: self.clone(),
            has_collector,
            _agents: agents,
        }))
    }
}

/// A container of this worker.
struct EmbeddedContainer {
    running: Running,
    worker: EmbeddedWorker,
    /// Whether its processes see where spans are collected.
    has_collector: bool,
    _agents: Vec<LentAgent>,
}

#[async_trait]
impl Container for EmbeddedContainer {
    async fn start(&self, request: ProcessRequest, context: &CallContext) -> Result<Process, ProcessError> {
        let mut op = ExecOp {
            args: request.args,
            env: request.env,
            cwd: if request.cwd.is_empty() {
                "/".to_owned()
            } else {
                request.cwd
            },
            user: request.user,
            security: request.security,
            secret_env: request.secret_env,
            ..ExecOp::default()
        };
        let has_terminal = request.streams == Streams::Terminal;
        if has_terminal && !op.env.iter().any(|entry| entry.starts_with("TERM=")) {
            op.env.push("TERM=xterm".to_owned());
        }
        if let (Some(trace), true) = (context.trace, self.has_collector) {
            spans::tell(&mut op, trace);
        }
        let (grants, _) = tokio::select! {
            grants = self.worker.grants(&op, context) => grants?,
            () = context.cancel.cancelled() => return Err(WorkerError::Cancelled.into()),
        };
        let (mut process, io) = connect(request.streams).map_err(|error| failed(&error))?;
        let asked = ExecRequest {
            op,
            resources: Default::default(),
            inputs: Vec::new(),
            grants,
            devices: Default::default(),
            collector: None,
            meter: None,
        };
        let ending = self.running.start(asked, has_terminal, io).map_err(process_error)?;
        process.exit = Box::pin(async {
            match ending.await {
                Ok(Ok(status)) => Ok(status.code),
                Ok(Err(error)) => Err(process_error(error)),
                Err(_) => Err(WorkerError::Cancelled.into()),
            }
        });
        Ok(process)
    }

    async fn read_file(&self, mount: usize, path: &Path, range: Option<(u64, u64)>) -> Result<Bytes, WorkerError> {
        let path = path.to_owned();
        self.look(mount, move |root| results::read_file(root, &path, range))
            .await
    }

    async fn read_dir(&self, mount: usize, path: &Path, include: Option<&[u8]>) -> Result<Vec<FileStat>, WorkerError> {
        let (path, include) = (path.to_owned(), include.map(<[u8]>::to_vec));
        self.look(mount, move |root| results::read_dir(root, &path, include.as_deref()))
            .await
    }

    async fn stat_file(&self, mount: usize, path: &Path) -> Result<FileStat, WorkerError> {
        let path = path.to_owned();
        self.look(mount, move |root| results::stat_file(root, &path)).await
    }

    async fn release(&self) {
        self.running.release().await;
    }
}

fn process_error(error: ExecError) -> ProcessError {
    match &error {
        ExecError::Gone => ProcessError::Gone,
        _ => ProcessError::Failed(error.into()),
    }
}

impl EmbeddedContainer {
    async fn look<T: Send + 'static>(
        &self,
        mount: usize,
        look: impl FnOnce(&Root) -> Result<T, WorkerError> + Send + 'static,
    ) -> Result<T, WorkerError> {
        let root = self.running.mounted(mount)?;
        blocking(move || look(&root)).await
    }
}

/// Both ends of what a process is connected to. Its exit is to be filled in.
fn connect(streams: Streams) -> std::io::Result<(Process, ProcessIo)> {
    let (asking, asked) = mpsc::channel(MAX_ASKED);
    let mut process = Process {
        stdin: None,
        stdout: None,
        stderr: None,
        control: Box::new(Control {
            asking: asking.clone(),
            size: None,
        }),
        exit: Box::pin(std::future::pending()),
    };
    let (mut stdin, mut stdout, mut stderr): (Option<OwnedFd>, Option<OwnedFd>, Option<OwnedFd>) = (None, None, None);
    match streams {
        Streams::Terminal => {
            let (ours, theirs) = Terminal::open()?;
            (stdin, stdout, stderr) = (Some(theirs.try_clone()?), Some(theirs.try_clone()?), Some(theirs));
            process.stdin = Some(Box::new(ours.input));
            process.stdout = Some(Box::new(ours.output));
            process.control = Box::new(Control {
                asking,
                size: Some(ours.size),
            });
        }
        Streams::Pipes {
            stdin: reads,
            stdout: writes,
            stderr: complains,
        } => {
            if reads {
                let (theirs, ours) = std::io::pipe()?;
                stdin = Some(theirs.into());
                process.stdin = Some(Box::new(Sender::from_owned_fd(ours.into())?));
            }
            if writes {
                let (ours, theirs) = std::io::pipe()?;
                stdout = Some(theirs.into());
                process.stdout = Some(Box::new(Receiver::from_owned_fd(ours.into())?));
            }
            if complains {
                let (ours, theirs) = std::io::pipe()?;
                stderr = Some(theirs.into());
                process.stderr = Some(Box::new(Receiver::from_owned_fd(ours.into())?));
            }
        }
    }
    let io = ProcessIo {
        stdin,
        output: ProcessOutput::Direct { stdout, stderr },
        control: Some(asked),
        meter: None,
    };
    Ok((process, io))
}

/// The way to a process.
struct Control {
    asking: mpsc::Sender<executor::ProcessControl>,
    size: Option<TerminalSize>,
}

impl Control {
    fn ask(&self, asked: executor::ProcessControl) {
        if let Err(error) = self.asking.try_send(asked) {
            tracing::debug!(%error, ?asked, "not passed on to a process");
        }
    }
}

impl ProcessControl for Control {
    fn signal(&self, signal: Signal) {
        self.ask(executor::ProcessControl::Signal(signal));
    }

    fn resize(&self, rows: u16, columns: u16) {
        let Some(size) = &self.size else { return };
        match size.set(rows, columns) {
            Ok(()) => self.ask(executor::ProcessControl::Resized),
            Err(error) => tracing::debug!(%error, "could not change the size of a terminal"),
        }
    }
}
