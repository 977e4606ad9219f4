//! Why a run has no result.

use std::path::PathBuf;

use cairn_solver::WorkerError;

use crate::causes::with_causes;
use crate::cni::CniError;
use crate::executor::process::ExecutorError;
use crate::executor::rlimit::RlimitError;
use crate::executor::rootfs::RootfsError;
use crate::executor::user::UserError;
use crate::layer::{LayerError, LayerList};

/// Why an [`ExecOp`] has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The process ended with a code that does not mean success.
    #[error("process {command:?} did not complete successfully: exit code: {code}{}", if *out_of_memory { ": cannot allocate memory" } else { "" })]
    Exit {
        /// Arguments joined by blanks.
        command: String,
        /// Exit code.
        code: u32,
        /// Whether it was killed for want of memory.
        out_of_memory: bool,
    },
    /// The process could not be run, or its surroundings are not what it needs.
    #[error("process {command:?} did not complete successfully")]
    Process {
        /// Arguments joined by blanks.
        command: String,
        /// Why.
        source: Box<Self>,
    },
    /// It was cancelled.
    #[error("context canceled")]
    Cancelled,
    /// The container is not there any more.
    #[error("the container is not running")]
    Gone,
    /// A secret that is not optional is missing.
    #[error("secret {0}: not found")]
    NoSecret(String),
    /// An ssh agent that is not optional is missing.
    #[error("no SSH key {id:?} forwarded from the client{said}")]
    NoSsh {
        /// Which agent.
        id: String,
        /// What the client says, after a colon.
        said: String,
    },
    /// The op contradicts itself or its inputs.
    #[error("{0}")]
    Invalid(String),
    /// The path mounted from a source is not there.
    #[error("failed to mount {selector:?} of the source at {dest:?}")]
    Selector {
        /// Path in the source.
        selector: String,
        /// Mount point.
        dest: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something of the host that a device needs cannot be mounted.
    #[error("failed to mount {} of the host at {} for a device", source_path.display(), dest.display())]
    Host {
        /// What.
        source_path: PathBuf,
        /// Mount point.
        dest: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The working directory cannot be used.
    #[error("failed to create working directory {cwd:?}")]
    Cwd {
        /// Which.
        cwd: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something private to the run could not be provided.
    #[error("failed to {doing}")]
    Private {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The user cannot be found.
    #[error(transparent)]
    User(#[from] UserError),
    /// A resource limit makes no sense.
    #[error(transparent)]
    Rlimit(#[from] RlimitError),
    /// The root file system could not be put together.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A layer could not be used or finished.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// There is no network for the process.
    #[error(transparent)]
    Network(#[from] CniError),
    /// The process could not be run.
    #[error(transparent)]
    Executor(ExecutorError),
}

/// Why a run has no result, and what there was then.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct RunFailure {
    /// Why.
    #[source]
    pub error: ExecError,
    /// What the mounts of the op showed in the end, in their order, if the process has run; `None` for what is kept
    /// elsewhere, or nowhere.
    pub left: Option<Vec<Option<LayerList>>>,
}

impl From<ExecError> for RunFailure {
    fn from(error: ExecError) -> Self {
        Self { error, left: None }
    }
}

impl From<ExecutorError> for ExecError {
    fn from(error: ExecutorError) -> Self {
        match error {
            ExecutorError::Cancelled => Self::Cancelled,
            ExecutorError::NotRunning => Self::Gone,
            other => Self::Executor(other),
        }
    }
}

impl ExecError {
    /// An ssh agent that is missed, and what the client says to that.
    pub(crate) fn no_ssh(id: &str, words: &str) -> Self {
        let said = if words.is_empty() {
            String::new()
        } else {
            format!(": {words}")
        };
        Self::NoSsh {
            id: id.to_owned(),
            said,
        }
    }

    /// Says which process could not be run, if that is what this is about. One that the runtime program could not
    /// start has exited with that one's code, as far as clients can tell.
    pub(super) fn of_process(self, command: String) -> Self {
        match self {
            Self::Executor(ExecutorError::Start { code, message, runtime }) => {
                tracing::debug!(runtime, message, "a process could not be started");
                Self::Exit {
                    command,
                    code,
                    out_of_memory: false,
                }
            }
            Self::User(_)
            | Self::Cwd { .. }
            | Self::Rootfs(_)
            | Self::Rlimit(_)
            | Self::Selector { .. }
            | Self::Network(_)
            | Self::Executor(_) => Self::Process {
                command,
                source: Box::new(self),
            },
            other => other,
        }
    }

    fn is_users_fault(&self) -> bool {
        match self {
            Self::Process { source, .. } => source.is_users_fault(),
            _ => matches!(
                self,
                Self::Invalid(_) | Self::User(_) | Self::Rlimit(_) | Self::Selector { .. }
            ),
        }
    }
}

impl From<ExecError> for WorkerError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Exit {
                command,
                code,
                out_of_memory,
            } => {
                let cause = out_of_memory.then(|| "cannot allocate memory".to_owned());
                Self::Exit { command, code, cause }
            }
            ExecError::Cancelled => Self::Cancelled,
            ExecError::NoSecret(_) | ExecError::NoSsh { .. } | ExecError::Gone => Self::NotFound(error.to_string()),
            _ if error.is_users_fault() => Self::Invalid(with_causes(&error)),
            _ => Self::Failed(with_causes(&error)),
        }
    }
}

/// Puts what was attempted to an error of the system.
pub(super) fn private(doing: &'static str) -> impl FnOnce(std::io::Error) -> ExecError {
    move |source| ExecError::Private { doing, source }
}
