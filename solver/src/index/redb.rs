//! The index on disk: one redb file.
//!
//! Writes go to a thread of their own, which commits whatever has gathered in one transaction; until then they are
//! found in memory. redb's commits are atomic, so a crash loses at most the writes of the last moment.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use ::redb::{Database, ReadableDatabase, TableDefinition};
use parking_lot::Mutex;

use super::{CacheIndex, IndexError, Outputs};
use crate::Digest;
use crate::cache_key::{CacheKey, Preimage};

/// Key → JSON of the outputs.
const RESULTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("results.v1");
/// Key → JSON of the preimage.
const PREIMAGES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("preimages.v1");
/// Content key → sha256.
const CONTENTS: TableDefinition<'_, &[u8; 32], &[u8; 32]> = TableDefinition::new("contents.v1");

/// Most writes put into one transaction.
const MAX_BATCH: usize = 4096;
/// Most writes that may wait; further ones wait for room.
const QUEUE: usize = 16_384;

/// A [`super::CacheIndex`] on disk.
pub struct RedbIndex {
    database: Arc<Database>,
    pending: Arc<Mutex<Pending>>,
    writer: Option<(mpsc::SyncSender<Request>, JoinHandle<()>)>,
}

/// Writes that are not committed yet; each with the number of its request, so that a newer one is not dropped when an
/// older one is committed.
#[derive(Default)]
struct Pending {
    next: u64,
    results: HashMap<CacheKey, (u64, Option<(Outputs, Preimage)>)>,
    contents: HashMap<CacheKey, (u64, Digest)>,
}

enum Request {
    Write(Write),
    Flush(mpsc::SyncSender<()>),
}

struct Write {
    number: u64,
    key: CacheKey,
    change: Change,
}

enum Change {
    Results(Vec<u8>, Vec<u8>),
    Forget,
    Content(Digest),
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
        let database = match Database::create(path) {
            Ok(database) => database,
            Err(error @ ::redb::DatabaseError::DatabaseAlreadyOpen) => return Err(fail(error.to_string())),
            Err(error) if path.is_file() => {
                let aside = path.with_extension("damaged");
                tracing::warn!(path = %path.display(), %error, "cache index is damaged; beginning a new one");
                std::fs::rename(path, &aside).map_err(|rename| fail(format!("{error}; moving it aside: {rename}")))?;
                Database::create(path).map_err(|error| fail(error.to_string()))?
            }
            Err(error) => return Err(fail(error.to_string())),
        };
        make_tables(&database).map_err(|error| fail(error.to_string()))?;
        let database = Arc::new(database);
        let pending = Arc::<Mutex<Pending>>::default();
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("cache-index".to_owned())
            .spawn({
                let (database, pending) = (database.clone(), pending.clone());
                move || write_loop(&database, &pending, &receiver)
            })
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            database,
            pending,
            writer: Some((sender, thread)),
        })
    }

    fn send(&self, request: Request) -> Result<(), IndexError> {
        let Some((sender, _)) = &self.writer else {
            return Err(access("write", "the index is closed"));
        };
        sender
            .send(request)
            .map_err(|_| access("write", "the writer has ended"))
    }

    fn read<const N: usize, T>(
        &self,
        table: TableDefinition<'static, &'static [u8; 32], &'static [u8; N]>,
        key: &CacheKey,
        decode: impl FnOnce(&[u8; N]) -> T,
    ) -> Result<Option<T>, IndexError> {
        let read = || -> Result<Option<T>, ::redb::Error> {
            let table = self.database.begin_read()?.open_table(table)?;
            Ok(table.get(key.as_bytes())?.map(|value| decode(value.value())))
        };
        read().map_err(|error| access("read", error))
    }

    fn read_json<T: serde::de::DeserializeOwned>(
        &self,
        table: TableDefinition<'static, &'static [u8; 32], &'static [u8]>,
        key: &CacheKey,
    ) -> Result<Option<T>, IndexError> {
        let read = || -> Result<Option<Vec<u8>>, ::redb::Error> {
            let table = self.database.begin_read()?.open_table(table)?;
            Ok(table.get(key.as_bytes())?.map(|value| value.value().to_vec()))
        };
        let bytes = read().map_err(|error| access("read", error))?;
        // A record of another version is as good as none.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
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

fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, IndexError> {
    serde_json::to_vec(value).map_err(|error| access("encode a record", error))
}

impl CacheIndex for RedbIndex {
    fn results(&self, key: &CacheKey) -> Result<Option<Outputs>, IndexError> {
        if let Some((_, change)) = self.pending.lock().results.get(key) {
            return Ok(change.as_ref().map(|(outputs, _)| outputs.clone()));
        }
        self.read_json(RESULTS, key)
    }

    fn record_results(&self, key: &CacheKey, preimage: &Preimage, outputs: &Outputs) -> Result<(), IndexError> {
        let change = Change::Results(encode(outputs)?, encode(preimage)?);
        let number = {
            let mut pending = self.pending.lock();
            pending.next += 1;
            let number = pending.next;
            pending
                .results
                .insert(*key, (number, Some((outputs.clone(), preimage.clone()))));
            number
        };
        self.send(Request::Write(Write {
            number,
            key: *key,
            change,
        }))
    }

    fn preimage(&self, key: &CacheKey) -> Result<Option<Preimage>, IndexError> {
        if let Some((_, change)) = self.pending.lock().results.get(key) {
            return Ok(change.as_ref().map(|(_, preimage)| preimage.clone()));
        }
        self.read_json(PREIMAGES, key)
    }

    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError> {
        if let Some((_, digest)) = self.pending.lock().contents.get(key) {
            return Ok(Some(*digest));
        }
        self.read(CONTENTS, key, |hash| Digest::from_sha256(*hash))
    }

    fn record_content(&self, key: &CacheKey, digest: &Digest) -> Result<(), IndexError> {
        let number = {
            let mut pending = self.pending.lock();
            pending.next += 1;
            let number = pending.next;
            pending.contents.insert(*key, (number, *digest));
            number
        };
        self.send(Request::Write(Write {
            number,
            key: *key,
            change: Change::Content(*digest),
        }))
    }

    fn forget(&self, key: &CacheKey) -> Result<(), IndexError> {
        let number = {
            let mut pending = self.pending.lock();
            pending.next += 1;
            let number = pending.next;
            pending.results.insert(*key, (number, None));
            number
        };
        self.send(Request::Write(Write {
            number,
            key: *key,
            change: Change::Forget,
        }))
    }

    fn flush(&self) -> Result<(), IndexError> {
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Request::Flush(done))?;
        wait.recv().map_err(|_| access("flush", "the writer has ended"))
    }
}

