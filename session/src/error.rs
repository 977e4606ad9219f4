//! What can go wrong between a daemon and a session.

use std::time::Duration;

use tonic::{Code, Status};

/// Failure to find, keep or use a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No session of that id appeared in time. Clients match on this text.
    #[error("no active session for {id}: context deadline exceeded")]
    NotFound {
        /// The id that was asked for.
        id: String,
    },
    /// A group of sessions to try has no members.
    #[error("no active sessions")]
    NoSessions,
    /// The headers of a new session break the protocol or its limits.
    #[error("invalid session header {header}: {reason}")]
    InvalidHeader {
        /// The offending header.
        header: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The daemon serves as many sessions as it may.
    #[error("too many sessions, at most {0} can be open")]
    TooManySessions(usize),
    /// The HTTP/2 connection inside the session could not be set up.
    #[error("failed to connect to session {id}")]
    Connect {
        /// The session.
        id: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The session ended, or was replaced by a newer one of the same id.
    #[error("session {id} is closed")]
    Closed {
        /// The session.
        id: String,
    },
    /// The client did not announce the method. Clients match on this text.
    #[error("method {method} not supported by the client")]
    Unsupported {
        /// Full path of the method.
        method: &'static str,
    },
    /// The client answered a call with an error.
    #[error("session call {method} failed: {}", status.message())]
    Call {
        /// Full path of the method.
        method: &'static str,
        /// What the client answered.
        status: Box<Status>,
    },
    /// The client did not answer in time.
    #[error("session call {method} took longer than {} s", after.as_secs())]
    Timeout {
        /// Full path of the method.
        method: &'static str,
        /// The time it was given.
        after: Duration,
    },
}

impl SessionError {
    /// The gRPC code that describes this failure to the client of the daemon.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::NoSessions => Code::NotFound,
            Self::InvalidHeader { .. } => Code::InvalidArgument,
            Self::TooManySessions(_) => Code::ResourceExhausted,
            Self::Connect { .. } | Self::Closed { .. } => Code::Unavailable,
            Self::Unsupported { .. } => Code::Unimplemented,
            Self::Call { status, .. } => status.code(),
            Self::Timeout { .. } => Code::DeadlineExceeded,
        }
    }

    pub(crate) fn call(method: &'static str, status: Status) -> Self {
        Self::Call {
            method,
            status: Box::new(status),
        }
    }
}

impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
