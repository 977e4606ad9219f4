//! The index on disk: one redb file.
//!
//! Reads share a snapshot of the file, which is made anew after each commit. Rows are in a form of their own ([`codec`]).
//! The index is bounded: each commit takes the least recently used records out while there are too many ([`uses`]). A
//! file that is mostly empty is written anew beside itself while it is used ([`compact`]).
//!
//! Writes gather in memory, where reads find them at once; a thread of its own commits whatever has gathered in one
//! transaction. redb's commits are atomic, so a crash loses at most the writes of the last moment. What cannot be
//! committed (no room on the disk) is kept, up to a limit, and tried again with a later write. redb refuses a database
//! after a failed write, so it is opened anew for that.

mod codec;
mod compact;
mod disk;
mod file;
mod pending;
mod repair;
mod tables;
mod uses;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use self::disk::{Disk, FileSystem, directory};
use self::file::{File, Snapshot};
use self::pending::{Change, Pending, Recorded};
use self::uses::Uses;
use self::writer::Writer;
use super::history::{BuildRecord, BuildSummary, Known, Removal, SiteId, SiteKey, StepRecord};
use super::{CacheIndex, IndexError, Outputs};
use crate::Digest;
use crate::cache_key::CacheKey;

/// A [`super::CacheIndex`] on disk.
pub struct RedbIndex {
    file: Arc<File>,
    pending: Arc<Pending>,
    uses: Arc<Uses>,
    /// Number of the last build.
    last_build: AtomicU64,
    writer: Option<JoinHandle<()>>,
}

/// What an index on disk may grow to. Beyond that the records go that were used least recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLimits {
    /// Keys of which it is remembered what went into them, with results or without.
    pub records: u64,
    /// Bytes of the file. What is taken out makes room in it, but does not shrink it at once.
    pub bytes: u64,
}

impl Default for IndexLimits {
    fn default() -> Self {
        Self {
            records: 4_000_000,
            bytes: 8 << 30,
        }
    }
}

impl IndexLimits {
    /// The limits for a file in a directory: the default ones, but no more than this share of its disk.
    fn for_directory(dir: &Path) -> Self {
        const SHARE: u64 = 20;
        let limits = Self::default();
        let disk = rustix::fs::statvfs(dir).map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        Self {
            bytes: limits.bytes.min(disk / SHARE),
            ..limits
        }
    }
}

impl RedbIndex {
    /// Opens the index at `path`, or makes it. A damaged file is put aside and a new one begun: a cache can be
    /// rebuilt, a daemon that does not start helps nobody. It grows to a small share of its disk.
    ///
    /// # Errors
    /// [`IndexError::Open`] if the file can neither be opened nor made, or is in use.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_with(path, IndexLimits::for_directory(directory(path)))
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`RedbIndex::open`].
    pub fn open_with(path: &Path, limits: IndexLimits) -> Result<Self, IndexError> {
        let disk: Arc<dyn Disk> = Arc::new(FileSystem);
        Self::open_on(&disk, path, limits)
    }

    fn open_on(disk: &Arc<dyn Disk>, path: &Path, limits: IndexLimits) -> Result<Self, IndexError> {
        let fail = |message: String| IndexError::Open {
            path: path.display().to_string(),
            message,
        };
        let (file, last) = File::open(disk, path).map_err(|refused| fail(refused.into_message()))?;
        let file = Arc::new(file);
        let pending = Arc::<Pending>::default();
        let uses = Arc::<Uses>::default();
        let writer = Writer::new(file.clone(), pending.clone(), uses.clone(), limits);
        let writer = std::thread::Builder::new()
            .name("cache-index".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            file,
            pending,
            uses,
            last_build: AtomicU64::new(last.build),
            writer: Some(writer),
        })
    }

    fn read<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Snapshot) -> Result<T, ::redb::Error>,
    ) -> Result<T, IndexError> {
        self.file.read(work).map_err(|error| {
            if self.file.is_suspect() {
                self.pending.wake();
            }
            access(what, error)
        })
    }
}

fn access(what: &'static str, message: impl ToString) -> IndexError {
    IndexError::Access {
        what,
        message: message.to_string(),
    }
}

impl CacheIndex for RedbIndex {
    fn results(&self, key: &CacheKey) -> Result<Option<Outputs>, IndexError> {
        match self.pending.results(key) {
            Some(Recorded::Made(outputs, _)) => Ok(Some(Outputs::clone(&outputs))),
            Some(Recorded::Gone(_)) => Ok(None),
            None => {
                let found = self.read("read a record", |file| {
                    let row = file.results.get(key.as_bytes())?;
                    // A row that cannot be understood is as good as none.
                    Ok(row.and_then(|row| codec::decode_results(row.value())))
                })?;
                if found.is_some() && self.uses.note(key, &self.file.last_known) {
                    self.pending.wake();
                }
                Ok(found)
            }
        }
    }

