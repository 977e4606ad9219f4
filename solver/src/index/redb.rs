//! The index on disk: one redb file.
//!
//! Writes gather in memory, where reads find them at once; a thread of its own commits whatever has gathered in one
//! transaction. redb's commits are atomic, so a crash loses at most the writes of the last moment. What cannot be
//! committed (no room on the disk) is kept, up to a limit, and tried again with a later write. redb refuses a database
//! after a failed write, so it is opened anew for that.

mod pending;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::redb::{Database, ReadableDatabase, TableDefinition};
use parking_lot::RwLock;

use self::pending::{Batch, Change, Pending};
use super::{CacheIndex, IndexError, Outputs};
use crate::Digest;
use crate::cache_key::{CacheKey, Preimage};

/// Key → JSON of the outputs.
const RESULTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("results.v1");
/// Key → JSON of the preimage.
const PREIMAGES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("preimages.v1");
/// Content key → sha256.
const CONTENTS: TableDefinition<'_, &[u8; 32], &[u8; 32]> = TableDefinition::new("contents.v1");

/// A [`super::CacheIndex`] on disk.
pub struct RedbIndex {
    file: Arc<File>,
    pending: Arc<Pending>,
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
        *database = Some(open_database(&self.path).map_err(Refused::into_message)?);
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
        let database = match open_database(path) {
            Ok(database) => database,
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
            writer: Some(writer),
        })
    }

    fn read<T>(
        &self,
        table: TableDefinition<'static, &'static [u8; 32], &'static [u8]>,
        key: &CacheKey,
    ) -> Result<Option<T>, IndexError>
    where
        T: serde::de::DeserializeOwned,
    {
        let read = |database: &Database| -> Result<Option<Vec<u8>>, ::redb::Error> {
            let table = database.begin_read()?.open_table(table)?;
            Ok(table.get(key.as_bytes())?.map(|value| value.value().to_vec()))
        };
        let bytes = self.file.with(read).map_err(|error| access("read a record", error))?;
        // A record of another version is as good as none.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
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

/// Opens a file and makes its tables. redb checks much of a file by assertions, so a panic means damage too.
fn open_database(path: &Path) -> Result<Database, Refused> {
    let open = || -> Result<Database, Refused> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| match error {
                ::redb::DatabaseError::DatabaseAlreadyOpen => Refused::InUse(error.to_string()),
                other => Refused::Damaged(other.to_string()),
            })?;
        make_tables(&database).map_err(|error| Refused::Damaged(error.to_string()))?;
        Ok(database)
    };
    std::panic::catch_unwind(open).unwrap_or_else(|_| Err(Refused::Damaged("the file is inconsistent".to_owned())))
}

fn make_tables(database: &Database) -> Result<(), ::redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(RESULTS)?;
    transaction.open_table(PREIMAGES)?;
    transaction.open_table(CONTENTS)?;
    transaction.commit()?;
    Ok(())
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
            Some(change) => Ok(change.map(|record| record.0.clone())),
            None => self.read(RESULTS, key),
        }
    }

    fn record_results(&self, key: &CacheKey, preimage: &Preimage, outputs: &Outputs) -> Result<(), IndexError> {
        let record = Arc::new((outputs.clone(), preimage.clone()));
        self.pending.put(*key, Change::Results(Some(record)));
        Ok(())
    }

    fn preimage(&self, key: &CacheKey) -> Result<Option<Preimage>, IndexError> {
        match self.pending.results(key) {
            Some(change) => Ok(change.map(|record| record.1.clone())),
            None => self.read(PREIMAGES, key),
        }
    }

    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError> {
        if let Some(digest) = self.pending.content(key) {
            return Ok(Some(digest));
        }
        let read = |database: &Database| -> Result<Option<Digest>, ::redb::Error> {
            let table = database.begin_read()?.open_table(CONTENTS)?;
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

    fn forget(&self, key: &CacheKey) -> Result<(), IndexError> {
        self.pending.put(*key, Change::Results(None));
        Ok(())
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
                .and_then(|()| file.with(|database| commit(database, &batch))),
            None => file.with(|database| commit(database, &batch)),
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

fn commit(database: &Database, batch: &Batch) -> Result<(), Box<dyn std::error::Error>> {
    let transaction = database.begin_write()?;
    {
        let mut results = transaction.open_table(RESULTS)?;
        let mut preimages = transaction.open_table(PREIMAGES)?;
        let mut contents = transaction.open_table(CONTENTS)?;
        for (key, change) in batch.changes() {
            let key = key.as_bytes();
            match change {
                Change::Results(Some(record)) => {
                    results.insert(key, serde_json::to_vec(&record.0)?.as_slice())?;
                    preimages.insert(key, serde_json::to_vec(&record.1)?.as_slice())?;
                }
                Change::Results(None) => {
                    results.remove(key)?;
                    preimages.remove(key)?;
                }
                Change::Content(digest) => {
                    contents.insert(key, digest.as_bytes())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
