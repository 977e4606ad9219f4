//! Records and blobs on disk.
//!
//! ```text
//! root/records/<hash of the id>   one record: a mark, the hash of what follows, the message
//! root/blobs/sha256/<hex>         logs, details of errors, traces, provenance
//! ```
//!
//! A record appears by one `rename`, after its blobs. Nothing waits for the disk: a file that a crash of the machine
//! left half written does not have the hash that it says, and is dropped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cairn_proto::control::{BuildHistoryRecord, Descriptor};
use cairn_solver::Digest;
use cairn_worker::content::{ContentStore, Durability};
use prost::Message as _;

use super::HistoryError;

/// Begins every record; another mark is another layout.
const MARK: &[u8; 8] = b"cairnbh1";
/// Bytes of a hash.
const HASH: usize = 32;
/// Ends the names of files that are not complete.
const INCOMPLETE: &str = "new";
/// Longest file that is read as a record.
const MAX_FILE: u64 = 4 << 20;

/// Records and blobs of a history.
pub(super) struct Store {
    records: PathBuf,
    pub(super) content: ContentStore,
}

impl Store {
    /// Opens the store in `root` and reads all records. What is of no use is removed.
    pub(super) fn open(root: &Path) -> Result<(Self, Vec<BuildHistoryRecord>), HistoryError> {
        let store = Self {
            records: root.join("records"),
            content: ContentStore::open(root, Durability::Relaxed)?,
        };
        fs::create_dir_all(&store.records).map_err(fail("create directory", &store.records))?;
        let mut records = Vec::new();
        for entry in fs::read_dir(&store.records).map_err(fail("list", &store.records))? {
            let path = entry.map_err(fail("list", &store.records))?.path();
            match store.read(&path) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropped a damaged record of a build");
                    fs::remove_file(&path).map_err(fail("remove", &path))?;
                }
            }
        }
        for record in &mut records {
            store.forget_missing_blobs(record)?;
        }
        let used: BTreeSet<Digest> = records.iter().flat_map(blobs).filter_map(digest_of).collect();
        let strays = store.content.list()?.into_iter().map(|blob| blob.digest);
        store.remove_blobs(&strays.filter(|digest| !used.contains(digest)).collect::<Vec<_>>());
        Ok((store, records))
    }

    fn read(&self, path: &Path) -> io::Result<BuildHistoryRecord> {
        let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        if path.extension().is_some_and(|extension| extension == INCOMPLETE) {
            return Err(invalid("it was not written to its end"));
        }
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        let body = bytes.strip_prefix(MARK).ok_or_else(|| invalid("it has no mark"))?;
        let (hash, message) = body.split_at_checked(HASH).ok_or_else(|| invalid("it is cut off"))?;
        if hash != Digest::sha256(message).as_bytes() {
            return Err(invalid("it is not what was written"));
        }
        let record = BuildHistoryRecord::decode(message).map_err(io::Error::other)?;
        if self.path(&record.r#ref) != path {
            return Err(invalid("it has the name of another"));
        }
        Ok(record)
    }

    /// Takes out of a record what a crash of the machine took.
    fn forget_missing_blobs(&self, record: &mut BuildHistoryRecord) -> Result<(), HistoryError> {
        for blob in [&mut record.logs, &mut record.external_error, &mut record.trace] {
            let Some(descriptor) = blob else { continue };
            if !self.is_there(descriptor)? {
                *blob = None;
            }
        }
        for result in record.result.iter_mut().chain(record.results.values_mut()) {
            let mut kept = Vec::new();
            for descriptor in std::mem::take(&mut result.attestations) {
                if self.is_there(&descriptor)? {
                    kept.push(descriptor);
                }
            }
            result.attestations = kept;
        }
        Ok(())
    }

    fn is_there(&self, descriptor: &Descriptor) -> Result<bool, HistoryError> {
        let size = match digest_of(descriptor) {
            Some(digest) => self.content.size(&digest)?,
            None => None,
        };
        Ok(size.and_then(|size| i64::try_from(size).ok()) == Some(descriptor.size))
    }

    /// Writes a record in the place of the one of the same id.
    pub(super) fn write(&self, record: &BuildHistoryRecord) -> Result<(), HistoryError> {
        let message = record.encode_to_vec();
        let hash = Digest::sha256(&message);
        let path = self.path(&record.r#ref);
        let incomplete = path.with_extension(INCOMPLETE);
        fs::write(&incomplete, [&MARK[..], hash.as_bytes(), &message].concat()).map_err(fail("write", &incomplete))?;
        fs::rename(&incomplete, &path).map_err(fail("rename", &incomplete))
    }

    /// Removes the record of that id; it need not be there.
    pub(super) fn remove(&self, id: &str) -> Result<(), HistoryError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Stores a blob.
    pub(super) fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, HistoryError> {
        let blob = self.content.put(bytes)?;
        Ok(descriptor(media_type, blob.digest, blob.size))
    }

    /// Removes blobs that nothing names any more.
    pub(super) fn remove_blobs(&self, digests: &[Digest]) {
        for digest in digests {
            if let Err(error) = self.content.delete(digest) {
                tracing::warn!(%error, "failed to remove what belonged to a record of a build");
            }
        }
    }

    /// Ids are whatever clients like; names of files are not.
    fn path(&self, id: &str) -> PathBuf {
        self.records.join(Digest::sha256(id.as_bytes()).hex())
    }
}

/// The blobs of a record that are kept beside it.
pub(super) fn blobs(record: &BuildHistoryRecord) -> impl Iterator<Item = &Descriptor> {
    let results = record.result.iter().chain(record.results.values());
    let attestations = results.flat_map(|result| &result.attestations);
    let single = record.logs.iter().chain(&record.external_error).chain(&record.trace);
    single.chain(attestations)
}

/// The digest in a descriptor.
pub(super) fn digest_of(descriptor: &Descriptor) -> Option<Digest> {
    Digest::parse(&descriptor.digest).ok()
}

/// A descriptor on the wire.
pub(super) fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    }
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HistoryError + use<> {
    let path = path.to_owned();
    move |source| HistoryError::Io { action, path, source }
}
