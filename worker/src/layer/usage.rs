//! What takes space.

use std::collections::HashMap;

use jiff::Timestamp;

use super::error::LayerError;
use super::measure::disk_usage;
use super::metadata::{CACHE_DIRS, LAYERS, RESULTS};
use super::record::{CacheDirRecord, LayerId, LayerRecord, ResultRecord};
use super::store::LayerStore;
use crate::sys::Root;

/// Record type of cache directories.
pub(super) const CACHE_MOUNT: &str = "exec.cachemount";

/// A layer or a cache directory, as the API's disk usage shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// Name.
    pub id: String,
    /// Whether it can change: true for cache directories.
    pub mutable: bool,
    /// Whether something running needs it.
    pub in_use: bool,
    /// Bytes on disk; 0 for a layer that is only known by its blob.
    pub size: u64,
    /// The layers it lies on, in results that end with it.
    pub parents: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Timestamp,
    /// How often.
    pub usage_count: u64,
    /// For people.
    pub description: String,
    /// One of the API's record types.
    pub record_type: String,
}

impl LayerStore {
    /// Everything that takes space, in no particular order. Measures what is not measured yet.
    pub fn usage(&self) -> Result<Vec<UsageRecord>, LayerError> {
        self.inner.db.write_uses();
        let results: Vec<(String, ResultRecord)> = self.inner.db.all(RESULTS)?;
        let mut parents: HashMap<LayerId, Vec<String>> = HashMap::new();
        for (_, result) in results {
            for pair in result.layers.windows(2) {
                let known = parents.entry(pair[1].clone()).or_default();
                if !known.iter().any(|parent| parent == pair[0].as_str()) {
                    known.push(pair[0].to_string());
                }
            }
        }
        let mut records = Vec::new();
        for (key, record) in self.inner.db.all::<LayerRecord>(LAYERS)? {
            let Some(id) = LayerId::parse(&key) else { continue };
            let size = self.layer_size(&id, &record)?;
            let in_use = self.inner.holds.lock().contains_key(&id);
            records.push(UsageRecord {
                in_use,
                size,
                mutable: false,
                parents: parents.remove(&id).unwrap_or_default(),
                created_at: record.created,
                last_used_at: record.last_used,
                usage_count: record.usage_count,
                description: record.describe.description,
                record_type: record.describe.record_type,
                id: key,
            });
        }
        for (id, record) in self.inner.db.all::<CacheDirRecord>(CACHE_DIRS)? {
            records.push(UsageRecord {
                in_use: self.inner.cache_dirs.is_used(&id),
                size: self.cache_dir_size(&id, &record)?,
                mutable: true,
                parents: Vec::new(),
                created_at: record.created,
                last_used_at: record.last_used,
                usage_count: record.usage_count,
                description: record.description,
                record_type: CACHE_MOUNT.to_owned(),
                id,
            });
        }
        Ok(records)
    }

    fn layer_size(&self, id: &LayerId, record: &LayerRecord) -> Result<u64, LayerError> {
        match record.size {
            Some(size) => Ok(size),
            None if !record.unpacked => Ok(0),
            None => {
                // Pruned meanwhile takes no space.
                let size = Root::open(self.inner.dirs.layer_fs(id))
                    .and_then(disk_usage)
                    .unwrap_or(0);
                self.inner.db.write(|changes| {
                    changes.update(LAYERS, id.as_str(), |record: &mut LayerRecord| record.size = Some(size))
                })?;
                Ok(size)
            }
        }
    }

    fn cache_dir_size(&self, id: &str, record: &CacheDirRecord) -> Result<u64, LayerError> {
        if let Some(size) = record.size {
            return Ok(size);
        }
        // While it is in use it may change under our eyes: then the size is that of what was seen, and is not kept.
        let size = Root::open(self.inner.dirs.caches.join(id).join("fs"))
            .and_then(disk_usage)
            .unwrap_or(0);
        if !self.inner.cache_dirs.is_used(id) {
            self.inner.db.write(|changes| {
                changes.update(CACHE_DIRS, id, |record: &mut CacheDirRecord| record.size = Some(size))
            })?;
        }
        Ok(size)
    }
}
