//! What can go wrong with a registry.

use std::time::Duration;

use cairn_solver::{Digest, Platform};

use crate::content::ContentError;
use crate::image::DocumentError;

use super::auth::CredentialsError;
use crate::network::NetworkError;

/// A failed request to a registry, or an answer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The configuration for a host cannot be used.
    #[error("invalid configuration for registry {host}: {problem}")]
    Config {
        /// Which host.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// No server has it.
    #[error("{reference}: not found{}", asked(hosts))]
    NotFound {
        /// What was asked for.
        reference: String,
        /// Who was asked.
        hosts: Vec<String>,
    },
    /// The server refused.
    #[error("{reference}: unexpected status from {request}: {}{}", named(*status), explained(message))]
    Status {
        /// What was asked for.
        reference: String,
        /// The request's method and address: `HEAD request to https://…`.
        request: String,
        /// The HTTP status code.
        status: u16,
        /// The registry's own code and message, if it gave any.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server wants other credentials than it got.
    #[error("{reference}: unexpected status from {request}: {}{}", named(*status), explained(message))]
    Denied {
        /// What was asked for.
        reference: String,
        /// The request's method and address: `HEAD request to https://…`.
        request: String,
        /// The HTTP status code.
        status: u16,
        /// The registry's own code and message, if it gave any.
        message: String,
    },
    /// The token that the server was shown, or the lack of one, does not allow this; it says why.
    #[error(
        "{reference}: {access} access denied, repository does not exist or may require authorization: server message: {problem}: authorization failed{}",
        explained(message)
    )]
    Forbidden {
        /// What was asked for.
        reference: String,
        /// What was to be done: `pull` or `push`.
        access: &'static str,
        /// The server's code for it, such as `insufficient_scope`.
        problem: String,
        /// The registry's own code and message, if it gave any.
        message: String,
    },
    /// No answer, or only a part of one.
    #[error("{reference}: failed to {action}: failed to do request: {request}")]
    Transport {
        /// What was asked for.
        reference: String,
        /// What was being done.
        action: &'static str,
        /// The request's method and address: `Head "https://…"`.
        request: String,
        /// Why it failed.
        source: NetworkError,
    },
    /// The server stopped before the end.
    #[error("{reference}: {host} sent {received} of {size} bytes")]
    Truncated {
        /// What was asked for.
        reference: String,
        /// Who answered.
        host: String,
        /// What came, counting earlier transfers.
        received: u64,
        /// What was to come.
        size: u64,
    },
    /// The answer breaks the protocol.
    #[error("{reference}: unusable answer from {host}: {problem}")]
    Protocol {
        /// What was asked for.
        reference: String,
        /// Who answered.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// The bytes are not the ones that were asked for.
    #[error("{reference}: digest mismatch from {host}: expected {expected}, got {actual}")]
    Digest {
        /// What was asked for.
        reference: String,
        /// Who answered.
        host: String,
        /// The wanted digest.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The manifest cannot be used.
    #[error("{reference}: unusable manifest")]
    Document {
        /// Whose manifest.
        reference: String,
        /// What is wrong.
        source: DocumentError,
    },
    /// The index has nothing for the platform.
    #[error("{reference}: no match for platform in manifest: not found: {wanted} is wanted, it has {available}")]
    NoPlatform {
        /// Whose index.
        reference: String,
        /// What was looked for.
        wanted: Box<Platform>,
        /// What there is.
        available: String,
    },
    /// No credentials could be had.
    #[error("failed to authorize: failed to get credentials for {host}")]
    Credentials {
        /// For whom.
        host: String,
        /// Why not.
        source: CredentialsError,
    },
    /// Every server failed.
    #[error("{reference}: {}", attempts.iter().map(report).collect::<Vec<_>>().join("; "))]
    AllFailed {
        /// What was asked for.
        reference: String,
        /// What each server said, in the order they were asked.
        attempts: Vec<Self>,
    },
    /// The content store failed.
    #[error("{reference}: failed to store or read content")]
    Content {
        /// What was to be stored or read.
        reference: String,
        /// Why it failed.
        source: ContentError,
    },
}

impl RegistryError {
    /// Whether it is certain that the thing does not exist.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the credentials were refused.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Forbidden { .. } => true,
            Self::AllFailed { attempts, .. } => attempts.last().is_some_and(Self::is_denied),
            _ => false,
        }
    }

    /// Whether trying again later may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !source.is_mistrust(),
            Self::Truncated { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the server could not even be reached.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_connect())
    }
}

fn asked(hosts: &[String]) -> String {
    match hosts {
        [] | [_] => String::new(),
        hosts => format!(" (asked {})", hosts.join(", ")),
    }
}

/// A status as clients know it: `401 Unauthorized`.
fn named(status: u16) -> String {
    let reason = reqwest::StatusCode::from_u16(status).ok();
    let reason = reason.and_then(|status| status.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

fn explained(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// An error with its causes on one line.
fn report(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
