//! What the solver asks of workers.
//!
//! Calls are coarse on purpose, so that one can cross a network: resolve a source to something immutable, execute
//! one vertex, digest paths under a result, open a result again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::llb::{GitSource, HttpSource, ResolveMode, SourceOp, Vertex};
use crate::progress::VertexProgress;
use crate::session::SessionGroup;
use crate::usage::Meter;
use crate::{Device, Digest, Platform, TraceContext};

/// Names a result inside its worker, across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ResultId(Arc<str>);

impl From<String> for ResultId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl From<ResultId> for String {
    fn from(id: ResultId) -> Self {
        id.as_str().to_owned()
    }
}

impl ResultId {
    /// Wraps a worker's own name for a result.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into().into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A result that is kept from being pruned for as long as a clone of this lives.
#[derive(Clone)]
pub struct Ref {
    id: ResultId,
    /// The worker's own guard; its drop gives the result free.
    pin: Arc<dyn Send + Sync>,
}

impl Ref {
    /// Made by workers. `pin` is dropped with the last clone.
    pub fn new(id: ResultId, pin: Arc<dyn Send + Sync>) -> Self {
        Self { id, pin }
    }

    /// The result.
    pub fn id(&self) -> &ResultId {
        &self.id
    }

    /// The guard, to be held by results made of this one.
    pub fn pin(&self) -> &Arc<dyn Send + Sync> {
        &self.pin
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ref").field(&self.id.0).finish()
    }
}

/// What a worker is, for clients and for placing work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Stable, random.
    pub id: String,
    /// Labels such as `org.mobyproject.buildkit.worker.executor`.
    pub labels: BTreeMap<String, String>,
    /// Platforms it can run; the first is the default.
    pub platforms: Vec<Platform>,
}

/// Something immutable that a source stands for right now.
#[derive(Clone, Debug)]
pub struct ResolvedSource {
    /// The whole identity: equal pins have equal contents. Enters the cache key.
    pub pin: String,
    /// What was resolved, in readable parts, for the key's preimage; such as `manifest`, `sha256:…`.
    pub parts: BTreeMap<String, String>,
    /// The result, if resolving has made it already, as it does for a client's directory.
    pub result: Option<Ref>,
}

/// The surroundings of one call to a worker.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Where logs and statuses go.
    pub progress: VertexProgress,
    /// The clients that wait for it, asked for whatever is private to them.
    pub sessions: SessionGroup,
    /// Fires when nobody waits any more: the worker stops, cleans up and returns [`WorkerError::Cancelled`].
    pub cancel: CancellationToken,
    /// Where spans of what it starts belong; `None` if nobody collects them.
    pub trace: Option<TraceContext>,
}

/// One vertex to execute.
#[derive(Clone, Debug)]
pub struct Execution {
    /// What to do.
    pub vertex: Arc<Vertex>,
    /// For sources: what the source resolved to.
    pub resolved: Option<ResolvedSource>,
    /// One per vertex input, in order; `None` is scratch.
    pub inputs: Vec<Option<Ref>>,
    /// Where to note what its process uses of the machine, if somebody wants to know.
    pub meter: Option<Arc<Meter>>,
}

/// What there was when a step failed. Results in it are kept from being pruned for as long as it lives, and may go with
/// it.
#[derive(Clone, Debug, Default)]
pub struct FailedState {
    /// What went in; `None` is nothing, or scratch. Of a process by its mounts, of file operations by inputs, and of
    /// content that could not be read the one it was looked for in.
    pub inputs: Vec<Option<Ref>>,
    /// What was there in the end, likewise: of a process by its mounts, of file operations by their actions.
    pub left: Vec<Option<Ref>>,
    /// What of the step failed.
    pub subject: FailedSubject,
}

/// What of a step failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedSubject {
    /// Its only part.
    #[default]
    Whole,
    /// A file operation, by its place among them.
    Action(usize),
    /// Finding out the content of an input, by its number.
    Content(usize),
}

/// Directories that outlive builds, by what steps that mount them call them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheName {
    /// Name given by the client.
    pub id: String,
    /// Whether it is those that began as copies of some result, or the ones that began empty.
    pub seeded: bool,
}

