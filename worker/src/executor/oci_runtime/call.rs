//! A call of the runtime program that lasts as long as a process.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus as ProcessExit, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::executor::process::{ExecutorError, OutputSink, OutputStream, ProcessControl, ProcessIo, ProcessOutput};
use crate::sys::process::ProcessHandle;

/// Output passed on at once.
const CHUNK: usize = 32 * 1024;
/// How often is looked whether a process is there that a signal is for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Signals that wait for the process to be there; more are for nobody.
const MAX_PENDING: usize = 64;

/// The runtime program, waiting for a process that it started.
pub(super) struct Call {
    pub(super) child: Child,
    pid_file: PathBuf,
    control: Option<mpsc::Receiver<ProcessControl>>,
    /// Signals for a process that is not there yet.
    pending: Vec<Signal>,
    sink: Option<Arc<dyn OutputSink>>,
    /// Passes output on; aborted with this.
    output: JoinSet<()>,
}

impl Call {
    /// Starts `command`, which writes the number of the process to `pid_file`.
    pub(super) fn start(
        program: &Path,
        mut command: Command,
        pid_file: PathBuf,
        io: ProcessIo,
    ) -> Result<Self, ExecutorError> {
        command.stdin(io.stdin.map_or_else(Stdio::null, Stdio::from));
        let sink = match io.output {
            ProcessOutput::Sink(sink) => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                Some(sink)
            }
            ProcessOutput::Direct { stdout, stderr } => {
                command
                    .stdout(stdout.map_or_else(Stdio::null, Stdio::from))
                    .stderr(stderr.map_or_else(Stdio::null, Stdio::from));
                None
            }
        };
        let mut child = command
            .spawn()
            .map_err(ExecutorError::io(format!("start {}", program.display())))?;
        // Ours keeps the other ends of the pipes otherwise.
        drop(command);
        let mut output = JoinSet::new();
        if let Some(sink) = &sink {
            if let Some(stdout) = child.stdout.take() {
                output.spawn(copy_output(stdout, OutputStream::Stdout, sink.clone()));
            }
            if let Some(stderr) = child.stderr.take() {
                output.spawn(copy_output(stderr, OutputStream::Stderr, sink.clone()));
            }
        }
        Ok(Self {
            child,
            pid_file,
            control: io.control,
            pending: Vec::new(),
            sink,
            output,
        })
    }

    /// Waits for the end, passing on what is asked of the process meanwhile; `None` when `cancel` comes first.
    pub(super) async fn exit(&mut self, cancel: &CancellationToken) -> Option<std::io::Result<ProcessExit>> {
        loop {
            let asked = tokio::select! {
                exit = self.child.wait() => return Some(exit),
                () = cancel.cancelled() => return None,
                asked = next(&mut self.control) => Some(asked),
                () = tokio::time::sleep(LOOK_EVERY), if !self.pending.is_empty() => None,
            };
            match asked {
                Some(ProcessControl::Resized) => self.pass_size_on(),
                Some(ProcessControl::Signal(signal)) if self.pending.len() < MAX_PENDING => self.pending.push(signal),
                Some(ProcessControl::Signal(_)) | None => {}
            }
            self.pending.retain(|pending| !signal(&self.pid_file, *pending));
        }
    }

    /// The runtime copies the size of its own terminal to that of the process when it is told of a change.
    fn pass_size_on(&self) {
        let runtime = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        if let Some(runtime) = runtime
            && let Err(error) = kill_process(runtime, Signal::WINCH)
        {
            tracing::debug!(%error, "could not tell the runtime of a terminal's new size");
        }
    }

    /// Waits until everything that the process wrote has been passed on.
    pub(super) async fn output_end(&mut self) {
        while self.output.join_next().await.is_some() {}
    }

    /// Where output goes, if it is passed on here.
    pub(super) fn sink(&self) -> Option<&dyn OutputSink> {
        self.sink.as_deref()
    }
}

/// The next thing that is asked; never, once nothing more will be.
async fn next(control: &mut Option<mpsc::Receiver<ProcessControl>>) -> ProcessControl {
    if let Some(receiver) = control {
        if let Some(asked) = receiver.recv().await {
            return asked;
        }
        *control = None;
    }
    std::future::pending().await
}

/// Sends a signal to the process whose number is in a file; false if it is not there yet.
pub(super) fn signal(pid_file: &Path, signal: Signal) -> bool {
    let pid = std::fs::read_to_string(pid_file)
        .ok()
        .and_then(|pid| pid.trim().parse().ok());
    let Some(pid) = pid else { return false };
    let sent = match ProcessHandle::open(pid) {
        Ok(Some(handle)) => handle.signal(signal),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "could not send a signal to a process");
    }
    true
}

async fn copy_output(mut from: impl AsyncRead + Unpin, stream: OutputStream, sink: Arc<dyn OutputSink>) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => sink.output(stream, buffer.freeze()),
            Err(error) => {
                tracing::warn!(%error, "could not read the output of a process");
                return;
            }
        }
    }
}
