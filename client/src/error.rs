//! What can go wrong between a client and a daemon.

use std::fmt;

use tonic::{Code, Status};

use crate::address::Address;
use crate::details::ErrorDetails;

/// A failed call of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at the address.
    #[error("no daemon answers at {address}")]
    Connect {
        /// Where.
        address: Address,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The connection of a daemon inside this process cannot be made.
    #[error("failed to connect to the daemon in this process")]
    ConnectStream(#[source] tonic::transport::Error),
    /// The system has no random numbers for ids.
    #[error("failed to make an id")]
    Id(#[source] std::io::Error),
    /// The daemon refused or failed a call.
    #[error("failed to {action}")]
    Call {
        /// What was attempted.
        action: &'static str,
        /// The daemon's words.
        source: Box<DaemonError>,
    },
    /// The build failed.
    #[error(transparent)]
    Build(Box<DaemonError>),
    /// The build was cancelled by its caller.
    #[error("build cancelled")]
    Cancelled,
    /// The connection broke while the build ran.
    #[error("lost the daemon while the build ran")]
    Lost(#[source] Box<DaemonError>),
    /// The stream over which the daemon asks for files and credentials failed.
    #[error("failed to serve the build's session")]
    Session(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A cache in a directory of this machine cannot be written.
    #[error("failed to write {what}")]
    LocalCache {
        /// What of it.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// What the build needs from this machine cannot be offered.
    #[error("failed to offer {what} to the daemon")]
    Offer {
        /// What.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    pub(crate) fn call(action: &'static str, status: &Status) -> Self {
        Self::Call {
            action,
            source: Box::new(DaemonError::from_status(status)),
        }
    }

    /// The daemon's own words, when it spoke.
    pub fn daemon_error(&self) -> Option<&DaemonError> {
        match self {
            Self::Call { source, .. } | Self::Build(source) | Self::Lost(source) => Some(source),
            _ => None,
        }
    }
}

/// An error as told by a daemon: message, code and typed details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonError {
    /// The gRPC code.
    pub code: Code,
    /// The text.
    pub message: String,
    /// What is known beyond the text.
    pub details: ErrorDetails,
}

impl DaemonError {
    /// Whether the daemon does not have what it was asked for.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    pub(crate) fn from_status(status: &Status) -> Self {
        Self {
            code: status.code(),
            message: message(status),
            details: ErrorDetails::decode(status.details()),
        }
    }
}

/// Transport failures say little themselves; what they wrap says more.
fn message(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = if text.is_empty() {
                cause
            } else {
                format!("{text}: {cause}")
            };
        }
        source = error.source();
    }
    if text.is_empty() {
        status.code().description().to_lowercase()
    } else {
        text
    }
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DaemonError {}
