//! What can go wrong with a URL.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use cairn_session::SessionError;
use cairn_solver::Digest;

use crate::causes::with_causes;
use crate::layer::LayerError;
use crate::network::NetworkError;
use crate::signature::SignatureError;

/// A file that was not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// The text is no URL. It may hold a password, and is not repeated.
    #[error("failed to parse the URL: {problem}")]
    Url { problem: String },
    /// An answer other than success. Clients know these words.
    #[error("invalid response status {status}")]
    Status { status: u16 },
    /// The server cannot be reached, or the connection broke.
    #[error("failed to fetch: Get {url:?}")]
    Transport { url: String, source: NetworkError },
    /// The server is there and sends nothing, or next to nothing.
    #[error("failed to fetch {url}: too little came within {} s", window.as_secs_f32())]
    Stalled { url: String, window: Duration },
    /// A redirect that leads nowhere, or too many.
    #[error("failed to fetch {url}: {problem}")]
    Redirect { url: String, problem: String },
    /// A request cannot be made of what was asked for.
    #[error("invalid value for header {name}")]
    Header { name: String },
    /// The secret to authorize the request with is not to be had.
    #[error("failed to retrieve HTTP auth secret {id}: {problem}")]
    Secret { id: String, problem: String },
    /// The contents are others than they should be. Clients know these words.
    #[error("digest mismatch {actual}: {wanted}")]
    Mismatch { actual: Digest, wanted: Digest },
    /// The client does not give its stream.
    #[error("failed to receive an upload")]
    Session(#[source] SessionError),
    /// The disk refuses.
    #[error("failed to write {}", name.display())]
    Write { name: OsString, source: io::Error },
    /// It was not made by whom it should have been.
    #[error("failed to verify the signature of {}", name.display())]
    Signature { name: OsString, source: SignatureError },
    /// The disk does not give back what was written to it.
    #[error("failed to read {}", name.display())]
    Read { name: OsString, source: io::Error },
    /// The layer store refuses.
    #[error("failed to keep a downloaded file")]
    Layer(#[from] LayerError),
}

impl HttpError {
    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status } => matches!(status, 429 | 500 | 502 | 503 | 504),
            Self::Transport { source, .. } => !source.is_builder(),
            _ => false,
        }
    }

    /// The error and its causes in one line.
    pub(super) fn describe(&self) -> String {
        with_causes(self)
    }
}
