//! Running processes with an OCI runtime program: runc or crun.
//!
//! One `run` of the program per process, on a bundle of its own. The program stays until the process ends, hands its
//! output through, and cleans up. What goes wrong on the way is cleaned up here, with `kill` and `delete --force`; what
//! a killed daemon left running is found by the path of its bundles when the next one opens the same directory.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus as ProcessExit, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::cgroup::Cgroups;
use super::process::{Executor, ExecutorError, ExitStatus, OutputSink, OutputStream, ProcessIo, ProcessSpec};
use super::spec::runtime_spec;
use crate::sys::process::{ProcessHandle, kill_group};
use crate::sys::root::create_private_dirs;

mod leftovers;
mod version;

pub use version::RuntimeKind;

/// How long the runtime program may take to say its version or to delete a container.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How often a kill is repeated: it fails while the container is only being made.
const KILL_EVERY: Duration = Duration::from_millis(100);
/// When the runtime program itself is killed, as it does not end though its container is being killed.
const KILL_TRIES: usize = 100;
/// Output passed on at once.
const CHUNK: usize = 32 * 1024;
/// What the runtime's own log may contribute to an error message.
const LOG_MAX: u64 = 64 * 1024;

/// Runs processes with runc or crun.
pub struct OciRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    program: PathBuf,
    kind: RuntimeKind,
    /// A bundle per run: `runs/<id>/config.json`.
    runs: PathBuf,
    /// The runtime's own records.
    state: PathBuf,
    cgroups: Option<Cgroups>,
}

impl OciRuntime {
    /// Takes the runtime program at `program`, or the first of runc and crun found in `PATH`, and kills what an earlier
    /// daemon left running in `dir`.
    ///
    /// # Errors
    /// [`ExecutorError::NoRuntime`] if there is none, it does not run, or it is too old to be trusted.
    pub async fn open(dir: impl AsRef<Path>, program: Option<&Path>) -> Result<Self, ExecutorError> {
        let dir = dir.as_ref();
        let (program, kind) = version::find(program).await?;
        let (runs, state) = (dir.join("runs"), dir.join("state"));
        for made in [&runs, &state] {
            create_private_dirs(made).map_err(ExecutorError::io(format!("create {}", made.display())))?;
        }
        let real = dir
            .canonicalize()
            .map_err(ExecutorError::io(format!("resolve {}", dir.display())))?;
        let cgroups = Cgroups::detect(&real)
            .inspect_err(|reason| tracing::warn!(reason, "processes run without control groups and limits"))
            .ok();
        let inner = Inner {
            program,
            kind,
            runs: real.join("runs"),
            state: real.join("state"),
            cgroups,
        };
        inner.remove_leftovers().await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which program it is.
    pub fn kind(&self) -> RuntimeKind {
        self.inner.kind
    }
}

#[async_trait]
impl Executor for OciRuntime {
    async fn run(
        &self,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        // On a task of its own, so that cleaning up happens also when this future is dropped.
        let token = cancel.child_token();
        let _fire_when_dropped = token.clone().drop_guard();
        let (inner, process) = (self.inner.clone(), process.clone());
        let task = tokio::spawn(async move { inner.run(&process, io, &token).await });
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(ExecutorError::io("wait for a run")(std::io::Error::other(error))),
        }
    }
}

/// A run in progress.
struct Run {
    id: String,
    bundle: PathBuf,
    cgroup: Option<PathBuf>,
    /// Whether the runtime is to leave the container's records and group until they were looked at.
    keep: bool,
}

impl Inner {
    async fn run(
        &self,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        if cancel.is_cancelled() {
            return Err(ExecutorError::Cancelled);
        }
        let run = self.prepare(process)?;
        let outcome = self.run_bundle(&run, io, cancel).await;
        if outcome.is_err() || run.keep {
            self.delete(&run.id).await;
        }
        if let (Some(cgroups), Some(group)) = (&self.cgroups, &run.cgroup) {
            cgroups.remove(group);
        }
        if let Err(error) = std::fs::remove_dir_all(&run.bundle) {
            tracing::warn!(%error, bundle = %run.bundle.display(), "could not remove a bundle");
        }
        outcome
    }

    fn prepare(&self, process: &ProcessSpec) -> Result<Run, ExecutorError> {
        let id = format!("r{}", crate::layer::random_name());
        let bundle = self.runs.join(&id);
        let cgroup = self
            .cgroups
            .as_ref()
            .map(|groups| groups.path(&process.cgroup_parent, &id));
        let spec = runtime_spec(process, cgroup.as_deref())?;
        create_private_dirs(&bundle).map_err(ExecutorError::io(format!("create {}", bundle.display())))?;
        let config = bundle.join("config.json");
        let written = serde_json::to_vec(&spec)
            .map_err(std::io::Error::other)
            .and_then(|json| std::fs::write(&config, json))
            .map_err(ExecutorError::io(format!("write {}", config.display())));
        if let Err(error) = written {
            std::fs::remove_dir_all(&bundle).map_err(ExecutorError::io(format!("remove {}", bundle.display())))?;
            return Err(error);
        }
        // Only with a limit of ours does the kernel count kills where we can look.
        let keep = cgroup.is_some() && process.resources.memory > 0;
        Ok(Run {
            id,
            bundle,
            cgroup,
            keep,
        })
    }

