//! The index on disk: one redb file.
//!
//! Writes gather in memory, where reads find them at once; a thread of its own commits whatever has gathered in one
//! transaction. redb's commits are atomic, so a crash loses at most the writes of the last moment. What cannot be
//! committed (no room on the disk) is kept, up to a limit, and tried again with a later write. redb refuses a database
//! after a failed write, so it is opened anew for that.

mod pending;
mod tables;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::redb::{Database, ReadableDatabase, TableDefinition};
use parking_lot::RwLock;

use self::pending::{Change, Pending, Recorded};
use super::history::{BuildRecord, BuildSummary, Known, Removal, SiteId, SiteKey, StepRecord};
use super::{CacheIndex, IndexError, Outputs};
use crate::Digest;
use crate::cache_key::CacheKey;

/// A [`super::CacheIndex`] on disk.
pub struct RedbIndex {
    file: Arc<File>,
    pending: Arc<Pending>,
    /// Number of the last build.
    last_build: AtomicU64,
    writer: Option<JoinHandle<()>>,
}

/// Memory for pages of the file; the system caches the file besides.
const CACHE_BYTES: usize = 4 << 20;
/// Shortest time between two attempts to write after one failed: opening anew may have to read the whole file.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The file, open unless writing to it failed and it could not be opened again since.
struct File {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl File {
    fn with<T, E>(&self, work: impl FnOnce(&Database) -> Result<T, E>) -> Result<T, String>
    where
        E: ToString,
    {
        let database = self.database.read();
        let database = database.as_ref().ok_or("the file is closed after a failed write")?;
        work(database).map_err(|error| error.to_string())
    }

    fn reopen(&self) -> Result<(), String> {
        let mut database = self.database.write();
        // Closed first: two cannot have it open.
        *database = None;
        let (opened, _) = open_database(&self.path).map_err(Refused::into_message)?;
        *database = Some(opened);
        Ok(())
    }
}

impl RedbIndex {
    /// Opens the index at `path`, or makes it. A damaged file is put aside and a new one begun: a cache can be
    /// rebuilt, a daemon that does not start helps nobody.
    ///
    /// # Errors
    /// [`IndexError::Open`] if the file can neither be opened nor made, or is in use.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let fail = |message: String| IndexError::Open {
            path: path.display().to_string(),
            message,
        };
        let (database, last_build) = match open_database(path) {
            Ok(opened) => opened,
            Err(Refused::InUse(message)) => return Err(fail(message)),
            Err(Refused::Damaged(message)) if path.is_file() => {
                let aside = path.with_extension("damaged");
                tracing::warn!(path = %path.display(), error = message, "cache index is damaged; beginning a new one");
                std::fs::rename(path, &aside)
                    .map_err(|rename| fail(format!("{message}; moving it aside: {rename}")))?;
                open_database(path).map_err(|refused| fail(refused.into_message()))?
            }
            Err(Refused::Damaged(message)) => return Err(fail(message)),
        };
        let file = Arc::new(File {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
        });
        let pending = Arc::<Pending>::default();
        let writer = std::thread::Builder::new()
            .name("cache-index".to_owned())
            .spawn({
                let (file, pending) = (file.clone(), pending.clone());
                move || write_loop(&file, &pending)
            })
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            file,
            pending,
            last_build: AtomicU64::new(last_build),
            writer: Some(writer),
        })
    }

    /// Reads one row; a row that cannot be understood is as good as none.
    fn read<K, T>(
        &self,
        table: TableDefinition<'static, K, &'static [u8]>,
        key: K::SelfType<'_>,
    ) -> Result<Option<T>, IndexError>
    where
        K: ::redb::Key + 'static,
        T: serde::de::DeserializeOwned,
    {
        let read = |database: &Database| -> Result<Option<T>, ::redb::Error> {
            let row = database.begin_read()?.open_table(table)?.get(&key)?;
            Ok(row.and_then(|row| serde_json::from_slice(row.value()).ok()))
        };
        self.file.with(read).map_err(|error| access("read a record", error))
    }
}

/// Why a database file cannot be opened.
enum Refused {
    InUse(String),
    Damaged(String),
}

impl Refused {
    fn into_message(self) -> String {
        match self {
            Self::InUse(message) | Self::Damaged(message) => message,
        }
    }
}