/// Paths under a result whose content a key depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ContentSelector {
    /// A path, or a pattern if `wildcard`; empty or `/` is everything.
    pub path: String,
    /// Whether `path` is a pattern of Go's `path/filepath.Match`.
    pub wildcard: bool,
    /// Whether a pattern that matches nothing is no error.
    pub allow_empty: bool,
    /// Whether a symbolic link at `path` itself is followed.
    pub follow_links: bool,
    /// Whether the file that a link leads to counts too, where the link itself is not followed.
    #[serde(default)]
    pub link_targets: bool,
    /// `.dockerignore` patterns, relative to `path`, of what counts; empty for everything.
    pub include: Vec<String>,
    /// `.dockerignore` patterns, relative to `path`, of what does not count.
    pub exclude: Vec<String>,
}

/// An image tag to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageQuery {
    /// Fully qualified reference.
    pub reference: String,
    /// Platform wanted; `None` for the worker's default.
    pub platform: Option<Platform>,
    /// Where to look.
    pub mode: ResolveMode,
    /// The client's OCI layout that the image is in; `None` for a registry.
    pub layout: Option<LayoutStore>,
}

/// An OCI layout that a client offers over its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayoutStore {
    /// Session that offers it; `None` means the one the build belongs to.
    pub session: Option<String>,
    /// Name the client knows it by.
    pub store: String,
}

/// What an image reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference that was resolved: another one than was asked for where a policy says so.
    pub reference: String,
    /// Digest of the manifest, or of the index it was chosen from.
    pub digest: Digest,
    /// The image config for the platform, as raw JSON.
    pub config: Bytes,
}

/// What is stated of an image where it is, and what signs that, as far as there is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationChain {
    /// What the image's reference stands for.
    pub root: Digest,
    /// The manifest for the platform.
    pub image_manifest: Option<Digest>,
    /// The manifest of the statements about that.
    pub attestation_manifest: Option<Digest>,
    /// Manifests of signatures of the manifest of the statements.
    pub signature_manifests: Vec<Digest>,
    /// Of all these but the image's own, the bytes; and of signatures and of the statements that were asked for.
    pub blobs: Vec<AttestationBlob>,
}

impl AttestationChain {
    /// One of which nothing but the beginning is known.
    pub fn of(root: Digest) -> Self {
        Self {
            root,
            image_manifest: None,
            attestation_manifest: None,
            signature_manifests: Vec::new(),
            blobs: Vec::new(),
        }
    }
}

/// Something in an [`AttestationChain`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationBlob {
    /// What it is.
    pub media_type: String,
    /// Of its bytes.
    pub digest: Digest,
    /// What was noted where it is referred to.
    pub annotations: BTreeMap<String, String>,
    /// All of it.
    pub data: Bytes,
}

/// What there is to know about a source besides its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceMeta {
    /// Of a git source.
    Git(GitMeta),
    /// Of a file behind a URL.
    Http(HttpMeta),
}

/// What a git source stands for right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitMeta {
    /// Hash of what the reference names: a commit, or an annotated tag.
    pub checksum: String,
    /// The full name of the reference, such as `refs/heads/main`; a commit hash if there is none.
    pub reference: String,
    /// Hash of the commit it leads to, if that is something else.
    pub commit_checksum: String,
    /// The commit as git stores it.
    pub commit_object: Bytes,
    /// The annotated tag as git stores it; empty if there is none.
    pub tag_object: Bytes,
    /// When the commit was made, by its committer's clock: seconds since the epoch.
    pub committed_at: Option<i64>,
}

/// What a URL stands for right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpMeta {
    /// Digest of the contents.
    pub checksum: Digest,
    /// Name that the file has in the result.
    pub filename: OsString,
    /// `Last-Modified`: seconds since the epoch.
    pub last_modified: Option<i64>,
}

/// What is to be hashed besides the contents of a file, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumRequest {
    /// How.
    pub algorithm: ChecksumAlgorithm,
    /// Comes after the contents: signatures are made over files with something at their end.
    pub suffix: Bytes,
}

