//! Why a commit cannot be had.

use std::io;
use std::time::Duration;

use cairn_solver::{Digest, WorkerError};

use crate::causes::with_causes;

/// Why a commit of a repository cannot be had. Remotes are named without credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GitError {
    /// There is no `git`.
    #[error("git is not installed where the daemon runs: install the packages git and openssh-client")]
    NotInstalled,
    /// The `git` that is there does not do what is asked of it.
    #[error("git {found} is too old: version {needed} is needed where the daemon runs")]
    TooOld {
        /// What it says it is.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// The remote cannot be used.
    #[error("invalid git remote {url:?}: {reason}")]
    Remote {
        /// Which, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A reference is no name.
    #[error("invalid git ref {reference:?}: {reason}")]
    Reference {
        /// Which.
        reference: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A checksum is none.
    #[error("invalid checksum {0} for Git URL, expected hex commit hash")]
    MalformedChecksum(String),
    /// A credential cannot be sent.
    #[error("the credential for {host} holds characters that cannot be sent")]
    Credential {
        /// For whom it is.
        host: String,
    },
    /// The remote has no such reference. Clients know the words.
    #[error("repository does not contain ref {reference}, output: {output:?}")]
    NoReference {
        /// Which.
        reference: String,
        /// What the remote had to say.
        output: String,
    },
    /// The remote has no branch at all. Clients know the words.
    #[error("could not find default branch for repository: {remote}")]
    NoDefaultBranch {
        /// Which remote.
        remote: String,
    },
    /// The remote does not tell its default branch. Clients know the words.
    #[error("error fetching default branch for repository {remote}")]
    DefaultBranch {
        /// Which remote.
        remote: String,
        /// Why.
        source: Box<Self>,
    },
    /// The commit is another one. Clients know the words.
    #[error("expected checksum to match {expected}, got {actual}")]
    Checksum {
        /// How it should begin.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The remote has no such commit.
    #[error("repository {remote} does not contain commit {commit}")]
    NoCommit {
        /// Which remote.
        remote: String,
        /// Which commit.
        commit: String,
    },
    /// A bundle is not to be had.
    #[error("failed to fetch git bundle {digest}")]
    NoBundle {
        /// Which.
        digest: Digest,
        /// Why.
        source: WorkerError,
    },
    /// What should be a bundle is none.
    #[error("failed to import git bundle {0}: it is no bundle of version 2 or 3")]
    NotABundle(Digest),
    /// What is to become the root is not there, or no directory.
    #[error("invalid subdir /{}", subdir.trim_start_matches('/'))]
    Subdir {
        /// Path in the repository.
        subdir: String,
        /// Why.
        source: io::Error,
    },
    /// Git said no.
    #[error("failed to {doing}: git stderr:\n{stderr}: exit status {status}{}", hint(stderr))]
    Failed {
        /// What was attempted, on which remote.
        doing: String,
        /// The end of what it said.
        stderr: String,
        /// Exit code; 128 + n for signal n.
        status: i32,
    },
    /// Git was stopped.
    #[error("{why}")]
    Stopped {
        /// Why.
        why: Stop,
        /// Whether it had time to clean up.
        clean: bool,
    },
    /// A file operation of ours failed.
    #[error("failed to {doing}")]
    Io {
        /// What was attempted.
        doing: String,
        /// Why.
        source: io::Error,
    },
}

/// Why git was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    /// Nobody waits any more.
    #[error("context canceled")]
    Cancelled,
    /// It took too long.
    #[error("git took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    /// It wrote too much.
    #[error("git wrote more than {0} bytes")]
    TooMuch(usize),
}

/// What helps, where git's own words do not tell.
fn hint(stderr: &str) -> &'static str {
    if stderr.contains("returned error: 30") {
        " (the remote sends to another place, and credentials are not carried there: give the URL of that place)"
    } else if stderr.contains("terminal prompts disabled") || stderr.contains("Authentication failed") {
        " (the remote wants credentials: give the secret GIT_AUTH_TOKEN or GIT_AUTH_HEADER)"
    } else if stderr.contains("ssh: not found") || stderr.contains("cannot run ssh") {
        " (install the package openssh-client where the daemon runs)"
    } else {
        ""
    }
}

impl GitError {
    /// Puts what was attempted to an error of the system.
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// Nobody waits any more, and git was not even called.
    pub(super) fn cancelled() -> Self {
        Self::Stopped {
            why: Stop::Cancelled,
            clean: true,
        }
    }

    /// Whether git may have been ended in the middle of something.
    pub(super) fn leaves_a_mess(&self) -> bool {
        match self {
            Self::Stopped { clean, .. } => !clean,
            // By a signal, which nobody here has sent.
            Self::Failed { status, .. } => *status > 128 && *status != 129,
            Self::DefaultBranch { source, .. } => source.leaves_a_mess(),
            _ => false,
        }
    }
}

impl From<GitError> for WorkerError {
    fn from(error: GitError) -> Self {
        let text = with_causes(&error);
        match error {
            GitError::Stopped {
                why: Stop::Cancelled, ..
            } => Self::Cancelled,
            GitError::NoReference { .. }
            | GitError::NoDefaultBranch { .. }
            | GitError::NoCommit { .. }
            | GitError::NoBundle {
                source: Self::NotFound(_),
                ..
            } => Self::NotFound(text),
            GitError::Remote { .. }
            | GitError::Reference { .. }
            | GitError::MalformedChecksum(_)
            | GitError::Credential { .. }
            | GitError::Checksum { .. }
            | GitError::NotABundle(_)
            | GitError::Subdir { .. } => Self::Invalid(text),
            _ => Self::Failed(text),
        }
    }
}
