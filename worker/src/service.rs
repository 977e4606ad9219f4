//! A worker as a daemon uses it: besides running vertices it exports results, runs processes that somebody talks to,
//! and tells and tidies what it keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::imported::CacheRecord;
use cairn_solver::worker::{CallContext, Ref, Worker, WorkerError};
use cairn_solver::{Attestation, AttestationSource, Platform};

use crate::content::ContentStore;
use crate::image::Descriptor;

mod cache;
mod container;

pub use cache::{CacheExport, CacheExporter, CacheImporter, CacheMode, CacheRequest};
pub use container::{
    Container, ContainerRequest, OwnDir, Process, ProcessControl, ProcessError, ProcessRequest, Streams, signal_by_name,
};

/// What a daemon asks of a worker besides running vertices.
#[async_trait]
pub trait WorkerService: Worker {
    /// Sets up an exporter; nothing is done yet.
    ///
    /// # Errors
    /// [`WorkerError::Invalid`] for an unknown kind or attribute values that make no sense.
    fn exporter(&self, request: &ExporterRequest) -> Result<Box<dyn Exporter>, WorkerError>;

    /// Sets up an importer of a cache; nobody is asked yet.
    ///
    /// # Errors
    /// [`WorkerError`] for an unknown kind or attribute values that make no sense.
    fn cache_importer(&self, request: &CacheRequest) -> Result<Box<dyn CacheImporter>, WorkerError>;

    /// Sets up an exporter of a cache; nothing is done yet.
    ///
    /// # Errors
    /// As [`WorkerService::cache_importer`].
    fn cache_exporter(&self, request: &CacheRequest) -> Result<Box<dyn CacheExporter>, WorkerError>;

    /// Makes a container, in which nothing runs yet. It is released when `context` is cancelled.
    async fn container(
        &self,
        request: ContainerRequest,
        context: &CallContext,
    ) -> Result<Arc<dyn Container>, WorkerError>;

    /// Waits until nothing is left of containers that were released.
    async fn containers_gone(&self);

    /// Takes down what is kept ready for processes, none of which may run any more, nor be run afterwards.
    async fn close(&self);

    /// The layers of each result as blobs, lowest first; `None` if not all of a result's are known as blobs. Nothing is
    /// made for this. It ends with the last result with which there are no more than `most` layers in all.
    async fn known_layers(&self, results: Vec<Ref>, most: usize) -> Result<Vec<Option<Vec<Descriptor>>>, WorkerError>;

    /// Waits until results that are recorded would be found by a daemon that takes the place of this one, if this one
    /// was killed. Takes no time if they would be.
    async fn settle(&self) -> Result<(), WorkerError>;

    /// Whether it can be measured what steps use of the machine.
    fn can_measure(&self) -> bool;

    /// What is kept.
    async fn disk_usage(&self) -> Result<Vec<UsageRecord>, WorkerError>;

    /// Removes what is kept, as far as it is not in use, and returns what was removed.
    async fn prune(&self, request: &PruneRequest) -> Result<Vec<UsageRecord>, WorkerError>;

    /// The blobs that results and images consist of, to read.
    fn blobs(&self) -> ContentStore;

    /// Size of the file system that results are kept on, in bytes.
    fn disk_size(&self) -> u64;
}

/// An output that a client asks for.
#[derive(Clone, Debug, Default)]
pub struct ExporterRequest {
    /// Position among the build's outputs; tells the client which of its targets is meant.
    pub index: usize,
    /// `image`, `oci`, `docker`, `local` or `tar`.
    pub kind: String,
    /// Its settings.
    pub attrs: BTreeMap<String, String>,
    /// Session to write to.
    pub session: String,
}

/// Hands results over.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// What the export is called in progress displays, such as `exporting to image`.
    fn title(&self) -> &'static str;

    /// Whether all files of the results have to be here.
    fn needs_all_files(&self) -> bool {
        true
    }

    /// Where not all files have to be here: sees to it that results can be exported although their files are elsewhere,
    /// and tells whether they can be. If not, all have to be here after all.
    async fn gather(&self, _input: &ExportInput, _context: &CallContext) -> Result<bool, WorkerError> {
        Ok(false)
    }

    /// Exports, and returns facts for the client, such as `containerimage.digest`.
    async fn export(&self, input: &ExportInput, context: &CallContext)
    -> Result<BTreeMap<String, String>, WorkerError>;
}

/// What is exported.
#[derive(Clone, Debug)]
pub struct ExportInput {
    /// The results.
    pub refs: ExportRefs,
    /// What the frontend says about them, such as `containerimage.config`.
    pub metadata: BTreeMap<String, Bytes>,
    /// What is stated about them, by platform id. A single result's platform is the one that the metadata name, or the
    /// one of its config.
    pub attestations: BTreeMap<String, Vec<Attestation<AttestationSource>>>,
    /// What images are to say about how they were built, so that they can serve as a cache.
    pub inline_cache: Option<Arc<Vec<CacheRecord>>>,
}

impl ExportInput {
    /// The platforms of the results and their ids, in the order in which the frontend lists them.
    ///
    /// # Errors
    /// [`WorkerError::Invalid`] if what the frontend says about the results does not fit them.
    pub fn platforms(&self) -> Result<Vec<(String, Platform)>, WorkerError> {
        crate::embedded::platforms(self)
    }
}

/// The results of a build, made.
#[derive(Clone, Debug)]
pub enum ExportRefs {
    /// One; `None` is scratch.
    Single(Option<Ref>),
    /// One per platform id, such as `linux/amd64`.
    Platforms(BTreeMap<String, Option<Ref>>),
}

impl ExportRefs {
    /// All results that are not scratch.
    pub fn iter(&self) -> impl Iterator<Item = &Ref> {
        let (single, platforms) = match self {
            Self::Single(made) => (Some(made), None),
            Self::Platforms(made) => (None, Some(made.values())),
        };
        single.into_iter().chain(platforms.into_iter().flatten()).flatten()
    }
}

/// Something kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// Name.
    pub id: String,
    /// Whether it can change, as a cache directory can.
    pub mutable: bool,
    /// Whether it is being used.
    pub in_use: bool,
    /// Bytes on disk.
    pub size: u64,
    /// What it builds on.
    pub parents: Vec<String>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it was last used.
    pub last_used_at: Option<SystemTime>,
    /// How often it was used.
    pub usage_count: u64,
    /// What made it.
    pub description: String,
    /// `regular`, `source.local`, `exec.cachemount`, `frontend` or `internal`.
    pub record_type: String,
    /// Whether something outside of Cairn uses it too.
    pub shared: bool,
}

/// What to remove.
#[derive(Clone, Debug, Default)]
pub struct PruneRequest {
    /// Which records; any of them may match. Empty for all.
    pub filters: Vec<String>,
    /// Whether internal, frontend and shared records count too.
    pub all: bool,
    /// Spares what was used more recently.
    pub keep_duration: Duration,
    /// Bytes never given up; 0 for none.
    pub reserved_space: u64,
    /// Bytes not to be exceeded; 0 for no limit.
    pub max_used_space: u64,
    /// Bytes to leave to others; 0 for none.
    pub min_free_space: u64,
}
