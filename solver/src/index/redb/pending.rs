//! Writes that are not committed yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::super::Outputs;
use super::super::history::{BuildRecord, Known, MAX_BUILDS, Removal};
use crate::Digest;
use crate::cache_key::CacheKey;

/// Most writes put into one transaction.
const MAX_BATCH: usize = 8_192;
/// Most writes that may wait. Further ones wait for room; when nothing can be committed, they are not remembered.
pub(super) const MAX_WAITING: usize = 16_384;

/// What is recorded under a key.
#[derive(Clone)]
pub(super) enum Recorded {
    Made(Arc<Outputs>, Arc<Known>),
    Gone(Removal),
}

/// A write.
#[derive(Clone)]
pub(super) enum Change {
    Results(Recorded),
    Content(Digest),
}

/// The newest write of every key, until it is committed.
#[derive(Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    /// Something changed that somebody may wait for.
    changed: Condvar,
}

/// Each write carries its number, so that a newer one is not dropped when an older one is committed.
#[derive(Default)]
struct State {
    next: u64,
    results: HashMap<CacheKey, (u64, Recorded)>,
    contents: HashMap<CacheKey, (u64, Digest)>,
    /// Builds by their number, with the number of the write. Only as many wait as are remembered at all.
    builds: BTreeMap<u64, (u64, Arc<BuildRecord>)>,
    /// Set by writes and flushes, cleared by the writer when it looks.
    is_due: bool,
    /// Number of commits attempted, and what became of the last one.
    commits: u64,
    failure: Option<String>,
    /// Whether the file is to be written anew.
    wants_compaction: bool,
    /// Whether the index is being closed, and whether the writer has ended.
    is_closed: bool,
    is_ended: bool,
}

impl State {
    fn len(&self) -> usize {
        self.results.len() + self.contents.len() + self.builds.len()
    }
}

/// Writes to be committed together.
#[derive(Default)]
pub(super) struct Batch {
    changes: Vec<(u64, CacheKey, Change)>,
    builds: Vec<(u64, Arc<BuildRecord>)>,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.changes.len() + self.builds.len()
    }

    /// Rows of what is known that it may add.
    pub(super) fn known_rows(&self) -> u64 {
        let unfinished = self.builds.iter().map(|(_, build)| build.unfinished.len());
        (self.changes.len() + unfinished.sum::<usize>()) as u64
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (&CacheKey, &Change)> {
        self.changes.iter().map(|(_, key, change)| (key, change))
    }

    /// Builds by their number, in order.
    pub(super) fn builds(&self) -> impl Iterator<Item = (u64, &BuildRecord)> {
        self.builds.iter().map(|(number, build)| (*number, &**build))
    }
}

impl Pending {
    /// What is about to be recorded under a key; `None` if nothing is about to change.
    pub(super) fn results(&self, key: &CacheKey) -> Option<Recorded> {
        self.state.lock().results.get(key).map(|(_, record)| record.clone())
    }

    /// The content digest that is about to be recorded.
    pub(super) fn content(&self, key: &CacheKey) -> Option<Digest> {
        self.state.lock().contents.get(key).map(|(_, digest)| *digest)
    }

    /// Adds a write. Waits for room while commits succeed, so that a fast writer cannot fill the memory.
    pub(super) fn put(&self, key: CacheKey, change: Change) {
        let mut state = self.state.lock();
        while state.len() >= MAX_WAITING && state.failure.is_none() && !state.is_ended {
            self.changed.wait(&mut state);
        }
        let replaces = match change {
            Change::Results(_) => state.results.contains_key(&key),
            Change::Content(_) => state.contents.contains_key(&key),
        };
        if replaces || state.len() < MAX_WAITING {
            state.next += 1;
            let number = state.next;
            match change {
                Change::Results(record) => {
                    state.results.insert(key, (number, record));
                }
                Change::Content(digest) => {
                    state.contents.insert(key, (number, digest));
                }
            }
        }
        state.is_due = true;
        self.changed.notify_all();
    }

    /// Adds a build of this number.
    pub(super) fn put_build(&self, number: u64, build: BuildRecord) {
        let mut state = self.state.lock();
        state.next += 1;
        let write = (state.next, Arc::new(build));
        state.builds.insert(number, write);
        while state.builds.len() > MAX_BUILDS {
            state.builds.pop_first();
        }
        state.is_due = true;
        self.changed.notify_all();
    }

