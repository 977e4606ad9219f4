//! The records on disk.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::LayerError;

/// Version of the records and of the directory tree beside them. Another one means: start anew.
pub(super) const VERSION: u64 = 1;
/// Memory for pages of the database; records are small and rarely read twice.
const CACHE_BYTES: usize = 8 << 20;

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
pub(super) struct Metadata {
    db: Database,
}

/// Changes that become visible together, or not at all.
pub(super) struct Changes {
    transaction: WriteTransaction,
}

impl Metadata {
    /// Opens or makes the database; `None` if it is of another version or damaged.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, LayerError> {
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let db = match opened {
            Ok(db) => db,
            Err(redb::DatabaseError::UpgradeRequired(_)) => return Ok(None),
            Err(redb::DatabaseError::Storage(redb::StorageError::Corrupted(_))) => return Ok(None),
            Err(error) => return Err(LayerError::db("open")(error)),
        };
        let metadata = Self { db };
        let transaction = metadata.db.begin_write().map_err(LayerError::db("write"))?;
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

    /// One record.
    pub(super) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, LayerError> {
        let transaction = self.db.begin_read().map_err(LayerError::db("read"))?;
        let table = transaction.open_table(table).map_err(LayerError::db("read"))?;
        let found = table.get(key).map_err(LayerError::db("read"))?;
        found.map(|bytes| parse(key, bytes.value())).transpose()
    }

    /// Every record of a table, by key.
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, LayerError> {
        let transaction = self.db.begin_read().map_err(LayerError::db("read"))?;
        let table = transaction.open_table(table).map_err(LayerError::db("read"))?;
        let mut all = Vec::new();
        for entry in table.iter().map_err(LayerError::db("read"))? {
            let (key, value) = entry.map_err(LayerError::db("read"))?;
            all.push((key.value().to_owned(), parse(key.value(), value.value())?));
        }
        Ok(all)
    }

    /// Applies `change`, durably, unless it fails.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Changes) -> Result<T, LayerError>) -> Result<T, LayerError> {
        let transaction = self.db.begin_write().map_err(LayerError::db("write"))?;
        let mut changes = Changes { transaction };
        let value = change(&mut changes)?;
        changes.transaction.commit().map_err(LayerError::db("write"))?;
        Ok(value)
    }
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

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, LayerError> {
    serde_json::from_slice(bytes).map_err(|source| LayerError::Record {
        key: key.to_owned(),
        source,
    })
}
