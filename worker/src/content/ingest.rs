//! One blob being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cairn_solver::Digest;

use super::{BlobInfo, ContentError, ContentStore, Durability, Sha256Hasher};

/// A blob being written: hashed on the way, visible only after [`Ingest::commit`].
#[derive(Debug)]
pub struct Ingest {
    store: ContentStore,
    file: File,
    path: PathBuf,
    hasher: Sha256Hasher,
    /// Set for ingests that outlive their writer.
    reference: Option<String>,
    committed: bool,
}

impl Ingest {
    pub(super) fn temporary(store: ContentStore) -> Result<Self, ContentError> {
        let dir = store.shared.ingest.clone();
        let (file, path) = tempfile::Builder::new()
            .prefix("tmp-")
            .tempfile_in(&dir)
            .and_then(|file| file.keep().map_err(|err| err.error))
            .map_err(ContentError::io("create a file in", &dir))?;
        Ok(Self {
            store,
            file,
            path,
            hasher: Sha256Hasher::new(),
            reference: None,
            committed: false,
        })
    }

    pub(super) fn resumable(store: ContentStore, reference: &str) -> Result<Self, ContentError> {
        if !store.shared.active.lock().insert(reference.to_owned()) {
            return Err(ContentError::Busy(reference.to_owned()));
        }
        let path = store
            .shared
            .ingest
            .join(format!("ref-{}", Digest::sha256(reference.as_bytes()).hex()));
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path);
        let opened = opened.and_then(|mut file| hash_existing(&mut file).map(|hasher| (file, hasher)));
        match opened {
            Ok((file, hasher)) => Ok(Self {
                store,
                file,
                path,
                hasher,
                reference: Some(reference.to_owned()),
                committed: false,
            }),
            Err(err) => {
                close(&store, reference);
                Err(ContentError::io("open ingest", &path)(err))
            }
        }
    }

    /// How many bytes the blob has so far: where a resumed download goes on.
    pub const fn offset(&self) -> u64 {
        self.hasher.length()
    }

    /// The digest of the bytes written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// The file being written, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Throws away what was written and starts over.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the file cannot be truncated.
    pub fn reset(&mut self) -> Result<(), ContentError> {
        let truncate = |file: &mut File| {
            file.set_len(0)?;
            io::Seek::rewind(file)
        };
        truncate(&mut self.file).map_err(ContentError::io("truncate", &self.path))?;
        self.hasher = Sha256Hasher::new();
        Ok(())
    }

    /// Makes the blob visible, after checking it against what is expected. What fails the check is removed.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`], [`ContentError::SizeMismatch`], or [`ContentError::Io`].
    pub fn commit(mut self, expected: Option<&Digest>, size: Option<u64>) -> Result<BlobInfo, ContentError> {
        let info = BlobInfo {
            digest: self.hasher.digest(),
            size: self.hasher.length(),
        };
        if let Err(mismatch) = check(&info, expected, size) {
            // Nothing in these bytes can be trusted: neither a retry nor a later run should go on from them.
            self.reference_done();
            return Err(mismatch);
        }
        let sync = self.store.shared.durability == Durability::Synced;
        if sync {
            self.file.sync_data().map_err(ContentError::io("sync", &self.path))?;
        }
        let target = self.store.path(&info.digest);
        fs::rename(&self.path, &target).map_err(ContentError::io("move blob to", &target))?;
        self.committed = true;
        if sync {
            let dir = &self.store.shared.blobs;
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(ContentError::io("sync", dir))?;
        }
        Ok(info)
    }

    /// Removes what was written, also for a resumable ingest.
    pub fn abort(mut self) {
        self.reference_done();
    }

    /// Turns a resumable ingest into one that is removed on drop.
    fn reference_done(&mut self) {
        if let Some(reference) = self.reference.take() {
            self.remove_file();
            self.committed = true;
            close(&self.store, &reference);
        }
    }

    fn remove_file(&self) {
        if let Err(err) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %err, "failed to remove an unfinished blob");
        }
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        match &self.reference {
            Some(reference) => close(&self.store, reference),
            None if !self.committed => self.remove_file(),
            None => {}
        }
    }
}

/// Lets others write under a reference.
fn close(store: &ContentStore, reference: &str) {
    store.shared.active.lock().remove(reference);
    store.shared.closed.notify_waiters();
}

fn check(info: &BlobInfo, expected: Option<&Digest>, size: Option<u64>) -> Result<(), ContentError> {
    if let Some(expected) = size.filter(|size| *size != info.size) {
        return Err(ContentError::SizeMismatch {
            expected,
            actual: info.size,
        });
    }
    match expected {
        Some(expected) if *expected != info.digest => Err(ContentError::DigestMismatch {
            expected: *expected,
            actual: info.digest,
        }),
        _ => Ok(()),
    }
}

/// Hashes what an earlier writer left in `file`, leaving it positioned at its end.
fn hash_existing(file: &mut File) -> io::Result<Sha256Hasher> {
    let mut hasher = Sha256Hasher::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hasher),
            n => hasher.update(&buf[..n]),
        }
    }
}