    /// Waits for something to commit; `None` once closed and nothing is left that could be.
    pub(super) fn next(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        loop {
            let is_last = state.is_closed && (state.len() == 0 || state.failure.is_some());
            if is_last {
                return None;
            }
            if state.is_due || state.is_closed {
                state.is_due = false;
                return Some(Batch::of(&state));
            }
            self.changed.wait(&mut state);
        }
    }

    /// What there is to commit now, if that is anything.
    pub(super) fn due(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        std::mem::take(&mut state.is_due)
            .then(|| Batch::of(&state))
            .filter(|batch| batch.len() > 0)
    }

    /// Asks the writer to write the file anew.
    pub(super) fn ask_compaction(&self) {
        let mut state = self.state.lock();
        state.wants_compaction = true;
        state.is_due = true;
        self.changed.notify_all();
    }

    /// Has the writer look whether there is anything to do.
    pub(super) fn wake(&self) {
        self.state.lock().is_due = true;
        self.changed.notify_all();
    }

    /// Whether somebody has asked for a compaction since the last call.
    pub(super) fn take_compaction(&self) -> bool {
        std::mem::take(&mut self.state.lock().wants_compaction)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Takes note of the outcome of a commit.
    pub(super) fn settle(&self, batch: &Batch, outcome: Result<(), String>) {
        let mut state = self.state.lock();
        state.commits += 1;
        state.failure = outcome.err();
        if state.failure.is_none() {
            for (number, _) in &batch.builds {
                state.builds.remove(number);
            }
            for (number, key, change) in &batch.changes {
                match change {
                    Change::Results(_) if state.results.get(key).is_some_and(|(newest, _)| newest == number) => {
                        state.results.remove(key);
                    }
                    Change::Content(_) if state.contents.get(key).is_some_and(|(newest, _)| newest == number) => {
                        state.contents.remove(key);
                    }
                    _ => {}
                }
            }
            // What did not fit into this batch is due for the next.
            state.is_due |= state.len() > 0;
        }
        self.changed.notify_all();
    }

    /// Whether nothing that is recorded under a key waits.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.state.lock();
        state.results.is_empty() && state.contents.is_empty()
    }

    /// Waits until everything put so far is committed, or a commit fails.
    pub(super) fn flush(&self) -> Result<(), String> {
        let mut state = self.state.lock();
        let target = state.next;
        let is_waiting = |state: &State| {
            state.results.values().any(|(number, _)| *number <= target)
                || state.contents.values().any(|(number, _)| *number <= target)
                || state.builds.values().any(|(number, _)| *number <= target)
        };
        // A failure of a commit that was under way already tells nothing about the next one.
        let since = state.commits + 1;
        while is_waiting(&state) {
            if state.is_ended {
                return Err("the writer has ended".to_owned());
            }
            if state.commits > since
                && let Some(failure) = &state.failure
            {
                return Err(failure.clone());
            }
            state.is_due = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Asks the writer to commit what there is and end.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        // The last chance for what could not be committed before.
        state.failure = None;
        drop(state);
        self.changed.notify_all();
    }

    /// Marks the writer as ended when dropped, even by a panic, so that nobody waits for it.
    pub(super) fn end_on_drop(&self) -> impl Drop + use<'_> {
        struct End<'a>(&'a Pending);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.state.lock().is_ended = true;
                self.0.changed.notify_all();
            }
        }
        End(self)
    }
}

impl Batch {
    fn of(state: &State) -> Self {
        let results = state
            .results
            .iter()
            .map(|(key, (number, record))| (*number, *key, Change::Results(record.clone())));
        let contents = state
            .contents
            .iter()
            .map(|(key, (number, digest))| (*number, *key, Change::Content(*digest)));
        let mut changes: Vec<_> = results.chain(contents).take(MAX_BATCH).collect();
        // Neighbours are written together.
        changes.sort_unstable_by_key(|(_, key, _)| *key);
        Self {
            changes,
            builds: state
                .builds
                .iter()
                .map(|(number, (_, build))| (*number, build.clone()))
                .collect(),
        }
    }
}
