//! The cache index: which key has which result.

mod memory;
mod redb;

pub use self::memory::MemoryIndex;
pub use self::redb::RedbIndex;

use crate::Digest;
use crate::cache_key::{CacheKey, Preimage};
use crate::worker::ResultId;

/// What is recorded under a key: one result per output; `None` is scratch.
pub type Outputs = Vec<Option<ResultId>>;

/// Remembers results and content digests by key.
///
/// Reads see earlier writes of this process at once; after a crash a write is there entirely or not at all. A result
/// that its worker does not have any more is forgotten when found out.
pub trait CacheIndex: Send + Sync + 'static {
    /// The results under a key.
    fn results(&self, key: &CacheKey) -> Result<Option<Outputs>, IndexError>;

    /// Records results under a key, in place of earlier ones. Their bytes must be safe already.
    fn record_results(&self, key: &CacheKey, preimage: &Preimage, outputs: &Outputs) -> Result<(), IndexError>;

    /// What went into a key.
    fn preimage(&self, key: &CacheKey) -> Result<Option<Preimage>, IndexError>;

    /// The content digest under a key of [`crate::cache_key::content_key`].
    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError>;

    /// Records a content digest.
    fn record_content(&self, key: &CacheKey, digest: &Digest) -> Result<(), IndexError>;

    /// Forgets the results under a key.
    fn forget(&self, key: &CacheKey) -> Result<(), IndexError>;

    /// Makes everything recorded so far survive a crash of the machine.
    fn flush(&self) -> Result<(), IndexError>;
}

/// Why the index cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be opened.
    #[error("failed to open {path}: {message}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        message: String,
    },
    /// A read or write failed.
    #[error("failed to {what}: {message}")]
    Access {
        /// What was attempted.
        what: &'static str,
        /// Why.
        message: String,
    },
}