/// Opens a file and makes its tables; tells the number of the last build in there. redb checks much of a file by assertions, so a panic means damage too.
fn open_database(path: &Path) -> Result<(Database, u64), Refused> {
    let open = || -> Result<(Database, u64), Refused> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| match error {
                ::redb::DatabaseError::DatabaseAlreadyOpen => Refused::InUse(error.to_string()),
                other => Refused::Damaged(other.to_string()),
            })?;
        let last_build = tables::prepare(&database).map_err(|error| Refused::Damaged(error.to_string()))?;
        Ok((database, last_build))
    };
    std::panic::catch_unwind(open).unwrap_or_else(|_| Err(Refused::Damaged("the file is inconsistent".to_owned())))
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
            None => self.read(tables::RESULTS, key.as_bytes()),
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
            Some(Recorded::Gone(_)) | None => self.read(tables::KNOWN, key.as_bytes()),
        }
    }

    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError> {
        if let Some(digest) = self.pending.content(key) {
            return Ok(Some(digest));
        }
        let read = |database: &Database| -> Result<Option<Digest>, ::redb::Error> {
            let table = database.begin_read()?.open_table(tables::CONTENTS)?;
            Ok(table
                .get(key.as_bytes())?
                .map(|hash| Digest::from_sha256(*hash.value())))
        };
        self.file
            .with(read)
            .map_err(|error| access("read a content digest", error))
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
        let read = |database: &Database| -> Result<Option<Removal>, ::redb::Error> {
            let table = database.begin_read()?.open_table(tables::GONE)?;
            Ok(table
                .get(key.as_bytes())?
                .map(|row| tables::decode_removal(row.value())))
        };
        self.file.with(read).map_err(|error| access("read a record", error))
    }

    fn scan(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<(CacheKey, Outputs)>, IndexError> {
        let read = |database: &Database| -> Result<Vec<(CacheKey, Outputs)>, ::redb::Error> {
            let table = database.begin_read()?.open_table(tables::RESULTS)?;
            let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes()));
            let mut found = Vec::new();
            for row in table.range::<&[u8; 32]>((from, Bound::Unbounded))?.take(limit) {
                let (key, json) = row?;
                // What cannot be understood has no outputs that anything could need.
                let outputs = serde_json::from_slice(json.value()).unwrap_or_default();
                found.push((CacheKey::from_bytes(*key.value()), outputs));
            }
            Ok(found)
        };
        self.file.with(read).map_err(|error| access("list records", error))
    }

    fn record_build(&self, build: BuildRecord) -> Result<(), IndexError> {
        let number = self.last_build.fetch_add(1, Ordering::Relaxed) + 1;
        self.pending.put_build(number, build);
        Ok(())
    }

    fn builds(&self) -> Result<Vec<BuildSummary>, IndexError> {
        self.file
            .with(tables::builds)
            .map_err(|error| access("list builds", error))
    }

    fn steps(&self, number: u64) -> Result<Vec<StepRecord>, IndexError> {
        Ok(self.read(tables::STEPS, number)?.unwrap_or_default())
    }

    fn site(&self, site: &SiteId) -> Result<Vec<SiteKey>, IndexError> {
        let read = |database: &Database| -> Result<Vec<SiteKey>, ::redb::Error> {
            let table = database.begin_read()?.open_table(tables::SITES)?;
            let row = table.get(&site.0)?;
            Ok(row.map(|row| tables::decode_site(row.value())).unwrap_or_default())
        };
        self.file.with(read).map_err(|error| access("read a site", error))
    }

    fn repair(&self) -> Result<usize, IndexError> {
        self.file
            .with(tables::repair)
            .map_err(|error| access("repair the index", error))
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

fn write_loop(file: &File, pending: &Pending) {
    let _ended = pending.end_on_drop();
    let mut failed: Option<(Instant, String)> = None;
    while let Some(batch) = pending.next() {
        let outcome = match &failed {
            Some((when, error)) if when.elapsed() < RETRY_AFTER => Err(error.clone()),
            Some(_) => file
                .reopen()
                .and_then(|()| file.with(|database| tables::commit(database, &batch))),
            None => file.with(|database| tables::commit(database, &batch)),
        };
        match &outcome {
            Ok(()) => failed = None,
            Err(error) if failed.as_ref().is_none_or(|(when, _)| when.elapsed() >= RETRY_AFTER) => {
                tracing::error!(error, writes = batch.len(), "failed to write the cache index");
                failed = Some((Instant::now(), error.clone()));
            }
            Err(_) => {}
        }
        pending.settle(&batch, outcome);
    }
}

#[cfg(test)]
mod tests;
