//! Why the layer store could not do something.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::LayerId;

/// An error of the layer store.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file operation of the store's own failed.
    #[error("failed to {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store is in use by another process.
    #[error("layer store {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The record database failed.
    #[error("failed to {doing} the layer records")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A record is not what this version writes.
    #[error("record {key} of the layer store does not parse")]
    Record {
        /// Which.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// There is no such layer.
    #[error("layer {0} not found")]
    NotFound(LayerId),
    /// The layer's directory has to be made from its blob first.
    #[error("layer {0} is not unpacked")]
    NotUnpacked(LayerId),
    /// A directory could not be made from a blob.
    #[error("failed to unpack layer {id}: {source}")]
    Unpack {
        /// Which layer.
        id: LayerId,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The overlay cannot hold so many.
    #[error("{0} layers are more than the {max} that can be mounted together", max = super::mounted::MAX_LOWERS)]
    TooManyLayers(usize),
    /// A layer was to be finished while a mount of it exists.
    #[error("layer {0} is still mounted")]
    StillMounted(LayerId),
    /// The work was given up before it ended.
    #[error("unpacking of layer {0} was interrupted")]
    Interrupted(LayerId),
    /// An error that others waiting for the same work got too.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl LayerError {
    /// For `map_err` on file operations.
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// For `map_err` on database calls.
    pub(super) fn db<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Database {
            doing,
            source: Box::new(error.into()),
        }
    }
}
