//! The records on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TransactionError, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::LayerError;
use super::record::{LayerId, LayerRecord};

/// Version of the records and of the directory tree beside them. Another one means: start anew.
pub(super) const VERSION: u64 = 1;
/// Memory for pages of the database; records are small and rarely read twice.
const CACHE_BYTES: usize = 4 << 20;

/// How long changes that may wait for the disk do wait, for others to go with them.
const SETTLE_DELAY: Duration = Duration::from_millis(20);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// A kind of record.
pub(super) type Table = TableDefinition<'static, &'static str, &'static [u8]>;
/// [`super::LayerRecord`] by layer.
pub(super) const LAYERS: Table = TableDefinition::new("layers");
/// [`super::ResultRecord`] by result.
pub(super) const RESULTS: Table = TableDefinition::new("results");
/// Cache directory records by directory name.
pub(super) const CACHE_DIRS: Table = TableDefinition::new("cache_dirs");

/// The database of records. Calls block on the disk for a moment.
///
/// After a failed write (a full disk) the database refuses everything until it is opened anew, which the next call does.
/// What was not on disk by then is forgotten, as after a crash.
pub(super) struct Metadata {
    path: PathBuf,
    /// `None` after it could not be opened anew.
    db: RwLock<Option<Database>>,
    waiting: Mutex<Waiting>,
    settling: Mutex<()>,
    /// Something in `waiting` changed.
    changed: Condvar,
    /// Uses not written down yet: they go with what is written to disk next.
    touched: Mutex<HashMap<LayerId, (Timestamp, u64)>>,
}

/// Changes that everybody sees, but the disk does not have yet.
#[derive(Default)]
struct Waiting {
    are_there: bool,
    is_closing: bool,
}

/// Changes that become visible together, or not at all.
pub(super) struct Changes {
    transaction: WriteTransaction,
}

impl Metadata {
    /// Opens or makes the database; `None` if it is of another version or damaged.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, LayerError> {
        let db = match open_database(path) {
            Ok(db) => db,
            Err(redb::DatabaseError::UpgradeRequired(_)) => return Ok(None),
            Err(redb::DatabaseError::Storage(StorageError::Corrupted(_))) => return Ok(None),
            Err(error) => return Err(LayerError::db("open")(error)),
        };
        let metadata = Self {
            path: path.to_owned(),
            db: RwLock::new(Some(db)),
            waiting: Mutex::default(),
            settling: Mutex::default(),
            changed: Condvar::new(),
            touched: Mutex::default(),
        };
        let transaction = metadata.begin("write", Database::begin_write)?;
        let known = {
            let mut table = transaction.open_table(META).map_err(LayerError::db("read"))?;
            let version = table.get("version").map_err(LayerError::db("read"))?.map(|v| v.value());
            if version.is_none() {
                table.insert("version", VERSION).map_err(LayerError::db("write"))?;
            }
            version.is_none_or(|v| v == VERSION)
        };
        for table in [LAYERS, RESULTS, CACHE_DIRS] {
            transaction.open_table(table).map_err(LayerError::db("write"))?;
        }
        transaction.commit().map_err(LayerError::db("write"))?;
        Ok(known.then_some(metadata))
    }

    /// Begins a transaction, on a database opened anew if need be.
    fn begin<T>(
        &self,
        doing: &'static str,
        begin: impl Fn(&Database) -> Result<T, TransactionError>,
    ) -> Result<T, LayerError> {
        let attempt = |db: RwLockReadGuard<'_, Option<Database>>| match db.as_ref() {
            Some(db) => begin(db),
            None => Err(TransactionError::Storage(StorageError::PreviousIo)),
        };
        match attempt(self.db.read()) {
            Err(TransactionError::Storage(StorageError::PreviousIo)) => {}
            done => return done.map_err(LayerError::db(doing)),
        }
        {
            let mut db = self.db.write();
            // Closed first: two cannot have it open.
            *db = None;
            *db = Some(open_database(&self.path).map_err(LayerError::db("open"))?);
        }
        attempt(self.db.read()).map_err(LayerError::db(doing))
    }

    /// One record.
    pub(super) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, LayerError> {
        let transaction: ReadTransaction = self.begin("read", ReadableDatabase::begin_read)?;
        let table = transaction.open_table(table).map_err(LayerError::db("read"))?;
        let found = table.get(key).map_err(LayerError::db("read"))?;
        found.map(|bytes| parse(key, bytes.value())).transpose()
    }

    /// Every record of a table, by key.
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, LayerError> {
        let transaction: ReadTransaction = self.begin("read", ReadableDatabase::begin_read)?;
        let table = transaction.open_table(table).map_err(LayerError::db("read"))?;
        let mut all = Vec::new();
        for entry in table.iter().map_err(LayerError::db("read"))? {
            let (key, value) = entry.map_err(LayerError::db("read"))?;
            all.push((key.value().to_owned(), parse(key.value(), value.value())?));
        }
        Ok(all)
    }

    /// Applies `change`, durably, unless it fails. What waits for the disk goes with it.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Changes) -> Result<T, LayerError>) -> Result<T, LayerError> {
        let touched = std::mem::take(&mut *self.touched.lock());
        self.commit(Durability::Immediate, |changes| {
            write_touched(changes, touched)?;
            change(changes)
        })
    }

    /// Applies `change` unless it fails. Everybody sees it at once; the disk has it a moment later, when
    /// [`Metadata::keep_settling`] gets to it. For what a crash may undo: a layer that is not recorded is garbage, and
    /// a result that is not recorded is made again.
    pub(super) fn write_soon<T>(
        &self,
        change: impl FnOnce(&mut Changes) -> Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        let value = self.commit(Durability::None, change)?;
        self.waiting.lock().are_there = true;
        self.changed.notify_all();
        Ok(value)
    }

    /// Brings to disk what waits for that, again and again, until [`Metadata::close`] is called. One sync serves all
    /// changes of a moment: what makes one small layer after the other does not wait for the disk each time.
    pub(super) fn keep_settling(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            self.changed
                .wait_while(&mut waiting, |waiting| !waiting.are_there && !waiting.is_closing);
            self.changed
                .wait_while_for(&mut waiting, |waiting| !waiting.is_closing, SETTLE_DELAY);
            let is_closing = waiting.is_closing;
            drop(waiting);
            if let Err(error) = self.settle() {
                tracing::warn!(%error, "the latest records of layers did not reach the disk");
            }
            if is_closing {
                return;
            }
        }
    }

    /// Brings to disk what waits for that.
    pub(super) fn settle(&self) -> Result<(), LayerError> {
        // Whoever finds nothing waiting must not return before it is there.
        let _one_at_a_time = self.settling.lock();
        let are_there = std::mem::take(&mut self.waiting.lock().are_there);
        if are_there { self.write(|_| Ok(())) } else { Ok(()) }
    }

    /// Whether nothing waits for the disk, or is on its way there.
    pub(super) fn is_settled(&self) -> bool {
        self.settling
            .try_lock()
            .is_some_and(|_idle| !self.waiting.lock().are_there)
    }

    /// Lets [`Metadata::keep_settling`] return, once everything is on disk.
    pub(super) fn close(&self) {
        self.waiting.lock().is_closing = true;
        self.changed.notify_all();
    }

    /// Notes that the layers of a result are in use; it counts as a use of the topmost of them.
    pub(super) fn touch(&self, ids: &[LayerId], is_counted: bool) {
        let now = Timestamp::now();
        let mut touched = self.touched.lock();
        for id in ids {
            touched.entry(id.clone()).or_insert((now, 0)).0 = now;
        }
        if is_counted && let Some((_, count)) = ids.last().and_then(|top| touched.get_mut(top)) {
            *count += 1;
        }
    }

    /// Writes down what has been used, as far as it is not.
    pub(super) fn write_uses(&self) {
        let are_there = !self.touched.lock().is_empty();
        if are_there && let Err(error) = self.write(|_| Ok(())) {
            tracing::warn!(%error, "could not record when layers were last used");
        }
    }

    fn commit<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Changes) -> Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        let mut transaction = self.begin("write", Database::begin_write)?;
        transaction
            .set_durability(durability)
            .map_err(LayerError::db("write"))?;
        let mut changes = Changes { transaction };
        let value = change(&mut changes)?;
        changes.transaction.commit().map_err(LayerError::db("write"))?;
        Ok(value)
    }
}

