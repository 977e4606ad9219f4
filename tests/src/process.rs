//! Programs: run to their end, or running.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::lines::Lines;

/// No command of a test takes longer.
const LONGEST: Duration = Duration::from_secs(600);

/// A program to run to its end.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: Vec<u8>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    what: String,
}

impl Program {
    /// A program by name or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env("NO_COLOR", "1");
        Self {
            command,
            input: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets what it reads; nothing by default.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs it in a terminal of its own until a line with these words is shown, for at most a minute. Returns all that
    /// was shown.
    ///
    /// # Errors
    /// If it cannot be started, or does not show such a line.
    pub fn until_shown(self, words: &str) -> anyhow::Result<String> {
        let mut running = self.on_terminal().start()?;
        let found = running.stdout.wait_for(0, LONGEST, |line| line.contains(words));
        let shown = running.stdout.text();
        running.signal(Signal::TERM)?;
        running.wait(LONGEST)?;
        found.with_context(|| format!("{words:?} was not shown: {shown}"))?;
        Ok(shown)
    }

    fn on_terminal(self) -> Self {
        let quoted = |word: &OsStr| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"));
        let line: Vec<String> = self.words().into_iter().map(quoted).collect();
        let line = format!("timeout --foreground 60 {}", line.join(" "));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command, ..self }
    }

    /// The program and its arguments, for another program that runs it.
    pub fn words(&self) -> Vec<&OsStr> {
        [self.command.get_program()]
            .into_iter()
            .chain(self.command.get_args())
            .collect()
    }

    /// Runs it, whatever comes out.
    ///
    /// # Errors
    /// If it cannot be started, or does not end.
    pub fn run(self) -> anyhow::Result<Finished> {
        let input = self.input.clone();
        let what = format!("{:?}", self.command);
        let mut running = self.start()?;
        if let Some(mut stdin) = running.child.stdin.take() {
            // A program that does not read to the end has its reasons.
            let _unread = stdin.write_all(&input);
        }
        let status = running.wait(LONGEST).with_context(|| format!("{what} did not end"))?;
        Ok(Finished {
            status,
            took: running.started.elapsed(),
            stdout: running.stdout.all(LONGEST).join("\n"),
            stderr: running.stderr.all(LONGEST).join("\n"),
            what,
        })
    }

    /// Runs it and expects success; returns standard output.
    ///
    /// # Errors
    /// If it fails, with everything it said.
    pub fn output(self) -> anyhow::Result<String> {
        self.run()?.success().map(|finished| finished.stdout)
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> anyhow::Result<Running> {
        let stdin = if self.input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("failed to start {:?}", self.command))?;
        let stdout = child.stdout.take().map(Lines::follow).unwrap_or_default();
        let stderr = child.stderr.take().map(Lines::follow).unwrap_or_default();
        Ok(Running {
            child,
            stdout,
            stderr,
            started,
        })
    }
}

impl Finished {
    /// Passes on what succeeded.
    ///
    /// # Errors
    /// If it failed, with everything it said.
    pub fn success(self) -> anyhow::Result<Self> {
        if !self.status.success() {
            bail!(
                "{} failed with {}\n{}\n{}",
                self.what,
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }
}

/// A program that may still run; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    pub(crate) started: Instant,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no process id")?;
        kill_process(pid, signal).context("failed to send a signal")
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If it takes longer than `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        if !wait_for_exit(self.child.id(), timeout)? {
            bail!("process {} still runs after {timeout:?}", self.child.id());
        }
        Ok(self.child.wait()?)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Waits until a process, which need not be a child, has ended; false when time is up.
///
/// # Errors
/// If it cannot be watched.
pub fn wait_for_exit(pid: u32, timeout: Duration) -> anyhow::Result<bool> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error).context("failed to watch a process"),
    };
    let timeout = Timespec::try_from(timeout)?;
    let mut events = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut events, Some(&timeout))? > 0)
}
