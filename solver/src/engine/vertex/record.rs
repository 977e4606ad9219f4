//! The index, as vertices use it.

use super::node::Identity;
use crate::Digest;
use crate::cache_key::CacheKey;
use crate::engine::Engine;
use crate::index::Outputs;
use crate::worker::{Ref, WorkerError};

/// What is recorded under a key. An index that cannot be read is as good as an empty one: results can be made again.
pub(super) fn recorded(engine: &Engine, key: &CacheKey) -> Option<Outputs> {
    engine.index.results(key).unwrap_or_else(|error| {
        tracing::warn!(%error, %key, "a recorded result cannot be read");
        None
    })
}

/// A remembered content digest; see [`recorded`] for an index that cannot be read.
pub(super) fn remembered_content(engine: &Engine, key: &CacheKey) -> Option<Digest> {
    engine.index.content(key).unwrap_or_else(|error| {
        tracing::warn!(%error, %key, "a content digest cannot be read");
        None
    })
}

/// The recorded results under a key, if they are all still there.
pub(super) async fn lookup(engine: &Engine, key: &CacheKey) -> Result<Option<Vec<Option<Ref>>>, WorkerError> {
    let Some(recorded) = recorded(engine, key) else {
        return Ok(None);
    };
    let mut results = Vec::with_capacity(recorded.len());
    for id in &recorded {
        match id {
            None => results.push(None),
            Some(id) => match engine.worker.open(id).await? {
                Some(found) => results.push(Some(found)),
                None => {
                    forget(engine, key, &recorded);
                    return Ok(None);
                }
            },
        }
    }
    Ok(Some(results))
}

/// Takes a record whose results are gone out of the index, unless somebody has replaced it meanwhile.
fn forget(engine: &Engine, key: &CacheKey, gone: &Outputs) {
    if recorded(engine, key).as_ref() == Some(gone)
        && let Err(error) = engine.index.forget(key)
    {
        tracing::warn!(%error, %key, "a result that is gone is still in the index");
    }
}

/// Records results. They are good even if they cannot be remembered.
pub(super) fn record(engine: &Engine, identity: &Identity, results: &[Option<Ref>]) {
    let outputs: Outputs = results
        .iter()
        .map(|result| result.as_ref().map(|result| result.id().clone()))
        .collect();
    if let Err(error) = engine.index.record_results(&identity.key, &identity.preimage, &outputs) {
        tracing::warn!(%error, key = %identity.key, "a result is not remembered");
    }
}