    async fn run_bundle(
        &self,
        run: &Run,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        let mut arguments: Vec<OsString> = vec!["run".into(), "--bundle".into(), run.bundle.clone().into()];
        arguments.extend(["--pid-file".into(), run.bundle.join("pid").into()]);
        if run.keep {
            arguments.push("--keep".into());
        }
        arguments.push(run.id.clone().into());
        let mut command = self.command(&run.bundle.join("log"), &arguments);
        command
            .stdin(io.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(ExecutorError::io(format!("start {}", self.program.display())))?;
        // Ours keeps the other ends of the pipes otherwise.
        drop(command);
        let sink = io.sink;
        let output = pump(child.stdout.take(), child.stderr.take(), sink.clone());
        let exit = tokio::select! {
            exit = child.wait() => Some(exit),
            () = cancel.cancelled() => None,
        };
        let Some(exit) = exit else {
            self.kill(run, &mut child).await;
            drop(output);
            return Err(ExecutorError::Cancelled);
        };
        // The container is gone, so both pipes end: nothing of it can hold them.
        output.await;
        let exit = exit.map_err(ExecutorError::io(format!("wait for {}", self.program.display())))?;
        self.judge(run, exit, sink.as_ref())
    }

    /// Tells the exit of the process from that of the runtime.
    fn judge(&self, run: &Run, exit: ProcessExit, sink: &dyn OutputSink) -> Result<ExitStatus, ExecutorError> {
        let out_of_memory = match (&self.cgroups, &run.cgroup) {
            (Some(cgroups), Some(group)) if run.keep => cgroups.out_of_memory(group),
            _ => false,
        };
        let started = run.bundle.join("pid").exists();
        let Some(code) = exit.code() else {
            return Err(ExecutorError::Killed(self.kind.name()));
        };
        let code = u32::try_from(code).unwrap_or(255);
        if started {
            return Ok(ExitStatus { code, out_of_memory });
        }
        let message = read_log(&run.bundle.join("log")).unwrap_or_else(|| format!("exit code {code}"));
        if self.kind == RuntimeKind::Crun {
            // The other says it on its standard error, too.
            sink.output(OutputStream::Stderr, format!("{message}\n").into());
        }
        Err(ExecutorError::Start {
            runtime: self.kind.name(),
            message,
            code,
        })
    }

    /// Ends a run that may be at any stage, and waits until it has.
    async fn kill(&self, run: &Run, child: &mut Child) {
        for _ in 0..KILL_TRIES {
            // Fails until the container exists, and once it is gone.
            let arguments = ["kill".into(), run.id.clone().into(), "KILL".into()];
            self.call(&run.bundle.join("kill-log"), &arguments).await;
            if tokio::time::timeout(KILL_EVERY, child.wait()).await.is_ok() {
                return;
            }
        }
        tracing::warn!(run = run.id, "the runtime does not end: killing it");
        if let Some(pid) = child.id()
            && let Err(error) = kill_group(pid)
        {
            tracing::warn!(%error, "could not kill the runtime");
        }
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "could not wait for the runtime");
        }
        let init = std::fs::read_to_string(run.bundle.join("pid"))
            .ok()
            .and_then(|pid| pid.trim().parse().ok());
        if let Some(Ok(Some(handle))) = init.map(ProcessHandle::open)
            && let Err(error) = handle.kill()
        {
            tracing::warn!(%error, "could not kill a container");
        }
    }

    /// Removes whatever the runtime knows of a container, killing it if need be.
    async fn delete(&self, id: &str) {
        let arguments = ["delete".into(), "--force".into(), id.into()];
        self.call(&self.runs.join(format!("{id}.delete-log")), &arguments).await;
    }

    /// Calls the runtime for something that may fail: its log goes to a file that is removed.
    async fn call(&self, log: &Path, arguments: &[OsString]) {
        let mut command = self.command(log, arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        match tokio::time::timeout(CALL_LIMIT, command.status()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, program = %self.program.display(), "could not call the runtime"),
            Err(_) => tracing::warn!(program = %self.program.display(), "the runtime did not answer in time"),
        }
        match std::fs::remove_file(log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, log = %log.display(), "could not remove a log of the runtime");
            }
            _ => {}
        }
    }

    /// The runtime in a process group of its own, so that signals of a terminal do not reach it.
    fn command(&self, log: &Path, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .process_group(0);
        command
            .arg("--root")
            .arg(&self.state)
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json"]);
        if self.cgroups.is_none() && self.kind == RuntimeKind::Crun {
            command.arg("--cgroup-manager=disabled");
        }
        command.args(arguments);
        command
    }
}

/// Passes output on until both streams end.
fn pump(
    stdout: Option<impl AsyncRead + Unpin + Send + 'static>,
    stderr: Option<impl AsyncRead + Unpin + Send + 'static>,
    sink: Arc<dyn OutputSink>,
) -> impl Future<Output = ()> + Send {
    let mut both = tokio::task::JoinSet::new();
    if let Some(stdout) = stdout {
        both.spawn(copy_output(stdout, OutputStream::Stdout, sink.clone()));
    }
    if let Some(stderr) = stderr {
        both.spawn(copy_output(stderr, OutputStream::Stderr, sink));
    }
    async move { while both.join_next().await.is_some() {} }
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

/// The last error in the runtime's log.
fn read_log(path: &Path) -> Option<String> {
    use std::io::Read;
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut text = String::new();
    std::fs::File::open(path)
        .ok()?
        .take(LOG_MAX)
        .read_to_string(&mut text)
        .ok()?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines
        .rev()
        .find(|line| line.level == "error" || line.level == "fatal")
        .map(|line| line.msg)
}

/// Whether an argument names something in `dir`.
fn is_below(argument: &OsStr, dir: &Path) -> bool {
    Path::new(argument).starts_with(dir)
}

#[cfg(test)]
mod tests;
