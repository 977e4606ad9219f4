//! Why a command did not succeed.

use std::io;

use cairn_client::ClientError;

use crate::exit::ExitCode;

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments make no sense, or name things that do not exist.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A file named by the user cannot be used.
    #[error("failed to {action} {path:?}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The connection or the daemon failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon inside this process did not start.
    #[error("failed to start the daemon in this process")]
    Embedded(#[source] Box<cairnd::StartError>),
    /// Somebody else than root wants to build without a daemon.
    #[error("a daemon inside this process needs root, as steps run in containers")]
    NotRoot,
    /// The daemon inside this process cannot be configured.
    #[error("failed to start the daemon in this process")]
    Configure(#[source] cairnd::config::ConfigError),
    /// The user wants to go on without it.
    #[error("interrupted")]
    Interrupted,
    /// The system refuses what every program needs.
    #[error("failed to {action}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("failed to write to standard output")]
    Output(#[source] io::Error),
    /// What was given to read is not what it should be.
    #[error("failed to read {what}: {reason}")]
    Malformed {
        /// What it should have been.
        what: String,
        /// Why it is not.
        reason: String,
    },
}

impl CliError {
    /// A mistake in the arguments.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: None,
        }
    }

    /// A mistake in the arguments, and what to do about it.
    pub(crate) fn usage_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    /// The exit code this failure has.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage { .. } => ExitCode::Usage,
            Self::Client(ClientError::Connect { .. } | ClientError::ConnectStream(_))
            | Self::Embedded(_)
            | Self::NotRoot
            | Self::Configure(_) => ExitCode::Unreachable,
            Self::Client(ClientError::Cancelled) | Self::Interrupted => ExitCode::Cancelled,
            // Whoever read our output has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Success,
            _ => ExitCode::Failed,
        }
    }
}
