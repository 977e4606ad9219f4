//! What can go wrong with stored files and trees.

use std::io;

use super::identity::{FileKey, TreeDigest};

/// Failure of the tree store.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The store's directory cannot be used.
    #[error("failed to open the tree store at {path}")]
    Open {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The database of trees failed.
    #[error("failed to {doing} in the database of trees")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A directory object is missing or unreadable.
    #[error("directory object {0} is missing or damaged")]
    Object(TreeDigest),
    /// A file could not be stored.
    #[error("failed to store a received file")]
    Store(#[source] io::Error),
    /// A stored file could not be removed.
    #[error("failed to remove stored file {key}")]
    Remove {
        /// The file.
        key: FileKey,
        /// Why.
        source: io::Error,
    },
    /// The sender did not keep to what the transfer protocol promises.
    #[error("invalid file list from the client: {reason}: {path:?}")]
    Protocol {
        /// The entry.
        path: String,
        /// The rule.
        reason: &'static str,
    },
    /// Too many files are being sent at once.
    #[error("more than {0} files are in transfer at the same time")]
    TooManyOpen(usize),
    /// The blocking work of a transfer was stopped.
    #[error("storing received files was stopped")]
    Stopped,
    /// Files could not be made durable.
    #[error("failed to write stored files to disk")]
    Sync(#[source] io::Error),
    /// A walk over files failed.
    #[error("failed to read {path:?}")]
    Read {
        /// Path under the root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A tree could not be laid out in a directory.
    #[error("failed to create {path:?}")]
    LayOut {
        /// Path under the root.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl TreeError {
    pub(crate) fn database<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Database {
            doing,
            source: Box::new(source.into()),
        }
    }
}

impl From<TreeError> for io::Error {
    fn from(error: TreeError) -> Self {
        Self::other(error)
    }
}
