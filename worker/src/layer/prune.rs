//! Giving space free.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::error::LayerError;
use super::metadata::{CACHE_DIRS, LAYERS, RESULTS};
use super::record::{LayerId, ResultRecord};
use super::store::LayerStore;
use super::usage::UsageRecord;

/// What to remove, and how much. Limits of 0 are none; without any limit everything that may be removed is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Also removes records of the types `internal` and `frontend`.
    pub all: bool,
    /// Leaves alone what was used within that time.
    pub keep_duration: Duration,
    /// Bytes that are never gone below.
    pub reserved_space: u64,
    /// Bytes that may be in use afterwards.
    pub max_used_space: u64,
    /// Bytes that should be free on the disk afterwards.
    pub min_free_space: u64,
}

impl PruneOptions {
    /// Bytes that may stay, of `used` with `free` bytes left on the disk; `None` for nothing.
    pub(crate) fn target(&self, used: u64, free: u64) -> Option<u64> {
        if self.reserved_space == 0 && self.max_used_space == 0 && self.min_free_space == 0 {
            return None;
        }
        let mut target = if self.max_used_space > 0 {
            self.max_used_space
        } else {
            u64::MAX
        };
        let lacking = self.min_free_space.saturating_sub(free);
        if lacking > 0 {
            target = target.min(used.saturating_sub(lacking));
        }
        if self.max_used_space == 0 && self.min_free_space == 0 {
            target = self.reserved_space;
        }
        Some(target.max(self.reserved_space))
    }

    fn allows(&self, record: &UsageRecord, now: Timestamp) -> bool {
        let kept_type = matches!(record.record_type.as_str(), "internal" | "frontend") && !self.all;
        let age = now.duration_since(record.last_used_at);
        let recent = Duration::try_from(age).unwrap_or_default() < self.keep_duration;
        !record.in_use && !kept_type && !recent
    }
}

impl LayerStore {
    /// Removes layers and cache directories that nothing running needs and that `matches` accepts, least recently used
    /// first, until the limits are met. A layer goes only when no result has another on top of it; results that end
    /// with it go too, and so do layers that no result has any more.
    ///
    /// Returns what was removed.
    pub fn prune(
        &self,
        options: &PruneOptions,
        matches: impl Fn(&UsageRecord) -> bool,
    ) -> Result<Vec<UsageRecord>, LayerError> {
        let _one = self.inner.pruning.lock();
        // Measures outside the lock on holds; only what is known then is considered.
        let records = self.usage()?;
        let used: u64 = records.iter().map(|record| record.size).sum();
        let disk = rustix::fs::statvfs(&self.inner.dirs.root)
            .map_err(|error| LayerError::io("read free space of", &self.inner.dirs.root)(error.into()))?;
        let target = options.target(used, disk.f_bavail.saturating_mul(disk.f_frsize));
        let now = Timestamp::now();
        let candidates = records
            .iter()
            .filter(|record| options.allows(record, now) && matches(record));
        let removed = self.remove_until(
            used,
            target,
            candidates.map(|record| record.id.as_str()).collect(),
            &records,
        )?;
        for record in &removed {
            let dirs = &self.inner.dirs;
            let parent = if record.mutable { &dirs.caches } else { &dirs.layers };
            self.inner.background.discard(&parent.join(&record.id))?;
        }
        Ok(removed)
    }

