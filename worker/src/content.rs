//! Blobs by digest on disk.
//!
//! ```text
//! root/blobs/sha256/<hex>      finished blobs, immutable
//! root/ingest/tmp-<random>     blobs being written; removed when the store is opened
//! root/ingest/ref-<hash>       downloads that can go on where they stopped; removed after a day without progress
//! root/sources/<hex>           repositories that are known to have the blob
//! ```
//!
//! A blob appears under `blobs/` by one `rename` of a file whose hash was checked, so killing the process at any
//! moment leaves either the whole blob or none. One process owns a store at a time (the daemon locks its root).
//!
//! All methods but [`ContentStore::closed`] block on the file system: call them from the blocking pool.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_solver::Digest;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

mod hashing;
mod ingest;
mod sources;
#[cfg(test)]
mod tests;

pub use hashing::{HashingReader, Sha256Hasher};
pub use ingest::Ingest;

/// How long an interrupted download is kept for going on with it.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// File and directory are flushed: a committed blob survives a power loss.
    Synced,
    /// Nothing is flushed: a committed blob survives the process but not the machine. Whoever records the blob's
    /// existence durably calls [`ContentStore::sync`] first.
    Relaxed,
}

/// Digest and size of a stored blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// The sha256 of the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// What can go wrong with stored blobs.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The store has no such blob.
    #[error("blob {0} not found")]
    NotFound(Digest),
    /// The written bytes are not the promised ones.
    #[error("digest mismatch: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What the caller asked for.
        expected: Digest,
        /// What was written.
        actual: Digest,
    },
    /// The number of written bytes is not the promised one.
    #[error("size mismatch: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// What the caller asked for.
        expected: u64,
        /// What was written.
        actual: u64,
    },
    /// The blob is larger than its reader allows.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// What the reader allows.
        limit: u64,
    },
    /// Somebody else is writing under the same reference.
    #[error("ingest {0:?} is already being written")]
    Busy(String),
    /// The file system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ContentError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// A content-addressed store in one directory. Clones share it.
#[derive(Debug, Clone)]
pub struct ContentStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    blobs: PathBuf,
    ingest: PathBuf,
    sources: PathBuf,
    /// Held while something is written below `sources`.
    noting: Mutex<()>,
    durability: Durability,
    /// References of the resumable ingests that are open now.
    active: Mutex<HashSet<String>>,
    /// Told whenever one of them closes.
    closed: Notify,
}

impl ContentStore {
    /// Opens the store in `root`, making it when missing, and removes what interrupted writers left behind.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the directories cannot be made or read.
    pub fn open(root: &Path, durability: Durability) -> Result<Self, ContentError> {
        let shared = Shared {
            blobs: root.join("blobs/sha256"),
            ingest: root.join("ingest"),
            sources: root.join("sources"),
            noting: Mutex::default(),
            durability,
            active: Mutex::new(HashSet::new()),
            closed: Notify::new(),
        };
        for dir in [&shared.blobs, &shared.ingest, &shared.sources] {
            fs::create_dir_all(dir).map_err(ContentError::io("create directory", dir))?;
        }
        let store = Self {
            shared: Arc::new(shared),
        };
        store.remove_stale_ingests()?;
        store.remove_stale_sources()?;
        Ok(store)
    }