    fn record_results(&self, key: &CacheKey, known: &Arc<Known>, outputs: &Outputs) -> Result<(), IndexError> {
        let record = Recorded::Made(Arc::new(outputs.clone()), known.clone());
        self.pending.put(*key, Change::Results(record));
        Ok(())
    }

    fn known(&self, key: &CacheKey) -> Result<Option<Known>, IndexError> {
        match self.pending.results(key) {
            Some(Recorded::Made(_, known)) => Ok(Some(Known::clone(&known))),
            Some(Recorded::Gone(_)) | None => self.read("read what went into a key", |file| {
                let key = key.as_bytes();
                let Some(number) = file.known_number(key)? else {
                    return Ok(None);
                };
                let row = file.known.get(number)?;
                let row = row.filter(|row| codec::known_key(row.value()).as_ref() == Some(key));
                Ok(row.and_then(|row| codec::decode_known(row.value())))
            }),
        }
    }

    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError> {
        if let Some(digest) = self.pending.content(key) {
            return Ok(Some(digest));
        }
        self.read("read a content digest", |file| {
            let row = file.contents.get(key.as_bytes())?;
            Ok(row.and_then(|row| codec::decode_content(key, row.value())))
        })
    }

    fn record_content(&self, key: &CacheKey, digest: &Digest) -> Result<(), IndexError> {
        self.pending.put(*key, Change::Content(*digest));
        Ok(())
    }

    fn forget(&self, key: &CacheKey, removal: Removal) -> Result<(), IndexError> {
        self.pending.put(*key, Change::Results(Recorded::Gone(removal)));
        Ok(())
    }

    fn removal(&self, key: &CacheKey) -> Result<Option<Removal>, IndexError> {
        match self.pending.results(key) {
            Some(Recorded::Made(..)) => return Ok(None),
            Some(Recorded::Gone(removal)) => return Ok(Some(removal)),
            None => {}
        }
        self.read("read a record", |file| {
            let Some(row) = file.gone.get(key.as_bytes())? else {
                return Ok(None);
            };
            // A compaction may leave both behind.
            let is_there = file.results.get(key.as_bytes())?.is_some();
            Ok((!is_there).then(|| tables::decode_removal(row.value())))
        })
    }

    fn scan(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<(CacheKey, Outputs)>, IndexError> {
        self.read("list records", |file| {
            let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes()));
            let mut found = Vec::new();
            for row in file.results.range::<&[u8; 32]>((from, Bound::Unbounded))?.take(limit) {
                let (key, row) = row?;
                // What cannot be understood has no outputs that anything could need.
                let outputs = codec::decode_results(row.value()).unwrap_or_default();
                found.push((CacheKey::from_bytes(*key.value()), outputs));
            }
            Ok(found)
        })
    }

    fn record_build(&self, build: BuildRecord) -> Result<(), IndexError> {
        let number = self.last_build.fetch_add(1, Ordering::Relaxed) + 1;
        self.pending.put_build(number, build);
        Ok(())
    }

    fn builds(&self) -> Result<Vec<BuildSummary>, IndexError> {
        self.read("list builds", |file| tables::builds(&file.builds))
    }

    fn steps(&self, number: u64) -> Result<Vec<StepRecord>, IndexError> {
        self.read("read the steps of a build", |file| {
            let row = file.steps.get(number)?;
            Ok(row
                .and_then(|row| serde_json::from_slice(row.value()).ok())
                .unwrap_or_default())
        })
    }

    fn site(&self, site: &SiteId) -> Result<Vec<SiteKey>, IndexError> {
        self.read("read a site", |file| {
            let row = file.sites.get(&site.0)?;
            Ok(row.map(|row| tables::decode_site(row.value())).unwrap_or_default())
        })
    }

    fn repair(&self) -> Result<usize, IndexError> {
        let repaired = repair::repair(&self.file).map_err(|error| access("repair the index", error))?;
        if compact::is_worth_it(self.file.size(), repaired.live) {
            self.pending.ask_compaction();
        }
        Ok(repaired.removed)
    }

    fn is_settled(&self) -> bool {
        self.pending.is_settled()
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.pending
            .flush()
            .map_err(|message| access("write the index", message))
    }
}

impl Drop for RedbIndex {
    fn drop(&mut self) {
        self.pending.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the cache index panicked");
        }
    }
}

#[cfg(test)]
mod tests;
