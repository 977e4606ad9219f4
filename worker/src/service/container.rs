//! Containers for whoever talks to the processes in them: frontends, and clients that look into their builds.

use std::path::Path;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::llb::{HostIp, Mount, NetMode, SecretEnv, SecurityMode};
use cairn_solver::worker::{CallContext, FileStat, Ref, WorkerError};
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncWrite};

/// What processes in a container see.
#[derive(Clone, Debug, Default)]
pub struct ContainerRequest {
    /// Mounts; exactly one is at `/`. Their outputs are not used: what is written is thrown away.
    pub mounts: Vec<Mount>,
    /// What the mounts' inputs refer to; `None` is scratch.
    pub inputs: Vec<Option<Ref>>,
    /// Directories of the daemon's own making.
    pub own_dirs: Vec<OwnDir>,
    /// Network access.
    pub network: NetMode,
    /// Host name; empty for the default.
    pub hostname: String,
    /// Additional `/etc/hosts` lines.
    pub extra_hosts: Vec<HostIp>,
}

/// A read-only directory with files of the daemon's own making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnDir {
    /// Where it is mounted, absolute.
    pub dest: PathBuf,
    /// Names and contents of files that only the administrator can read.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A process to start in a container.
#[derive(Clone, Debug, Default)]
pub struct ProcessRequest {
    /// Program and arguments; at least one.
    pub args: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// Secrets passed as environment variables.
    pub secret_env: Vec<SecretEnv>,
    /// Confinement; that of the first process is that of all.
    pub security: SecurityMode,
    /// What it is connected to.
    pub streams: Streams,
}

/// What a process is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// A terminal.
    Terminal,
    /// Those of its standard streams that are wanted; others are empty, or go nowhere.
    Pipes {
        /// Standard input.
        stdin: bool,
        /// Standard output.
        stdout: bool,
        /// Standard error.
        stderr: bool,
    },
}

impl Default for Streams {
    fn default() -> Self {
        Self::Pipes {
            stdin: false,
            stdout: false,
            stderr: false,
        }
    }
}

/// Why a process did not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProcessError {
    /// The first process of its container has ended, or the container was released.
    #[error("the container is not running")]
    Gone,
    /// Something else is wrong: with the program, with its surroundings, or with what the client lends.
    #[error(transparent)]
    Failed(#[from] WorkerError),
}

/// A container. Dropping it ends everything in it, which then goes on by itself.
#[async_trait]
pub trait Container: Send + Sync + 'static {
    /// Starts a process. The first one's end is that of all others, and of the container as far as processes go.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] once the first process has ended. That a program is not there is told by
    /// [`Process::exit`].
    async fn start(&self, request: ProcessRequest, context: &CallContext) -> Result<Process, ProcessError>;

    /// Reads (part of) a regular file under a mount, by its position in the request; see
    /// [`Worker::read_file`](cairn_solver::worker::Worker::read_file).
    async fn read_file(&self, mount: usize, path: &Path, range: Option<(u64, u64)>) -> Result<Bytes, WorkerError>;

    /// Lists a directory under a mount; see [`Worker::read_dir`](cairn_solver::worker::Worker::read_dir).
    async fn read_dir(&self, mount: usize, path: &Path, include: Option<&[u8]>) -> Result<Vec<FileStat>, WorkerError>;

    /// Describes a file under a mount; see [`Worker::stat_file`](cairn_solver::worker::Worker::stat_file).
    async fn stat_file(&self, mount: usize, path: &Path) -> Result<FileStat, WorkerError>;

    /// Ends all processes, and waits until nothing is left.
    async fn release(&self);
}

/// A process in a container, as seen from outside.
pub struct Process {
    /// Where it reads from, if that was wanted.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What it writes, if that was wanted; with a terminal, all of it.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What it writes to standard error, if that was wanted.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What can be asked of it.
    pub control: Box<dyn ProcessControl>,
    /// Its exit code, or why it could not be run.
    pub exit: BoxFuture<'static, Result<u32, ProcessError>>,
}

/// What can be asked of a process.
pub trait ProcessControl: Send + Sync {
    /// Sends it a signal. Nothing happens once it has ended.
    fn signal(&self, signal: Signal);

    /// Changes the size of its terminal, if it has one.
    fn resize(&self, rows: u16, columns: u16);
}

/// The signal of a name without `SIG`, such as `TERM`, or of a number.
pub fn signal_by_name(name: &str) -> Option<Signal> {
    const SIGNALS: [(&str, Signal); 34] = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ILL", Signal::ILL),
        ("TRAP", Signal::TRAP),
        ("ABRT", Signal::ABORT),
        ("IOT", Signal::ABORT),
        ("BUS", Signal::BUS),
        ("FPE", Signal::FPE),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("SEGV", Signal::SEGV),
        ("USR2", Signal::USR2),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("STKFLT", Signal::STKFLT),
        ("CHLD", Signal::CHILD),
        ("CLD", Signal::CHILD),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("TTIN", Signal::TTIN),
        ("TTOU", Signal::TTOU),
        ("URG", Signal::URG),
        ("XCPU", Signal::XCPU),
        ("XFSZ", Signal::XFSZ),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("WINCH", Signal::WINCH),
        ("IO", Signal::IO),
        ("POLL", Signal::IO),
        ("PWR", Signal::POWER),
        ("SYS", Signal::SYS),
    ];
    let known = |name: &str| SIGNALS.iter().find(|(known, _)| *known == name);
    let numbered = |number: i32| SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    let found = match name.parse() {
        Ok(number) => numbered(number),
        Err(_) => known(name.strip_prefix("SIG").unwrap_or(name)),
    };
    found.map(|(_, signal)| *signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_by_name("TERM"), Some(Signal::TERM));
        assert_eq!(signal_by_name("SIGWINCH"), Some(Signal::WINCH));
        assert_eq!(signal_by_name("9"), Some(Signal::KILL));
        assert_eq!(signal_by_name("POLL"), signal_by_name("IO"));
        for unknown in ["", "SIG", "term", "0", "-1", "64", "99999999999999999999"] {
            assert_eq!(signal_by_name(unknown), None, "{unknown}");
        }
    }
}
