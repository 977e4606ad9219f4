//! What can go wrong with a file operation, in words that name paths from the root.

use std::io;
use std::path::Path;

use cairn_patterns::PatternError;

use super::mode::ModeSyntax;
use super::mounts::MountError;
use crate::causes::with_causes;
use crate::checksum::ChecksumCause;

/// Failure of a file operation.
#[derive(Debug, thiserror::Error)]
pub enum FileOpError {
    /// A call on a path failed.
    #[error("{call} {path}: {reason}")]
    Path {
        /// What was attempted, as the system call is called.
        call: &'static str,
        /// On which path, from the root.
        path: String,
        /// Why, in the system's words.
        reason: String,
    },
    /// The parent of a destination is missing and must not be made.
    #[error("failed to stat {dest}: {reason}")]
    NoParent {
        /// The destination.
        dest: String,
        /// Why, in the system's words.
        reason: String,
    },
    /// A wildcard matches nothing.
    #[error("{0} not found")]
    NoMatch(String),
    /// A path that has to be among the copied ones is not there.
    #[error("{0:?}: not found")]
    MissingRequired(String),
    /// A file would replace a directory.
    #[error("cannot replace to directory {0} with file")]
    FileOverDirectory(String),
    /// A directory would replace something else.
    #[error("cannot copy to non-directory: {0}")]
    DirectoryOverFile(String),
    /// A wildcard is malformed.
    #[error("invalid path pattern: {0}")]
    Wildcard(PatternError),
    /// An include pattern is malformed.
    #[error("invalid includepatterns: {0}")]
    Include(PatternError),
    /// An exclude pattern is malformed.
    #[error("invalid excludepatterns: {0}")]
    Exclude(PatternError),
    /// An include pattern means nothing.
    #[error("failed to match includepatterns: {0}")]
    MatchInclude(PatternError),
    /// An exclude pattern means nothing.
    #[error("failed to match excludepatterns: {0}")]
    MatchExclude(PatternError),
    /// A permission change is malformed.
    #[error(transparent)]
    Mode(#[from] ModeSyntax),
    /// An owner is named, but there is no root to look the name up in.
    #[error("invalid user index: -1")]
    NoAccounts,
    /// An owner could not be looked up.
    #[error("failed to look up owner {name:?}: {reason}")]
    Owner {
        /// User or group.
        name: String,
        /// Why.
        reason: String,
    },
    /// A layer could not be begun, mounted or committed.
    #[error("{0}")]
    Mount(MountError),
    /// The op refers to an action without a result. Decoded ops do not.
    #[error("file action {0} has no result")]
    NoResult(usize),
    /// Nobody waits any more.
    #[error("context canceled")]
    Cancelled,
}

impl FileOpError {
    pub(super) fn path(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = shown(path);
        move |error| Self::Path {
            call,
            path,
            reason: reason(&error),
        }
    }

    /// Whether the user named something that is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoMatch(_) | Self::MissingRequired(_))
            || matches!(self, Self::Path { reason, .. } | Self::NoParent { reason, .. } if reason == NO_ENTRY)
    }
}

impl From<ChecksumCause> for FileOpError {
    fn from(cause: ChecksumCause) -> Self {
        match cause {
            ChecksumCause::NotFound { path, .. } => Self::Path {
                call: "lstat",
                path,
                reason: NO_ENTRY.to_owned(),
            },
            ChecksumCause::Wildcard(error) => Self::Wildcard(error),
            ChecksumCause::Include(error) => Self::Include(error),
            ChecksumCause::Exclude(error) => Self::Exclude(error),
            ChecksumCause::MatchInclude(error) => Self::MatchInclude(error),
            ChecksumCause::MatchExclude(error) => Self::MatchExclude(error),
            ChecksumCause::Read { path, source } => Self::Path {
                call: "open",
                path,
                reason: reason(&source),
            },
        }
    }
}

const NO_ENTRY: &str = "no such file or directory";

/// A path from the root, as users know it.
pub(super) fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}

/// What the error says, in the system's words where it is the system's.
pub(crate) fn reason(error: &io::Error) -> String {
    with_causes(error)
}
