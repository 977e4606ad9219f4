//! The records in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use cairn_proto::control::BuildHistoryRecord;
use cairn_solver::Digest;

use super::store;
use crate::traces::Solve;

/// What is in memory: all of it but the blobs.
#[derive(Default)]
pub(super) struct Table {
    pub(super) running: BTreeMap<String, Arc<BuildHistoryRecord>>,
    pub(super) finished: BTreeMap<String, Kept>,
    /// Finished builds whose trace is not stored yet.
    pub(super) traced: BTreeMap<String, Solve>,
    /// How many finished builds have a blob: equal ones are stored once.
    blob_uses: BTreeMap<Digest, usize>,
}

/// A finished build.
pub(super) struct Kept {
    pub(super) record: Arc<BuildHistoryRecord>,
    /// Bytes of the record.
    pub(super) bytes: u64,
}

impl Kept {
    pub(super) fn new(record: BuildHistoryRecord) -> Self {
        Self {
            bytes: prost::Message::encoded_len(&record) as u64,
            record: Arc::new(record),
        }
    }

    pub(super) fn blob_bytes(&self) -> u64 {
        store::blobs(&self.record)
            .map(|blob| u64::try_from(blob.size).unwrap_or(0))
            .sum()
    }

    pub(super) fn completed(&self) -> SystemTime {
        let time = self.record.completed_at.or(self.record.created_at);
        time.and_then(|time| SystemTime::try_from(time).ok())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Table {
    /// Returns the blobs that are of no more use.
    pub(super) fn insert(&mut self, kept: Kept) -> Vec<Digest> {
        // Counted first, so that what both have is not called useless.
        for digest in store::blobs(&kept.record).filter_map(store::digest_of) {
            *self.blob_uses.entry(digest).or_default() += 1;
        }
        let before = self.finished.insert(kept.record.r#ref.clone(), kept);
        before.map(|before| self.release(&before)).unwrap_or_default()
    }

    /// Returns the blobs that are of no more use.
    pub(super) fn remove(&mut self, id: &str) -> Vec<Digest> {
        self.traced.remove(id);
        let before = self.finished.remove(id);
        before.map(|before| self.release(&before)).unwrap_or_default()
    }

    fn release(&mut self, gone: &Kept) -> Vec<Digest> {
        let mut unused = Vec::new();
        for digest in store::blobs(&gone.record).filter_map(store::digest_of) {
            let Some(uses) = self.blob_uses.get_mut(&digest) else {
                continue;
            };
            *uses -= 1;
            if *uses == 0 {
                self.blob_uses.remove(&digest);
                unused.push(digest);
            }
        }
        unused
    }
}
