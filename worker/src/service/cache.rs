//! Caches that are exported and imported.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::imported::{CacheRecord, ImportedCache};
use cairn_solver::worker::{CallContext, Ref, WorkerError};

/// A cache that a client names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheRequest {
    /// `registry` or `local`.
    pub kind: String,
    /// Its settings.
    pub attrs: BTreeMap<String, String>,
}

/// Gets to know a cache.
#[async_trait]
pub trait CacheImporter: Send + Sync {
    /// What tells the cache from others, as users know it: a reference, or a kind and a directory.
    fn name(&self) -> &str;

    /// Gets to know what the cache knows, but none of its layers.
    async fn load(&self, context: &CallContext) -> Result<Arc<dyn ImportedCache>, WorkerError>;
}

/// Hands a cache over.
#[async_trait]
pub trait CacheExporter: Send + Sync {
    /// What the export is called in progress displays.
    fn title(&self) -> &'static str;

    /// What tells the cache from others that are exported.
    fn name(&self) -> &str;

    /// Exports, and returns facts for the client, such as `cache.manifest`.
    async fn export(&self, cache: &CacheExport, context: &CallContext)
    -> Result<BTreeMap<String, String>, WorkerError>;
}

/// Which results leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Those that the exported result is built on.
    #[default]
    Min,
    /// Those of every step.
    Max,
}

/// A build as a cache.
#[derive(Clone, Debug, Default)]
pub struct CacheExport {
    /// Everything that is known about it, inputs first.
    pub records: Arc<Vec<CacheRecord>>,
    /// Its results.
    pub targets: Vec<Ref>,
}
