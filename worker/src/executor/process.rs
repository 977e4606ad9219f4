//! What is run, and the seam to whatever runs it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::llb::{LinuxResources, SecurityMode};
use cairn_solver::usage::Meter;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::edits::Edits;
use super::rlimit::Rlimit;
use super::user::User;

/// A process and its surroundings, decided down to the last number: nothing in it needs looking up any more.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// Mounted root file system, a path of the daemon's own, with everything that is to be visible in it mounted
    /// below. Its mount points for `/proc`, `/sys` and `/dev` are directories.
    pub rootfs: PathBuf,
    /// Whether `/` is read-only; mounts below it are as they are.
    pub rootfs_readonly: bool,
    /// What devices change about it; the mounts are in place already.
    pub devices: Edits,
    /// What is mounted below `/dev` and `/sys`, which every container gets anew; parents first.
    pub late_mounts: Vec<LateMount>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<String>,
    /// Working directory, absolute and clean; exists.
    pub cwd: String,
    /// Ids.
    pub user: User,
    /// Host name.
    pub hostname: String,
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Network access.
    pub network: Network,
    /// Confinement.
    pub security: SecurityMode,
    /// Control group to be in, clean and relative; empty for the default.
    pub cgroup_parent: String,
    /// Control group limits; 0 and empty for none.
    pub resources: LinuxResources,
    /// Whether it has a terminal; its input and output are one then, see [`super::terminal`].
    pub terminal: bool,
}

/// Names a container among those of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// A name that no other container has.
    pub fn random() -> Self {
        Self(format!("r{}", crate::layer::random_name()))
    }

    /// The name: letters and digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Network access of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// The host's.
    Host,
    /// A loopback interface of its own.
    None,
    /// That of a namespace that is there already, by the path of a file that stands for it.
    Namespace(PathBuf),
}

/// A mount in a file system that only the container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateMount {
    /// Where, absolute and clean.
    pub dest: PathBuf,
    /// File or directory to mount, a path of the daemon's own.
    pub source: PathBuf,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Whether devices can be opened there.
    pub has_devices: bool,
    /// Whether what is mounted below is seen as well.
    pub is_recursive: bool,
}

/// Where output came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// The number clients know it by.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// Takes what a process writes, as it comes.
pub trait OutputSink: Send + Sync + 'static {
    /// Takes some bytes. Must not block.
    fn output(&self, stream: OutputStream, data: Bytes);
}

/// Input and output of a process.
pub struct ProcessIo {
    /// Standard input; `None` for an empty one.
    pub stdin: Option<OwnedFd>,
    /// Where output goes.
    pub output: ProcessOutput,
    /// What is asked of the process while it runs; `None` if nothing will be.
    pub control: Option<mpsc::Receiver<ProcessControl>>,
    /// Where to note what it uses of the machine, if that can be measured; `None` if nobody wants to know. Only for the
    /// first process of a container.
    pub meter: Option<Arc<Meter>>,
}

/// Where the output of a process goes.
pub enum ProcessOutput {
    /// It is read, and handed over as it comes.
    Sink(Arc<dyn OutputSink>),
    /// The process writes there itself; whatever is `None` is lost.
    Direct {
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
}

/// Something asked of a running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessControl {
    /// Takes a signal.
    Signal(Signal),
    /// Takes note of the size of its terminal, which has changed.
    Resized,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code; 128 + n for signal n.
    pub code: u32,
    /// Whether the kernel killed something in it for want of memory, as far as can be told.
    pub out_of_memory: bool,
}

/// Why a process could not be run, as opposed to having run and failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It was cancelled; everything it left is cleaned up.
    #[error("context canceled")]
    Cancelled,
    /// There is no usable runtime program.
    #[error("no usable container runtime: {0}")]
    NoRuntime(String),
    /// The runtime program could not start the process, and has said why where the process would have: there is no
    /// such program, most likely.
    #[error("{runtime} could not start the process: {message}")]
    Start {
        /// Which program.
        runtime: &'static str,
        /// What it said.
        message: String,
        /// The exit code of the runtime program.
        code: u32,
    },
    /// The container has ended, or was never there.
    #[error("the container is not running")]
    NotRunning,
    /// The runtime program was killed before it could start the process.
    #[error("{0} was killed")]
    Killed(&'static str),
    /// A system call or file operation of ours failed.
    #[error("failed to {doing}")]
    Io {
        /// What was attempted, and on what.
        doing: String,
        /// Why.
        source: std::io::Error,
    },
    /// A runtime specification could not be made.
    #[error("failed to build the runtime specification: {0}")]
    Spec(String),
}

impl ExecutorError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// Runs processes in containers.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Whether it can be measured what processes use of the machine.
    fn can_measure(&self) -> bool;

    /// Runs a process to its end, in a container of its own that is known by `container` meanwhile. When `cancel` fires,
    /// it and all its descendants are killed and cleaned up before [`ExecutorError::Cancelled`] is returned.
    ///
    /// # Cancel safety
    /// Dropping the future also kills and cleans up, but nobody waits for it then.
    async fn run(
        &self,
        container: &ContainerId,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError>;

    /// Runs one more process in a container whose first process runs, or is about to; `ended` fires when that one has
    /// ended. Of `process`, only what concerns the process itself counts; the root file system, mounts, network and
    /// limits are the container's.
    ///
    /// # Errors
    /// [`ExecutorError::NotRunning`] once the container's first process has ended.
    ///
    /// # Cancel safety
    /// As [`Executor::run`].
    async fn exec(
        &self,
        container: &ContainerId,
        ended: &CancellationToken,
        process: &ProcessSpec,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<ExitStatus, ExecutorError>;
}
