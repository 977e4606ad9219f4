//! What can go wrong in a transfer, from either side.

use std::path::PathBuf;

use tonic::Status;

use crate::error::SessionError;

/// An error of whoever stores or supplies the files.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Failure of a file transfer.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The session is gone or does not offer the service.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The stream that carries the transfer broke, or the other side refused it.
    #[error("file transfer failed: {}", .0.message())]
    Stream(Box<Status>),
    /// The stream ended before the transfer was complete.
    #[error("file transfer ended early")]
    EndedEarly,
    /// The sender said nothing for too long.
    #[error("file transfer stalled: nothing came for {} s", .0.as_secs())]
    Stalled(std::time::Duration),
    /// The sending side gave up.
    #[error("error from sender: {0}")]
    FromSender(String),
    /// The receiving side gave up.
    #[error("error from receiver: {0}")]
    FromReceiver(String),
    /// A path is not one that may be sent.
    #[error("{reason}: {path:?}")]
    InvalidPath {
        /// The path, shortened.
        path: PathBuf,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The metadata of an entry makes no sense.
    #[error("invalid entry {path:?}: {reason}")]
    InvalidEntry {
        /// The entry.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Entries did not come in order, or before their directory.
    #[error("changes out of order: {path:?} {last:?}")]
    OutOfOrder {
        /// The entry that came too late.
        path: PathBuf,
        /// The one before it.
        last: PathBuf,
    },
    /// A hard link names no file that was sent before.
    #[error("hard link {path:?} points to {target:?}, which was not sent before it")]
    MissingLinkTarget {
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// The list is longer than it may be.
    #[error("too many files in transfer, at most {0} are allowed")]
    TooManyEntries(u32),
    /// More bytes came than may.
    #[error("file transfer exceeds {0} bytes")]
    TooManyBytes(u64),
    /// A file turned out far larger than announced.
    #[error("content of file id {0} exceeds its announced size")]
    FileTooLarge(u32),
    /// Content came for, or was requested of, something else than an open file.
    #[error("invalid file id {0}")]
    InvalidId(u32),
    /// A packet does not belong where it came.
    #[error("unexpected packet: {0}")]
    UnexpectedPacket(&'static str),
    /// The receiver's store failed.
    #[error("failed to store received files: {0}")]
    Sink(#[source] BoxError),
    /// The sender's tree failed.
    #[error("failed to read files to send: {0}")]
    Source(#[source] BoxError),
    /// The task that did the file work is gone.
    #[error("file transfer task was stopped")]
    Stopped,
}

impl From<Status> for TransferError {
    fn from(status: Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

impl From<TransferError> for Status {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Session(error) => error.into(),
            TransferError::Stream(status) => *status,
            TransferError::Stalled(_) => Self::deadline_exceeded(error.to_string()),
            error => Self::unknown(error.to_string()),
        }
    }
}
