//! An index that lasts as long as its process.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{CacheIndex, IndexError, Outputs};
use crate::Digest;
use crate::cache_key::{CacheKey, Preimage};

/// Keeps everything in memory: for tests, and for daemons told to keep nothing.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    results: Mutex<HashMap<CacheKey, (Preimage, Outputs)>>,
    contents: Mutex<HashMap<CacheKey, Digest>>,
}

impl CacheIndex for MemoryIndex {
    fn results(&self, key: &CacheKey) -> Result<Option<Outputs>, IndexError> {
        Ok(self.results.lock().get(key).map(|(_, outputs)| outputs.clone()))
    }

    fn record_results(&self, key: &CacheKey, preimage: &Preimage, outputs: &Outputs) -> Result<(), IndexError> {
        self.results.lock().insert(*key, (preimage.clone(), outputs.clone()));
        Ok(())
    }

    fn preimage(&self, key: &CacheKey) -> Result<Option<Preimage>, IndexError> {
        Ok(self.results.lock().get(key).map(|(preimage, _)| preimage.clone()))
    }

    fn content(&self, key: &CacheKey) -> Result<Option<Digest>, IndexError> {
        Ok(self.contents.lock().get(key).copied())
    }

    fn record_content(&self, key: &CacheKey, digest: &Digest) -> Result<(), IndexError> {
        self.contents.lock().insert(*key, *digest);
        Ok(())
    }

    fn forget(&self, key: &CacheKey) -> Result<(), IndexError> {
        self.results.lock().remove(key);
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }
}
