//! Which records were used.
//!
//! Every row of what is known has a number, and numbers only grow: so those with the lowest are the oldest. A record that
//! is used gets a number of the same row of numbers as its *stamp*, which is gathered here and written down beside the
//! record now and then, never for one look-up. Only when a record comes up to be evicted is it moved to where its stamp
//! says that it stands. So what goes is what was used least recently, and what is never short of room never moves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache_key::CacheKey;

/// Records whose use is remembered until it is written down. Uses of others are forgotten while it is full.
const MAX_GATHERED: usize = 65_536;
/// How long uses gather if nothing wants them sooner.
const WRITTEN_AFTER: Duration = Duration::from_secs(60);

/// Records that were used since that was written down last, and their stamps.
pub(super) struct Uses {
    state: Mutex<State>,
}

struct State {
    stamps: HashMap<CacheKey, u64>,
    taken: Instant,
}

impl Default for Uses {
    fn default() -> Self {
        let state = State {
            stamps: HashMap::new(),
            taken: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl Uses {
    /// Takes note of a use. `last` is the last number that was given. Says whether it is high time to write uses down.
    pub(super) fn note(&self, key: &CacheKey, last: &AtomicU64) -> bool {
        let mut state = self.state.lock();
        let is_full = state.stamps.len() >= MAX_GATHERED;
        // Numbered with the place locked: of two uses of one record, the later number stays.
        if let Some(stamp) = state.stamps.get_mut(key) {
            *stamp = next_number(last, 1);
        } else if !is_full {
            state.stamps.insert(*key, next_number(last, 1));
        }
        state.stamps.len() == MAX_GATHERED && !is_full
    }

    /// Whether uses are to be written down with the next commit.
    pub(super) fn is_due(&self) -> bool {
        let state = self.state.lock();
        state.stamps.len() >= MAX_GATHERED || state.taken.elapsed() >= WRITTEN_AFTER
    }

    /// Takes what has gathered, in the order of keys.
    pub(super) fn take(&self) -> Vec<(CacheKey, u64)> {
        let mut state = self.state.lock();
        state.taken = Instant::now();
        let mut stamps: Vec<_> = std::mem::take(&mut state.stamps).into_iter().collect();
        drop(state);
        stamps.sort_unstable();
        stamps
    }

    /// Gives back what could not be written down.
    pub(super) fn give_back(&self, stamps: Vec<(CacheKey, u64)>) {
        let mut state = self.state.lock();
        for (key, stamp) in stamps {
            // What was noted since is newer.
            state.stamps.entry(key).or_insert(stamp);
        }
    }
}

/// The first of so many numbers that were never given before.
pub(super) fn next_number(last: &AtomicU64, count: u64) -> u64 {
    last.fetch_add(count, Ordering::Relaxed) + 1
}
