//! One process of a stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cairn_proto::pb;
use cairn_solver::Entitlement;
use cairn_solver::llb::SecurityMode;
use cairn_worker::service::{Container, Process, ProcessControl, ProcessError, ProcessRequest, Streams};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use super::super::forwarder::Forwarder;
use super::super::wire::exec_message::Input;
use super::super::{ops, wire};
use crate::failure::Failure;

/// Output in one message.
const CHUNK: usize = 32 << 10;
/// How long output is awaited that is held open by others after a process has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Exit code of a process that could not be started.
const NOT_STARTED: u32 = 255;

/// Something a client asks of a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Signal(Signal),
    /// Rows and columns.
    Resize(u16, u16),
}

/// What a client is told about one process.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) process: String,
    pub(super) sender: mpsc::Sender<Result<wire::ExecMessage, Status>>,
}

impl Outgoing {
    /// Waits for the client to take it; nothing happens when it is gone.
    pub(super) async fn send(&self, input: Input) {
        let message = wire::ExecMessage {
            process_id: self.process.clone(),
            input: Some(input),
        };
        drop(self.sender.send(Ok(message)).await);
    }
}

/// What has to be known about a process to tell how it ended.
pub(super) struct Description {
    container: String,
    /// Streams that are told to have ended.
    outputs: Vec<u32>,
}

impl Description {
    pub(super) fn of(init: &wire::InitMessage) -> Self {
        Self {
            container: init.container_id.clone(),
            outputs: match init.tty {
                true => vec![1],
                false => [1, 2].into_iter().filter(|fd| init.fds.contains(fd)).collect(),
            },
        }
    }
}

/// Stays with a process to its end and tells everything about it but its start.
pub(super) async fn run(
    started: Result<Process, Failure>,
    description: Description,
    written: mpsc::Receiver<Bytes>,
    mut asked: mpsc::Receiver<Asked>,
    outgoing: &Outgoing,
) {
    let ended = match started {
        Ok(process) => talk(process, written, &mut asked, outgoing)
            .await
            .map_err(|error| failure(error, &description.container)),
        Err(failure) => Err(failure),
    };
    let exit = match ended {
        Ok(0) => wire::ExitMessage { code: 0, error: None },
        Ok(code) => wire::ExitMessage {
            code,
            error: Some(Failure::of_exit(code).to_wire()),
        },
        Err(failure) => wire::ExitMessage {
            code: NOT_STARTED,
            error: Some(failure.to_wire()),
        },
    };
    outgoing.send(Input::Exit(exit)).await;
    for fd in description.outputs {
        let end = wire::FdMessage {
            fd,
            eof: true,
            data: Bytes::new(),
        };
        outgoing.send(Input::File(end)).await;
    }
    outgoing.send(Input::Done(wire::DoneMessage {})).await;
}

/// Says which container is meant where there is none any more.
fn failure(error: ProcessError, container: &str) -> Failure {
    match error {
        ProcessError::Gone => Failure::unknown(format!("container {container} not found")),
        ProcessError::Failed(error) => error.into(),
    }
}

/// Starts a process.
pub(super) async fn start(
    caller: &Forwarder,
    container: &dyn Container,
    init: wire::InitMessage,
) -> Result<Process, Failure> {
    let mut meta = init.meta.unwrap_or_default();
    if meta.cwd.is_empty() {
        "/".clone_into(&mut meta.cwd);
    }
    let op = pb::ExecOp {
        meta: Some(pb::Meta {
            args: meta.args,
            env: meta.env,
            cwd: meta.cwd,
            user: meta.user,
            ..pb::Meta::default()
        }),
        mounts: vec![pb::Mount {
            input: -1,
            dest: "/".to_owned(),
            ..pb::Mount::default()
        }],
        security: init.security,
        secretenv: init.secretenv,
        ..pb::ExecOp::default()
    };
    let op = ops::exec(op, 0)?;
    if op.security == SecurityMode::Insecure {
        caller.check_allowed(Entitlement::SecurityInsecure)?;
    }
    let request = ProcessRequest {
        args: op.args,
        env: op.env,
        cwd: op.cwd,
        user: op.user,
        secret_env: op.secret_env,
        security: op.security,
        streams: match init.tty {
            true => Streams::Terminal,
            false => Streams::Pipes {
                stdin: init.fds.contains(&0),
                stdout: init.fds.contains(&1),
                stderr: init.fds.contains(&2),
            },
        },
    };
    let started = container.start(request, &caller.context(&init.container_id)).await;
    started.map_err(|error| failure(error, &init.container_id))
}

/// Ends a process that nobody talks to any more.
struct KillOnDrop(Box<dyn ProcessControl>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
    }
}

/// Carries everything between a process and its client until it has ended and said everything.
async fn talk(
    process: Process,
    written: mpsc::Receiver<Bytes>,
    asked: &mut mpsc::Receiver<Asked>,
    outgoing: &Outgoing,
) -> Result<u32, ProcessError> {
    let control = KillOnDrop(process.control);
    let mut input = JoinSet::new();
    if let Some(stdin) = process.stdin {
        input.spawn(write(stdin, written));
    }
    let mut output = JoinSet::new();
    for (fd, from) in [(1, process.stdout), (2, process.stderr)] {
        if let Some(from) = from {
            output.spawn(read(from, fd, outgoing.clone()));
        }
    }
    let mut exit = process.exit;
    let ended = loop {
        let asked = tokio::select! {
            ended = &mut exit => break ended,
            Some(asked) = asked.recv() => asked,
        };
        match asked {
            Asked::Signal(signal) => control.0.signal(signal),
            Asked::Resize(rows, columns) => control.0.resize(rows, columns),
        }
    };
    // Time runs only while there is nothing to pass on: a slow client gets everything.
    while !output.is_empty() {
        tokio::select! {
            _ = output.join_next() => {}
            () = tokio::time::sleep(LAST_OUTPUT), if outgoing.sender.capacity() > 0 => break,
        }
    }
    ended
}

async fn write(mut stdin: Box<dyn AsyncWrite + Send + Unpin>, mut written: mpsc::Receiver<Bytes>) {
    while let Some(data) = written.recv().await {
        if stdin.write_all(&data).await.is_err() {
            // It does not read any more; dropping the receiver tells whoever writes.
            return;
        }
    }
}

async fn read(mut from: Box<dyn AsyncRead + Send + Unpin>, fd: u32, outgoing: Outgoing) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let data = wire::FdMessage {
            fd,
            eof: false,
            data: buffer.freeze(),
        };
        outgoing.send(Input::File(data)).await;
    }
}
