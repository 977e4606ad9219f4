//! The index, as vertices use it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::node::{Decision, Node};
use crate::Digest;
use crate::cache_key::{CacheKey, Preimage};
use crate::engine::Engine;
use crate::index::{Evidence, InputEvidence, Known, Millis, Outputs, Place, Removal};
use crate::llb::{Op, SourceFile};
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
                    engine.forget(key, &recorded, engine.removal_now());
                    return Ok(None);
                }
            },
        }
    }
    Ok(Some(results))
}

/// Where a result went that was recorded once; see [`recorded`] for an index that cannot be read.
pub(super) fn removal(engine: &Engine, key: &CacheKey) -> Option<Removal> {
    engine.index.removal(key).unwrap_or_else(|error| {
        tracing::warn!(%error, %key, "it cannot be read what became of a result");
        None
    })
}

impl Engine {
    /// Takes a record whose results are gone out of the index, unless somebody has replaced it meanwhile.
    pub(in crate::engine) fn forget(&self, key: &CacheKey, gone: &Outputs, removal: Removal) {
        if recorded(self, key).as_ref() == Some(gone)
            && let Err(error) = self.index.forget(key, removal)
        {
            tracing::warn!(%error, %key, "a result that is gone is still in the index");
        }
    }
}

impl Node {
    /// The key by which it was found or ran.
    pub(in crate::engine) fn decided_key(&self) -> Option<CacheKey> {
        self.decision().map(|decision| match decision {
            Decision::Found(key) | Decision::Runs { key, .. } => key,
        })
    }

    /// Whether it has to run whatever is known.
    pub(in crate::engine) fn is_fresh(&self) -> bool {
        matches!(self.identity.get(), Some(Ok(identified)) if identified.fresh)
    }

    /// The key by which it ran, and what went into it, if that did not end well.
    pub(in crate::engine) fn unfinished(&self) -> Option<(CacheKey, Arc<Known>)> {
        let is_done = matches!(self.made(), Some(Ok(_)));
        match self.decision()? {
            Decision::Runs { key, unfinished, .. } if !is_done => Some((key, unfinished?)),
            _ => None,
        }
    }

    /// What is kept to explain results that are made of `inputs`.
    pub(super) fn known(&self, preimage: Preimage, inputs: Vec<InputEvidence>) -> Arc<Known> {
        let arguments = match &self.vertex.op {
            Op::Exec(exec) if !exec.env.is_empty() => self.with_places(|places| {
                let first = places.first();
                first.map_or_else(Vec::new, |(file, _)| arguments(file, &exec.env))
            }),
            _ => Vec::new(),
        };
        Arc::new(Known {
            preimage,
            evidence: Evidence {
                name: clipped(&self.state.lock().vertex.name),
                place: self.place(),
                made_at: Millis::now(),
                arguments,
                inputs,
            },
        })
    }

    /// Where it is written down.
    pub(in crate::engine) fn place(&self) -> Option<Place> {
        self.with_places(|places| {
            let (file, location) = places.first()?;
            Some(Place {
                file: clipped(&file.filename),
                line: location.ranges.first().map_or(0, |range| range.start_line),
            })
        })
    }
}

/// Most of a file that is searched for arguments.
const MAX_SEARCHED: usize = 1 << 20;

/// Which variables in `env` a Dockerfile declares as arguments.
fn arguments(file: &SourceFile, env: &[String]) -> Vec<String> {
    let searched = &file.data[..file.data.len().min(MAX_SEARCHED)];
    let mut declared = BTreeSet::new();
    for line in searched.split(|&byte| byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let mut words = line.split_ascii_whitespace();
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("arg")) {
            declared.extend(words.map(|word| word.split_once('=').map_or(word, |(name, _)| name)));
        }
    }
    let names = env
        .iter()
        .filter_map(|entry| entry.split_once('=').map(|(name, _)| name));
    names
        .filter(|name| declared.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Longest name of a step that is remembered, in bytes.
const MAX_NAME: usize = 1_000;

/// The beginning of a name, which is enough to recognise it.
pub(in crate::engine) fn clipped(name: &str) -> String {
    // Most are short.
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    match name.char_indices().map(|(at, _)| at).find(|&at| at > MAX_NAME) {
        Some(end) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Records results. They are good even if they cannot be remembered.
pub(super) fn record(engine: &Engine, key: CacheKey, known: &Arc<Known>, results: &[Option<Ref>]) {
    let outputs: Outputs = results
        .iter()
        .map(|result| result.as_ref().map(|result| result.id().clone()))
        .collect();
    if let Err(error) = engine.index.record_results(&key, known, &outputs) {
        tracing::warn!(%error, %key, "a result is not remembered");
    }
}
