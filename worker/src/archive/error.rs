//! What can be wrong with an archive, or go wrong with unpacking and packing one.

use std::io;

use super::entry::display;

/// A failure to read, write, unpack or make an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream is no tar archive, or a broken one.
    #[error("invalid tar archive at byte {offset}: {problem}")]
    Malformed {
        /// Where in the uncompressed stream.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The stream could not be read, or ended too early.
    #[error("failed to read tar archive")]
    Read(#[source] io::Error),
    /// The archive could not be written.
    #[error("failed to write tar archive")]
    Write(#[source] io::Error),
    /// An entry names something it may not name, or asks for what cannot be done.
    #[error("refused tar entry \"{path}\": {problem}")]
    Refused {
        /// The entry.
        path: String,
        /// Why.
        problem: String,
    },
    /// A hard link leads to a file that neither the archive nor a layer below has.
    #[error("refused tar entry \"{path}\": hard link to \"{target}\", which is not there")]
    MissingLink {
        /// The entry.
        path: String,
        /// What it should be the same as.
        target: String,
    },
    /// The file system refused an entry.
    #[error("failed to {action} \"{path}\"")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which path inside the root.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl ArchiveError {
    pub(super) fn refused(path: &[u8], problem: impl Into<String>) -> Self {
        Self::Refused {
            path: display(path),
            problem: problem.into(),
        }
    }

    pub(super) fn file<E: Into<io::Error>>(action: &'static str, path: &[u8]) -> impl FnOnce(E) -> Self + use<E> {
        let path = display(path);
        move |source| Self::File {
            action,
            path,
            source: source.into(),
        }
    }
}