impl Drop for RedbIndex {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.writer.take() {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the writer of the cache index panicked");
            }
        }
    }
}

fn write_loop(database: &Database, pending: &Mutex<Pending>, requests: &mpsc::Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let mut writes = Vec::new();
        let mut flushes = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Write(write) => writes.push(write),
                Request::Flush(done) => flushes.push(done),
            }
            next = if writes.len() < MAX_BATCH {
                requests.try_recv().ok()
            } else {
                None
            };
        }
        // A failed commit (no room on the disk) leaves the writes in memory: they serve this process at least.
        match commit(database, &writes) {
            Ok(()) => settle(pending, &writes),
            Err(error) => tracing::error!(%error, writes = writes.len(), "failed to write the cache index"),
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

fn commit(database: &Database, writes: &[Write]) -> Result<(), ::redb::Error> {
    if writes.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    {
        let mut results = transaction.open_table(RESULTS)?;
        let mut preimages = transaction.open_table(PREIMAGES)?;
        let mut contents = transaction.open_table(CONTENTS)?;
        for write in writes {
            let key = write.key.as_bytes();
            match &write.change {
                Change::Results(outputs, preimage) => {
                    results.insert(key, outputs.as_slice())?;
                    preimages.insert(key, preimage.as_slice())?;
                }
                Change::Forget => {
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

fn settle(pending: &Mutex<Pending>, writes: &[Write]) {
    let mut pending = pending.lock();
    for write in writes {
        match write.change {
            Change::Results(..) | Change::Forget => {
                if pending
                    .results
                    .get(&write.key)
                    .is_some_and(|(number, _)| *number == write.number)
                {
                    pending.results.remove(&write.key);
                }
            }
            Change::Content(_) => {
                if pending
                    .contents
                    .get(&write.key)
                    .is_some_and(|(number, _)| *number == write.number)
                {
                    pending.contents.remove(&write.key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryIndex;
    use super::*;
    use crate::worker::ResultId;

    fn key(n: u8) -> CacheKey {
        CacheKey::from_bytes([n; 32])
    }

    /// What every index does.
    fn conformance(index: &dyn CacheIndex) {
        let preimage = Preimage {
            kind: "exec".to_owned(),
            ..Preimage::default()
        };
        let outputs = vec![Some(ResultId::new("a")), None];
        assert_eq!(index.results(&key(1)).unwrap(), None);
        index.record_results(&key(1), &preimage, &outputs).unwrap();
        assert_eq!(index.results(&key(1)).unwrap(), Some(outputs.clone()));
        assert_eq!(index.preimage(&key(1)).unwrap(), Some(preimage.clone()));
        let newer = vec![Some(ResultId::new("b"))];
        index.record_results(&key(1), &preimage, &newer).unwrap();
        index.flush().unwrap();
        assert_eq!(index.results(&key(1)).unwrap(), Some(newer));
        index.forget(&key(1)).unwrap();
        assert_eq!(index.results(&key(1)).unwrap(), None);
        index.flush().unwrap();
        assert_eq!(index.results(&key(1)).unwrap(), None);
        let digest = Digest::sha256(b"x");
        assert_eq!(index.content(&key(2)).unwrap(), None);
        index.record_content(&key(2), &digest).unwrap();
        assert_eq!(index.content(&key(2)).unwrap(), Some(digest));
        index.flush().unwrap();
        assert_eq!(index.content(&key(2)).unwrap(), Some(digest));
    }

    #[test]
    fn both_indexes_conform() {
        conformance(&MemoryIndex::default());
        let dir = tempfile::tempdir().unwrap();
        conformance(&RedbIndex::open(&dir.path().join("index.redb")).unwrap());
    }

    #[test]
    fn what_was_flushed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let outputs = vec![Some(ResultId::new("r"))];
        {
            let index = RedbIndex::open(&path).unwrap();
            index.record_results(&key(1), &Preimage::default(), &outputs).unwrap();
        }
        let index = RedbIndex::open(&path).unwrap();
        assert_eq!(index.results(&key(1)).unwrap(), Some(outputs));
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let index = RedbIndex::open(&path).unwrap();
        assert_eq!(index.results(&key(1)).unwrap(), None);
        assert!(path.with_extension("damaged").is_file());
    }

    #[test]
    fn a_file_in_use_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let _first = RedbIndex::open(&path).unwrap();
        assert!(RedbIndex::open(&path).is_err());
    }
}
