//! What a stage adds to the history of its image.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Entries, each behind those it was added to. Images that begin alike share their beginning, so that a thousand stages
/// that continue one long stage do not each carry its history along.
#[derive(Debug, Clone, Default)]
pub(super) struct History(Option<Arc<Entry>>);

#[derive(Debug)]
struct Entry {
    created_by: String,
    empty_layer: bool,
    created: Option<Arc<str>>,
    before: History,
}

impl History {
    pub(super) fn add(&mut self, created_by: String, empty_layer: bool, created: Option<Arc<str>>) {
        let before = std::mem::take(self);
        self.0 = Some(Arc::new(Entry {
            created_by,
            empty_layer,
            created,
            before,
        }));
    }

    /// The entries as the image specification has them, oldest first.
    pub(super) fn to_json(&self) -> Vec<Value> {
        let entries = std::iter::successors(self.0.as_deref(), |entry| entry.before.0.as_deref());
        let mut entries: Vec<Value> = entries.map(Entry::to_json).collect();
        entries.reverse();
        entries
    }
}

impl Drop for History {
    /// Not by recursion: there may be a great many entries.
    fn drop(&mut self) {
        let mut last = self.0.take();
        while let Some(mut entry) = last.and_then(Arc::into_inner) {
            last = entry.before.0.take();
        }
    }
}

impl Entry {
    fn to_json(&self) -> Value {
        let mut entry = Map::from_iter([
            ("created_by".to_owned(), self.created_by.as_str().into()),
            ("comment".to_owned(), "buildkit.dockerfile.v0".into()),
        ]);
        if self.empty_layer {
            entry.insert("empty_layer".to_owned(), true.into());
        }
        if let Some(created) = &self.created {
            entry.insert("created".to_owned(), (**created).into());
        }
        entry.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_shared_and_long_histories_dropped() {
        let mut history = History::default();
        for _ in 0..200_000 {
            history.add("RUN x".to_owned(), false, None);
        }
        let mut other = history.clone();
        other.add("CMD y".to_owned(), true, Some("2020-01-01T00:00:00Z".into()));
        drop(history);
        let entries = other.to_json();
        assert_eq!(entries.len(), 200_001);
        assert_eq!(entries[200_000]["created_by"], "CMD y");
        assert_eq!(entries[0]["created_by"], "RUN x");
    }
}
