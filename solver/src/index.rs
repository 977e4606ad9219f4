//! The cache index: which key has which result, and what is remembered to explain it.

mod history;
mod memory;
mod redb;

use std::sync::Arc;

pub use self::history::{
    BuildRecord, BuildSummary, Evidence, InputEvidence, Known, MAX_BUILDS, MAX_SITE_KEYS, MAX_STEPS, Millis, Place,
    Removal, Removed, SiteId, SiteKey, StepRecord, Verdict,
};
pub use self::memory::MemoryIndex;
pub use self::redb::{IndexLimits, RedbIndex};

use crate::Digest;
use crate::cache_key::CacheKey;
use crate::worker::ResultId;

/// What is recorded under a key: one result per output; `None` is scratch.
pub type Outputs = Vec<Option<ResultId>>;

/// Remembers results and content digests by key.
///
/// Reads see earlier writes of this process at once; after a crash a write is there entirely or not at all. A result
/// that its worker does not have any more is forgotten when found out.
///
/// What explains builds (what keys are made of, when results went, builds and sites) outlives the results, within
/// bounds. It may be seen only after a [`CacheIndex::flush`], and an index may keep none of it.
pub trait CacheIndex: Send + Sync + 'static {
    /// The results under a key.
    fn results(&self, key: &CacheKey) -> Result<Option<Outputs>, IndexError>;

    /// Records results under a key, in place of earlier ones. Their bytes must be safe already.
    fn record_results(&self, key: &CacheKey, known: &Arc<Known>, outputs: &Outputs) -> Result<(), IndexError>;

    /// What went into a key.
    fn known(&self, key: &CacheKey) -> Result<Option<Known>, IndexError>;

    /// The content digest under a key of [`crate::cache_key::content_key`].
    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError>;

    /// Records a content digest.
    fn record_content(&self, key: &CacheKey, digest: &Digest) -> Result<(), IndexError>;

    /// Forgets the results under a key, but not what went into it.
    fn forget(&self, key: &CacheKey, removal: Removal) -> Result<(), IndexError>;

    /// Where the results went that were under a key; `None` if there are some, or never were.
    fn removal(&self, key: &CacheKey) -> Result<Option<Removal>, IndexError>;

    /// Up to `limit` records whose keys come after `after`, in the order of keys.
    fn scan(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<(CacheKey, Outputs)>, IndexError>;

    /// Remembers a build; the oldest of more than [`MAX_BUILDS`] is forgotten.
    fn record_build(&self, build: BuildRecord) -> Result<(), IndexError>;

    /// The builds that are remembered, newest first.
    fn builds(&self) -> Result<Vec<BuildSummary>, IndexError>;

    /// The steps of a build by its number.
    fn steps(&self, number: u64) -> Result<Vec<StepRecord>, IndexError>;

    /// The last keys that a site had, newest first.
    fn site(&self, site: &SiteId) -> Result<Vec<SiteKey>, IndexError>;

    /// Puts right what a crash or old age left: sites of keys that nothing is known about. Returns how many it removed.
    fn repair(&self) -> Result<usize, IndexError>;

    /// Whether everything recorded under keys survives a crash of the machine. Never waits.
    fn is_settled(&self) -> bool;

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