    /// Chooses and unrecords. Nobody can take hold of a layer meanwhile.
    fn remove_until(
        &self,
        used: u64,
        target: Option<u64>,
        candidates: HashSet<&str>,
        records: &[UsageRecord],
    ) -> Result<Vec<UsageRecord>, LayerError> {
        let counts = self.inner.holds.lock();
        let mut caches = self.inner.cache_dirs.lock();
        let by_id: HashMap<&str, &UsageRecord> = records.iter().map(|record| (record.id.as_str(), record)).collect();
        let mut graph = Graph::new(self.inner.db.all(RESULTS)?);
        let mut order: Vec<&UsageRecord> = records.iter().filter(|r| candidates.contains(r.id.as_str())).collect();
        order.sort_by_key(|record| (record.last_used_at, record.usage_count));
        let mut used = used;
        let mut removed: Vec<UsageRecord> = Vec::new();
        let mut gone: HashSet<&str> = HashSet::new();
        let mut gone_results = Vec::new();
        // Each round removes what is on top now, which may bare what is below for the next.
        loop {
            let before = removed.len();
            for record in &order {
                if target.is_some_and(|target| used <= target) {
                    break;
                }
                if gone.contains(record.id.as_str()) {
                    continue;
                }
                if record.mutable {
                    if caches.forget(&record.id) {
                        gone.insert(&record.id);
                        used = used.saturating_sub(record.size);
                        removed.push((*record).clone());
                    }
                    continue;
                }
                let Some(id) = LayerId::parse(&record.id) else { continue };
                if counts.contains_key(&id) || !graph.is_top(&id) {
                    continue;
                }
                gone_results.extend(graph.remove_top(&id));
                gone.insert(&record.id);
                removed.push((*record).clone());
                used = used.saturating_sub(record.size);
                for orphan in graph.take_orphans() {
                    if let Some(record) = by_id.get(orphan.as_str()).filter(|_| !counts.contains_key(&orphan)) {
                        gone.insert(&record.id);
                        used = used.saturating_sub(record.size);
                        removed.push((*record).clone());
                    }
                }
            }
            if removed.len() == before {
                break;
            }
        }
        self.inner.db.write(|changes| {
            for result in &gone_results {
                changes.remove(RESULTS, result)?;
            }
            for record in &removed {
                changes.remove(if record.mutable { CACHE_DIRS } else { LAYERS }, &record.id)?;
            }
            Ok(())
        })?;
        Ok(removed)
    }
}

/// Which results have which layers.
struct Graph {
    results: HashMap<String, Vec<LayerId>>,
    /// For each layer, the results it is in.
    users: HashMap<LayerId, HashSet<String>>,
    orphans: Vec<LayerId>,
}

impl Graph {
    fn new(results: Vec<(String, ResultRecord)>) -> Self {
        let mut graph = Self {
            results: HashMap::new(),
            users: HashMap::new(),
            orphans: Vec::new(),
        };
        for (key, record) in results {
            for layer in &record.layers {
                graph.users.entry(layer.clone()).or_default().insert(key.clone());
            }
            graph.results.insert(key, record.layers);
        }
        graph
    }

    /// Whether every result that has the layer ends with it.
    fn is_top(&self, id: &LayerId) -> bool {
        let users = self.users.get(id).into_iter().flatten();
        users
            .filter_map(|result| self.results.get(result))
            .all(|layers| layers.last() == Some(id))
    }

    /// Takes the layer and the results that have it out; returns the results.
    fn remove_top(&mut self, id: &LayerId) -> Vec<String> {
        let gone: Vec<String> = self.users.remove(id).into_iter().flatten().collect();
        for result in &gone {
            for layer in self.results.remove(result).unwrap_or_default() {
                if let Some(users) = self.users.get_mut(&layer) {
                    users.remove(result);
                    if users.is_empty() {
                        self.users.remove(&layer);
                        self.orphans.push(layer);
                    }
                }
            }
        }
        gone
    }

    /// Layers that no result has since the last call.
    fn take_orphans(&mut self) -> Vec<LayerId> {
        std::mem::take(&mut self.orphans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_combine_as_documented() {
        let options = |reserved_space, max_used_space, min_free_space| PruneOptions {
            reserved_space,
            max_used_space,
            min_free_space,
            ..PruneOptions::default()
        };
        for (options, used, free, expected) in [
            (options(0, 0, 0), 100, 0, None),
            (options(0, 50, 0), 100, 0, Some(50)),
            (options(0, 0, 30), 100, 10, Some(80)),
            (options(0, 0, 30), 100, 40, Some(u64::MAX)),
            (options(90, 50, 0), 100, 0, Some(90)),
            (options(10, 50, 80), 100, 10, Some(30)),
            (options(60, 0, 0), 100, 0, Some(60)),
        ] {
            assert_eq!(options.target(used, free), expected, "{options:?}");
        }
    }
}
