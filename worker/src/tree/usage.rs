//! How much room trees take.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::dir::Body;
use super::error::TreeError;
use super::identity::TreeDigest;
use super::pins::Key;
use super::store::{TreeRecord, TreeStore};

impl TreeStore {
    /// Every tree, the one first that was used last. Files are stored once, so each tree has the bytes of those that
    /// none before it has: what is free when it and all behind it are gone.
    pub fn usage(&self) -> Result<Vec<TreeRecord>, TreeError> {
        let mut records = self.trees()?;
        records.sort_by_key(|record| Reverse(record.last_used_ns));
        let mut counted = HashSet::new();
        let mut usage = Vec::with_capacity(records.len());
        for mut record in records {
            // Open while it is looked at; it may be gone already.
            if let Some(_open) = self.tree(record.digest)? {
                record.bytes = self.uncounted(record.digest, &mut counted)?;
                usage.push(record);
            }
        }
        Ok(usage)
    }

    /// Counts what a directory holds that was not counted yet.
    fn uncounted(&self, top: TreeDigest, counted: &mut HashSet<Key>) -> Result<u64, TreeError> {
        let mut pending = Vec::from_iter(counted.insert(top.0).then_some(top));
        let mut bytes = 0_u64;
        while let Some(digest) = pending.pop() {
            for entry in &self.object(digest)?.entries {
                match &entry.body {
                    Body::Dir { digest, .. } if counted.insert(digest.0) => pending.push(*digest),
                    Body::File(file) if counted.insert(file.key.0) => bytes = bytes.saturating_add(file.size),
                    Body::Dir { .. } | Body::File(_) | Body::Special(_) => {}
                }
            }
        }
        Ok(bytes)
    }
}