/// How to hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// As digests usually are.
    Sha256,
    /// Its longer relatives.
    Sha384,
    /// The longest.
    Sha512,
}

impl ChecksumAlgorithm {
    /// What stands before the digits of a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}

/// Metadata of a file under a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Base name.
    pub path: OsString,
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time in ns since the epoch.
    pub mtime_ns: i64,
    /// Target of a symbolic link.
    pub link_target: OsString,
    /// Device numbers.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// How two results differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What differs, as far as it was looked for.
    pub changes: Vec<ContentChange>,
    /// Whether there may be more.
    pub has_more: bool,
}

/// A file that differs between two results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentChange {
    /// Path from the root of the result, without a slash before it.
    pub path: String,
    /// What differs first: type, then bytes, then metadata.
    pub kind: ChangeKind,
}

/// How a file differs between two results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is of another type, such as a directory in place of a file.
    Type,
    /// It holds other bytes.
    Bytes,
    /// Its permissions differ.
    Mode {
        /// Permission bits before.
        old: u32,
        /// Permission bits now.
        new: u32,
    },
    /// It belongs to somebody else.
    Owner {
        /// User and group before.
        old: (u32, u32),
        /// User and group now.
        new: (u32, u32),
    },
    /// It is a symbolic link that leads elsewhere.
    Target {
        /// Its target before.
        old: String,
        /// Its target now.
        new: String,
    },
    /// Extended attributes or device numbers differ.
    Attributes,
}

