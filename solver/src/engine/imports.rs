//! Caches that a build imports.
//!
//! They are loaded in the background from the beginning of the build on. Only a vertex that would otherwise run waits
//! for them, and not for long: whoever is slow is left behind, and asked again by the vertices that come later.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::build::{Build, Inner};
use crate::cache_key::CacheKey;
use crate::imported::ImportedCache;
use crate::index::Outputs;
use crate::worker::{CallContext, Ref, WorkerError};

/// How long after a cache began to be loaded vertices wait for it.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long loading may take in all.
const LIMIT: Duration = Duration::from_secs(60);
/// Most caches that one build imports.
const MAX_IMPORTS: usize = 64;

/// The imported caches of one build, in the order in which they are asked.
#[derive(Default)]
pub(super) struct Imports {
    known: Mutex<Vec<Arc<Import>>>,
    /// What was taken over from them.
    adopted: Mutex<HashMap<CacheKey, Outputs>>,
    /// What turned out not to be there.
    discarded: Mutex<HashSet<CacheKey>>,
}

/// A cache, which may still be on its way.
struct Import {
    key: String,
    begun: Instant,
    /// `None` if it could not be loaded.
    loaded: SetOnce<Option<Arc<dyn ImportedCache>>>,
}

impl Imports {
    /// Whether there are none, which is the usual case.
    pub(super) fn is_empty(&self) -> bool {
        self.known.lock().is_empty()
    }

    /// Takes note of a cache that is being loaded; `None` if it is known already.
    fn add(&self, key: &str) -> Option<Arc<Import>> {
        let mut known = self.known.lock();
        if known.len() >= MAX_IMPORTS || known.iter().any(|import| import.key == key) {
            return None;
        }
        let import = Arc::new(Import {
            key: key.to_owned(),
            begun: Instant::now(),
            loaded: SetOnce::new(),
        });
        known.push(import.clone());
        Some(import)
    }

    /// The caches that are loaded, or are soon.
    pub(super) async fn loaded(&self) -> Vec<Arc<dyn ImportedCache>> {
        let known = self.known.lock().clone();
        let mut loaded = Vec::with_capacity(known.len());
        for import in known {
            let waited = tokio::time::timeout_at(import.begun + PATIENCE, import.loaded.wait()).await;
            let outcome = waited.ok().or_else(|| import.loaded.get());
            loaded.extend(outcome.cloned().flatten());
        }
        loaded
    }

    /// Takes note of results that were taken over.
    pub(super) fn note_adopted(&self, key: CacheKey, results: &[Option<Ref>]) {
        let names = results
            .iter()
            .map(|result| result.as_ref().map(|found| found.id().clone()));
        self.adopted.lock().insert(key, names.collect());
    }

    /// Whether an output is just what was taken over.
    pub(super) fn is_adopted(&self, key: &CacheKey, output: usize, result: Option<&Ref>) -> bool {
        let adopted = self.adopted.lock();
        let found = adopted.get(key).and_then(|outputs| outputs.get(output));
        found.is_some_and(|name| name.as_ref() == result.map(Ref::id))
    }

    /// Takes note that what is promised under a key cannot be had.
    pub(super) fn discard(&self, key: CacheKey) {
        self.discarded.lock().insert(key);
    }

    /// Whether it is known that what is promised under a key cannot be had.
    pub(super) fn is_discarded(&self, key: &CacheKey) -> bool {
        self.discarded.lock().contains(key)
    }
}

impl Build {
    /// Imports a cache: in the background, as a step of its own that is shown as `title`. A cache that cannot be loaded
    /// is a failed step, but no failure of the build. One that is imported already, as told by `key`, is not loaded
    /// again.
    pub fn import<F>(&self, key: &str, title: &str, load: impl FnOnce(CallContext) -> F + Send + 'static)
    where
        F: Future<Output = Result<Arc<dyn ImportedCache>, WorkerError>> + Send,
    {
        let Some(import) = self.inner.imports.add(key) else {
            return;
        };
        let step = self.step(&format!("import {key}"), title);
        self.inner.spawn(async move {
            let loading = AssertUnwindSafe(load(step.context())).catch_unwind();
            let outcome = match tokio::time::timeout(LIMIT, loading).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(WorkerError::Failed("internal error: importing panicked".to_owned())),
                Err(_) => Err(WorkerError::Failed(format!("no answer within {} s", LIMIT.as_secs()))),
            };
            // The step carries the error; the build goes on.
            let loaded = step.finish(outcome).ok();
            // Only this task sets it.
            let _is_first = import.loaded.set(loaded);
        });
    }
}

impl Inner {
    /// Whether any cache is imported.
    pub(super) fn may_import_any(&self) -> bool {
        !self.imports.is_empty()
    }

    /// Whether a vertex that would otherwise run may ask imported caches about `key`.
    pub(super) fn may_import(&self, key: &CacheKey) -> bool {
        !self.imports.is_empty() && !self.imports.is_discarded(key)
    }
}
