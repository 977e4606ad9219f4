//! An index that lasts as long as its process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::history::{
    BuildRecord, BuildSummary, Known, MAX_BUILDS, Millis, Removal, Removed, SiteId, SiteKey, StepRecord, add_to_site,
};
use super::{CacheIndex, IndexError, Outputs};
use crate::Digest;
use crate::cache_key::CacheKey;

/// Keeps everything in memory: for tests, and for daemons told to keep nothing.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    results: Mutex<BTreeMap<CacheKey, Outputs>>,
    known: Mutex<HashMap<CacheKey, Explained>>,
    contents: Mutex<HashMap<CacheKey, Digest>>,
    history: Mutex<History>,
}

/// What went into a key, and where its results went.
type Explained = (Arc<Known>, Option<Removal>);

#[derive(Debug, Default)]
struct History {
    next: u64,
    builds: VecDeque<(BuildSummary, Vec<StepRecord>)>,
    sites: HashMap<SiteId, Vec<SiteKey>>,
}

impl CacheIndex for MemoryIndex {
    fn results(&self, key: &CacheKey) -> Result<Option<Outputs>, IndexError> {
        Ok(self.results.lock().get(key).cloned())
    }

    fn record_results(&self, key: &CacheKey, known: &Arc<Known>, outputs: &Outputs) -> Result<(), IndexError> {
        self.known.lock().insert(*key, (known.clone(), None));
        self.results.lock().insert(*key, outputs.clone());
        Ok(())
    }

    fn known(&self, key: &CacheKey) -> Result<Option<Known>, IndexError> {
        Ok(self.known.lock().get(key).map(|(known, _)| Known::clone(known)))
    }

    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError> {
        Ok(self.contents.lock().get(key).copied())
    }

    fn record_content(&self, key: &CacheKey, digest: &Digest) -> Result<(), IndexError> {
        self.contents.lock().insert(*key, *digest);
        Ok(())
    }

    fn forget(&self, key: &CacheKey, removal: Removal) -> Result<(), IndexError> {
        self.results.lock().remove(key);
        if let Some((_, gone)) = self.known.lock().get_mut(key) {
            *gone = Some(removal);
        }
        Ok(())
    }

    fn removal(&self, key: &CacheKey) -> Result<Option<Removal>, IndexError> {
        Ok(self.known.lock().get(key).and_then(|(_, removal)| *removal))
    }

    fn scan(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<(CacheKey, Outputs)>, IndexError> {
        let results = self.results.lock();
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(*key));
        let found = results.range((from, Bound::Unbounded)).take(limit);
        Ok(found.map(|(key, outputs)| (*key, outputs.clone())).collect())
    }

    fn record_build(&self, build: BuildRecord) -> Result<(), IndexError> {
        for (key, known) in build.unfinished {
            let removal = Removal {
                at: Millis::now(),
                how: Removed::NotFinished,
            };
            self.known.lock().entry(key).or_insert((known, Some(removal)));
        }
        let mut history = self.history.lock();
        history.next += 1;
        let number = history.next;
        for (site, key) in build.sites {
            add_to_site(history.sites.entry(site).or_default(), key, number);
        }
        let summary = BuildSummary {
            number,
            ..build.summary
        };
        history.builds.push_front((summary, build.steps));
        history.builds.truncate(MAX_BUILDS);
        Ok(())
    }

    fn builds(&self) -> Result<Vec<BuildSummary>, IndexError> {
        let history = self.history.lock();
        Ok(history.builds.iter().map(|(summary, _)| summary.clone()).collect())
    }

    fn steps(&self, number: u64) -> Result<Vec<StepRecord>, IndexError> {
        let history = self.history.lock();
        let found = history.builds.iter().find(|(summary, _)| summary.number == number);
        Ok(found.map(|(_, steps)| steps.clone()).unwrap_or_default())
    }

    fn site(&self, site: &SiteId) -> Result<Vec<SiteKey>, IndexError> {
        Ok(self.history.lock().sites.get(site).cloned().unwrap_or_default())
    }

    fn repair(&self) -> Result<usize, IndexError> {
        let known = self.known.lock();
        let mut history = self.history.lock();
        let before = history.sites.len();
        history.sites.retain(|_, keys| {
            keys.retain(|entry| known.contains_key(&entry.key));
            !keys.is_empty()
        });
        Ok(before - history.sites.len())
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }
}