/// Runs vertices.
///
/// The engine bounds how many processes run at the same time ([`crate::EngineOptions`]). Implementations bound all else:
/// the solver asks for everything it could use at once.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// What this worker is.
    fn info(&self) -> WorkerInfo;

    /// The devices that steps may ask for, sorted by name; `None` if steps cannot have any. Asked for whenever a step
    /// wants one, so it does no more than look whether a few files have changed.
    ///
    /// # Errors
    /// That it cannot be told.
    fn devices(&self) -> Result<Option<Arc<[Device]>>, WorkerError> {
        Ok(None)
    }

    /// Whether work that is only for certain workers may run here. `filter` holds filters in containerd's syntax on `id`
    /// and `labels`, one of which must match; it is not empty.
    ///
    /// # Errors
    /// [`WorkerError::Invalid`] if it is no filter.
    fn accepts(&self, _filter: &[String]) -> Result<bool, WorkerError> {
        Ok(false)
    }

    /// Finds out what a source stands for right now. A client's directory is received here, and the result given along.
    async fn resolve_source(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError>;

    /// Executes a vertex. Returns one result per output; `None` is scratch.
    ///
    /// Results are durable in the sense that [`Worker::open`] finds them after a crash, or does not find them, but
    /// never finds half of one.
    async fn execute(&self, execution: Execution, context: &CallContext) -> Result<Vec<Option<Ref>>, WorkerError>;

    /// Digests names, metadata (but no times) and contents of what `selector` names under `input` (`None` is scratch).
    async fn digest(
        &self,
        input: Option<&Ref>,
        selector: &ContentSelector,
        context: &CallContext,
    ) -> Result<Digest, WorkerError>;

    /// Opens a result made earlier; `None` if it is not there any more.
    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError>;

    /// Whether a result made earlier is still there. Unlike [`Worker::open`], this is no use of it.
    async fn has(&self, id: &ResultId) -> Result<bool, WorkerError> {
        Ok(self.open(id).await?.is_some())
    }

    /// Whether files of a result are still elsewhere: it was taken over from an imported cache, and nobody has needed
    /// to look into it.
    fn is_remote(&self, _result: &Ref) -> Result<bool, WorkerError> {
        Ok(false)
    }

    /// Gets the files of a result that are still elsewhere. It is no failure of the build if they cannot be had: what
    /// made the result is run instead.
    async fn fetch(&self, _result: &Ref, _context: &CallContext) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Makes steps that mount one of these directories from now on begin with a new one. Those that use one now keep it.
    async fn begin_caches_anew(&self, _caches: Vec<CacheName>) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Compares what `selector` names under two results; a side without a result is scratch.
    ///
    /// `Ok(None)` if a result is not there any more. The worker bounds what it looks at, and gives at most `limit`
    /// changes, in the order of paths. One that cannot tell says nothing, as this does.
    async fn compare(
        &self,
        _old: Option<&ResultId>,
        _new: Option<&ResultId>,
        _selector: &ContentSelector,
        _limit: usize,
    ) -> Result<Option<Comparison>, WorkerError> {
        Ok(None)
    }

    /// Resolves an image reference and fetches its config.
    async fn resolve_image(&self, query: &ImageQuery, context: &CallContext) -> Result<ResolvedImage, WorkerError>;

    /// Finds out what is stated of an image whose reference stands for `root`, and what signs that; of the statements
    /// themselves, those of the predicate types.
    async fn attestations(
        &self,
        query: &ImageQuery,
        root: Digest,
        predicates: &[String],
        context: &CallContext,
    ) -> Result<AttestationChain, WorkerError> {
        let (_, _, _) = (root, predicates, context);
        Err(WorkerError::Unsupported(format!(
            "attestations of {} cannot be looked for",
            query.reference
        )))
    }

    /// Finds out about a git or http source what its contents do not tell. Other kinds of sources are an error.
    async fn source_meta(&self, source: &SourceOp, context: &CallContext) -> Result<SourceMeta, WorkerError>;

    /// The keys that the ssh host of a git source presents, in the form of `known_hosts`; empty if it does not tell. One
    /// that cannot ask says nothing, as this does.
    async fn host_keys(&self, _source: &GitSource) -> String {
        String::new()
    }

    /// Hashes the file behind a URL, and more; as a digest with the algorithm before the digits.
    async fn source_checksum(
        &self,
        source: &HttpSource,
        request: &ChecksumRequest,
        context: &CallContext,
    ) -> Result<String, WorkerError> {
        let (_, _) = (request, context);
        Err(WorkerError::Unsupported(format!("{} cannot be hashed", source.url)))
    }

    /// Reads (part of) a regular file under a result; symbolic links are followed inside it.
    ///
    /// `range` is offset and length in bytes. The worker bounds what it returns.
    async fn read_file(
        &self,
        input: Option<&Ref>,
        path: &Path,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, WorkerError>;

    /// Lists the children of a directory under a result, by name; `include` is a pattern for the names.
    async fn read_dir(
        &self,
        input: Option<&Ref>,
        path: &Path,
        include: Option<&[u8]>,
    ) -> Result<Vec<FileStat>, WorkerError>;

    /// Metadata of a file under a result; a symbolic link at `path` itself is not followed.
    async fn stat_file(&self, input: Option<&Ref>, path: &Path) -> Result<FileStat, WorkerError>;
}

/// How errors begin that came of finding out what a source stands for.
///
/// Clients know the error of a build by these words; the vertex itself tells only what follows them.
pub const NO_KEY: &str = "failed to load cache key: ";
/// The same of reading what an input holds.
pub const NO_CONTENT: &str = "failed to compute cache key: ";

/// Why a worker could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WorkerError {
    /// The process ended with a code that does not mean success.
    #[error("process {command:?} did not complete successfully: exit code: {code}{}", cause.as_deref().map(|c| format!(": {c}")).unwrap_or_default())]
    Exit {
        /// Arguments joined by spaces.
        command: String,
        /// Exit code; 128 + n for signal n.
        code: u32,
        /// More, when known: out of memory.
        cause: Option<String>,
    },
    /// Nobody waits any more.
    #[error("context canceled")]
    Cancelled,
    /// The request cannot be carried out as it stands; the user can act.
    #[error("{0}")]
    Invalid(String),
    /// Something asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// The client has no directory of that name.
    #[error("{0}")]
    NoDirectory(String),
    /// This worker does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// Something around the worker failed: network, disk, registry, client.
    #[error("{0}")]
    Failed(String),
    /// A step failed, and what there was then can be looked into.
    #[error("{source}")]
    Step {
        /// How it failed.
        source: Box<Self>,
        /// What there was.
        state: Arc<FailedState>,
    },
}
