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
use cairn_solver::usage::Meter;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use self::call::{Call, signal};
use self::measure::Measurement;

use super::cgroup::Cgroups;
use super::process::{
    ContainerId, Executor, ExecutorError, ExitStatus, OutputSink, OutputStream, ProcessIo, ProcessSpec,
};
use super::spec::runtime_spec;
use crate::sys::abi;
use crate::sys::process::kill_group;
use crate::sys::root::create_private_dirs;

mod call;
mod exec;
mod leftovers;
mod measure;
mod version;

pub use version::RuntimeKind;

/// How long the runtime program may take to say its version or to delete a container.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How often a kill is repeated: it fails while the container is only being made.
const KILL_EVERY: Duration = Duration::from_millis(100);
/// When the runtime program itself is killed, as it does not end though its container is being killed.
const KILL_TRIES: usize = 100;
/// What the runtime's own log may contribute to an error message.
const LOG_MAX: u64 = 64 * 1024;
/// Where the runtime writes the number of a container's first process, in the bundle.
const PID_FILE: &str = "pid";

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
        // What this finds out is remembered: no step waits for it.
        let abi = tokio::task::spawn_blocking(abi::takes_x32);
        let (found, _) = tokio::join!(version::find(program), abi);
        let (program, kind) = found?;
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
    fn can_measure(&self) -> bool {
        self.inner.cgroups.is_some()
    }

    async fn run(
        &self,
        container: &ContainerId,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        let (inner, container, process) = (self.inner.clone(), container.clone(), process.clone());
        detached(cancel, async move |cancel| {
            inner.run(&container, &process, io, &cancel).await
        })
        .await
    }

    async fn exec(
        &self,
        container: &ContainerId,
        ended: &CancellationToken,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        let (inner, container, process) = (self.inner.clone(), container.clone(), process.clone());
        let ended = ended.clone();
        detached(cancel, async move |cancel| {
            inner.exec(&container, &ended, &process, io, &cancel).await
        })
        .await
    }
}

/// Runs `work` on a task of its own, so that cleaning up happens also when this future is dropped.
async fn detached<F: Future<Output = Result<ExitStatus, ExecutorError>> + Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
) -> Result<ExitStatus, ExecutorError> {
    let token = cancel.child_token();
    let _fire_when_dropped = token.clone().drop_guard();
    match tokio::spawn(work(token)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ExecutorError::io("wait for a run")(std::io::Error::other(error))),
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
        container: &ContainerId,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        if cancel.is_cancelled() {
            return Err(ExecutorError::Cancelled);
        }
        let mut run = self.prepare(container, process)?;
        run.keep |= run.cgroup.is_some() && io.meter.is_some();
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

    fn prepare(&self, container: &ContainerId, process: &ProcessSpec) -> Result<Run, ExecutorError> {
        let id = container.as_str().to_owned();
        let bundle = self.runs.join(&id);
        let cgroup = self
            .cgroups
            .as_ref()
            .map(|groups| groups.path(&process.cgroup_parent, &id));
        let spec = runtime_spec(process, cgroup.as_deref())?;
        create_private_dirs(&bundle).map_err(ExecutorError::io(format!("create {}", bundle.display())))?;
        let written = write_json(&bundle.join("config.json"), &spec);
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
        mut io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError> {
        let measurement = self.measure(run, io.meter.take()).await;
        let pid_file = run.bundle.join(PID_FILE);
        let mut arguments: Vec<OsString> = vec!["run".into(), "--bundle".into(), run.bundle.clone().into()];
        arguments.extend(["--pid-file".into(), pid_file.clone().into()]);
        if run.keep {
            arguments.push("--keep".into());
        }
        arguments.push(run.id.clone().into());
        let command = self.command(&run.bundle.join("log"), &arguments);
        let mut call = Call::start(&self.program, command, pid_file, io)?;
        let Some(exit) = call.exit(cancel).await else {
            self.kill(run, &mut call.child).await;
            return Err(ExecutorError::Cancelled);
        };
        // The container is gone, so both pipes end: nothing of it can hold them.
        call.output_end().await;
        if let Some(measurement) = measurement {
            measurement.finish().await;
        }
        let exit = exit.map_err(ExecutorError::io(format!("wait for {}", self.program.display())))?;
        self.judge(run, exit, call.sink())
    }

    /// Begins to measure what a run uses, if that is wanted and possible.
    async fn measure(&self, run: &Run, meter: Option<Arc<Meter>>) -> Option<Measurement> {
        let dirs = self.cgroups.as_ref()?.dirs(run.cgroup.as_ref()?);
        Some(Measurement::start(meter?, dirs).await)
    }

    /// Tells the exit of the process from that of the runtime.
    fn judge(&self, run: &Run, exit: ProcessExit, sink: Option<&dyn OutputSink>) -> Result<ExitStatus, ExecutorError> {
        let out_of_memory = match (&self.cgroups, &run.cgroup) {
            (Some(cgroups), Some(group)) if run.keep => cgroups.out_of_memory(group),
            _ => false,
        };
        let code = self.exit_code(&run.bundle.join(PID_FILE), &run.bundle.join("log"), exit, sink)?;
        Ok(ExitStatus { code, out_of_memory })
    }

    fn exit_code(
        &self,
        pid_file: &Path,
        log: &Path,
        exit: ProcessExit,
        sink: Option<&dyn OutputSink>,
    ) -> Result<u32, ExecutorError> {
        let Some(code) = exit.code() else {
            return Err(ExecutorError::Killed(self.kind.name()));
        };
        let code = u32::try_from(code).unwrap_or(255);
        if pid_file.exists() {
            return Ok(code);
        }
        let message = read_log(log).unwrap_or_else(|| format!("exit code {code}"));
        if let (RuntimeKind::Crun, Some(sink)) = (self.kind, sink) {
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
        signal(&run.bundle.join(PID_FILE), Signal::KILL);
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

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), ExecutorError> {
    serde_json::to_vec(value)
        .map_err(std::io::Error::other)
        .and_then(|json| std::fs::write(path, json))
        .map_err(ExecutorError::io(format!("write {}", path.display())))
}

/// Whether an argument names something in `dir`.
fn is_below(argument: &OsStr, dir: &Path) -> bool {
    Path::new(argument).starts_with(dir)
}

#[cfg(test)]
mod tests;