    /// Where the blob is, or would be. The file is immutable: only read it.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.shared.blobs.join(digest.hex())
    }

    /// Whether the blob is there.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the file system does not answer.
    pub fn contains(&self, digest: &Digest) -> Result<bool, ContentError> {
        Ok(self.size(digest)?.is_some())
    }

    /// The blob's length, or `None` without the blob.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the file system does not answer.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        let path = self.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(ContentError::io("stat blob", &path)(err)),
        }
    }

    /// Opens the blob for reading. The reader stays valid when the blob is deleted meanwhile.
    ///
    /// # Errors
    /// [`ContentError::NotFound`] without the blob.
    pub fn reader(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        File::open(&path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => ContentError::NotFound(*digest),
            _ => ContentError::io("open blob", &path)(err),
        })
    }

    /// Reads a whole small blob (a manifest, a config).
    ///
    /// # Errors
    /// [`ContentError::TooLarge`] above `limit` bytes, [`ContentError::NotFound`] without the blob.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let file = self.reader(digest)?;
        let path = self.path(digest);
        let size = file.metadata().map_err(ContentError::io("stat blob", &path))?.len();
        if size > limit {
            return Err(ContentError::TooLarge {
                digest: *digest,
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(ContentError::io("read blob", &path))?;
        Ok(bytes)
    }

    /// Stores `bytes` and says what they are called.
    ///
    /// # Errors
    /// [`ContentError::Io`] when they cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobInfo, ContentError> {
        let digest = Digest::sha256(bytes);
        if self.size(&digest)? == Some(bytes.len() as u64) {
            return Ok(BlobInfo {
                digest,
                size: bytes.len() as u64,
            });
        }
        let mut ingest = self.ingest()?;
        let path = ingest.path().to_path_buf();
        io::Write::write_all(&mut ingest, bytes).map_err(ContentError::io("write", &path))?;
        ingest.commit(Some(&digest), Some(bytes.len() as u64))
    }

    /// Starts a new blob. Dropping the ingest removes what was written.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the file cannot be made.
    pub fn ingest(&self) -> Result<Ingest, ContentError> {
        Ingest::temporary(self.clone())
    }

    /// Starts, or goes on with, the blob written under `reference` (any text, such as the wanted digest). Dropping
    /// the ingest keeps what was written, also across restarts, for the next call with the same reference.
    ///
    /// # Errors
    /// [`ContentError::Busy`] while another ingest with this reference is open.
    pub fn resume(&self, reference: &str) -> Result<Ingest, ContentError> {
        Ingest::resumable(self.clone(), reference)
    }

    /// Ends when a resumable ingest closes next, whichever it is. Ask for this before [`ContentStore::resume`], and
    /// the end of what keeps that busy is not missed.
    pub fn closed(&self) -> Notified<'_> {
        self.shared.closed.notified()
    }

    /// Removes the blob; says whether it was there. Open readers keep it alive for themselves.
    ///
    /// # Errors
    /// [`ContentError::Io`] when it cannot be removed.
    pub fn delete(&self, digest: &Digest) -> Result<bool, ContentError> {
        let path = self.path(digest);
        self.forget_sources(digest)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(ContentError::io("delete blob", &path)(err)),
        }
    }

    /// All blobs, in no particular order. Foreign files in the directory are ignored.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<BlobInfo>, ContentError> {
        let dir = &self.shared.blobs;
        let mut blobs = Vec::new();
        for entry in fs::read_dir(dir).map_err(ContentError::io("list", dir))? {
            let entry = entry.map_err(ContentError::io("list", dir))?;
            let name = entry.file_name();
            let Some(digest) = name
                .to_str()
                .and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok())
            else {
                continue;
            };
            if let Some(size) = self.size(&digest)? {
                blobs.push(BlobInfo { digest, size });
            }
        }
        Ok(blobs)
    }

    /// Flushes everything committed so far, whatever the store's [`Durability`].
    ///
    /// # Errors
    /// [`ContentError::Io`] when the file system reports lost writes.
    pub fn sync(&self) -> Result<(), ContentError> {
        let dir = &self.shared.blobs;
        let sync = || rustix::fs::syncfs(File::open(dir)?).map_err(io::Error::from);
        sync().map_err(ContentError::io("sync", dir))
    }

    fn remove_stale_ingests(&self) -> Result<(), ContentError> {
        let dir = &self.shared.ingest;
        for entry in fs::read_dir(dir).map_err(ContentError::io("list", dir))? {
            let entry = entry.map_err(ContentError::io("list", dir))?;
            if !is_worth_keeping(&entry) {
                let path = entry.path();
                fs::remove_file(&path).map_err(ContentError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// Whether a file under `ingest/` is a download that may still go on.
fn is_worth_keeping(entry: &fs::DirEntry) -> bool {
    let resumable = entry.file_name().as_encoded_bytes().starts_with(b"ref-");
    let modified = entry.metadata().and_then(|meta| meta.modified());
    let age = modified.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    resumable && age.is_ok_and(|age| age < PARTIAL_LIFETIME)
}