fn write_touched(changes: &mut Changes, touched: HashMap<LayerId, (Timestamp, u64)>) -> Result<(), LayerError> {
    for (id, (last, count)) in touched {
        changes.update(LAYERS, id.as_str(), |record: &mut LayerRecord| {
            record.last_used = last;
            record.usage_count += count;
        })?;
    }
    Ok(())
}

impl Changes {
    pub(super) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, LayerError> {
        let table = self.transaction.open_table(table).map_err(LayerError::db("read"))?;
        let found = table.get(key).map_err(LayerError::db("read"))?;
        found.map(|bytes| parse(key, bytes.value())).transpose()
    }

    pub(super) fn put<T: Serialize>(&mut self, table: Table, key: &str, value: &T) -> Result<(), LayerError> {
        let bytes = serde_json::to_vec(value).map_err(|source| LayerError::Record {
            key: key.to_owned(),
            source,
        })?;
        let mut table = self.transaction.open_table(table).map_err(LayerError::db("write"))?;
        table.insert(key, bytes.as_slice()).map_err(LayerError::db("write"))?;
        Ok(())
    }

    /// Changes a record that may be there.
    pub(super) fn update<T: Serialize + DeserializeOwned>(
        &mut self,
        table: Table,
        key: &str,
        change: impl FnOnce(&mut T),
    ) -> Result<bool, LayerError> {
        let Some(mut value) = self.get::<T>(table, key)? else {
            return Ok(false);
        };
        change(&mut value);
        self.put(table, key, &value)?;
        Ok(true)
    }

    pub(super) fn remove(&mut self, table: Table, key: &str) -> Result<(), LayerError> {
        let mut table = self.transaction.open_table(table).map_err(LayerError::db("write"))?;
        table.remove(key).map_err(LayerError::db("write"))?;
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, LayerError> {
    serde_json::from_slice(bytes).map_err(|source| LayerError::Record {
        key: key.to_owned(),
        source,
    })
}
