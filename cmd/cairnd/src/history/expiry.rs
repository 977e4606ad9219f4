//! Which records of builds have to go.

use std::time::{Duration, SystemTime};

/// Most bytes of all records, which are kept in memory too.
pub(super) const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Most bytes of all logs and details of errors.
pub(super) const MAX_BLOB_BYTES: u64 = 1 << 30;
/// Most records.
const MAX_RECORDS: usize = 10_000;

/// What is kept: a record goes when it is both older than one limit and beyond the other. Pinned records stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long records are kept at least.
    pub max_age: Duration,
    /// How many of the newest records are kept at least; 0 turns the history of finished builds off.
    pub max_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(48 * 3600),
            max_entries: 50,
        }
    }
}

/// A record that might go.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) id: &'a str,
    pub(super) completed: SystemTime,
    pub(super) is_pinned: bool,
    pub(super) record_bytes: u64,
    pub(super) blob_bytes: u64,
}

/// The ids of those that have to go now.
///
/// Beyond what `limits` say, the oldest go when all together are more than a disk should have to hold.
pub(super) fn expired(mut all: Vec<Candidate<'_>>, limits: &Limits, now: SystemTime) -> Vec<String> {
    // Pinned ones first: they stay, so that the others have the rest of the room.
    all.sort_by(|a, b| {
        b.is_pinned
            .cmp(&a.is_pinned)
            .then(b.completed.cmp(&a.completed))
            .then_with(|| a.id.cmp(b.id))
    });
    let (mut newer, mut record_bytes, mut blob_bytes) = (0, 0, 0);
    let mut gone = Vec::new();
    for (position, candidate) in all.into_iter().enumerate() {
        record_bytes += candidate.record_bytes;
        blob_bytes += candidate.blob_bytes;
        if candidate.is_pinned {
            continue;
        }
        let age = now.duration_since(candidate.completed).unwrap_or_default();
        let is_old = newer >= limits.max_entries && age > limits.max_age;
        let is_too_much = position >= MAX_RECORDS || record_bytes > MAX_RECORD_BYTES || blob_bytes > MAX_BLOB_BYTES;
        newer += 1;
        if is_old || is_too_much {
            gone.push(candidate.id.to_owned());
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn candidate(id: &str, hours_ago: u64) -> Candidate<'_> {
        Candidate {
            id,
            completed: now() - Duration::from_secs(hours_ago * HOUR),
            is_pinned: false,
            record_bytes: 1,
            blob_bytes: 1,
        }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 * HOUR)
    }

    fn limits(hours: u64, max_entries: usize) -> Limits {
        Limits {
            max_age: Duration::from_secs(hours * HOUR),
            max_entries,
        }
    }

    #[test]
    fn records_go_when_they_are_both_old_and_many() {
        let all = || {
            vec![
                candidate("c", 30),
                candidate("a", 1),
                candidate("d", 40),
                candidate("b", 20),
            ]
        };
        for (hours, entries, gone) in [
            (24, 2, vec!["c", "d"]),
            (24, 3, vec!["d"]),
            (24, 4, vec![]),
            (35, 1, vec!["d"]),
            (100, 1, vec![]),
            (0, 1, vec!["b", "c", "d"]),
        ] {
            assert_eq!(
                expired(all(), &limits(hours, entries), now()),
                gone,
                "{hours} h, {entries}"
            );
        }
    }

    #[test]
    fn pinned_records_stay_and_do_not_count() {
        let mut all = vec![candidate("new", 1), candidate("old", 30), candidate("older", 40)];
        all[1].is_pinned = true;
        assert_eq!(expired(all.clone(), &limits(24, 1), now()), ["older"]);
        assert_eq!(expired(all, &limits(24, 2), now()), Vec::<String>::new());
    }

    #[test]
    fn there_is_a_limit_that_nobody_configures() {
        let mut all = vec![candidate("a", 1), candidate("b", 2), candidate("c", 3)];
        all[1].blob_bytes = MAX_BLOB_BYTES;
        assert_eq!(expired(all.clone(), &limits(24, 50), now()), ["b", "c"]);
        all[1].is_pinned = true;
        assert_eq!(expired(all.clone(), &limits(24, 50), now()), ["a", "c"]);
        all[1].blob_bytes = 0;
        all[0].record_bytes = MAX_RECORD_BYTES + 1;
        assert_eq!(expired(all, &limits(24, 50), now()), ["a", "c"]);
    }

    #[test]
    fn clocks_that_go_back_remove_nothing() {
        let all = vec![candidate("a", 0), candidate("b", 0)];
        assert!(expired(all, &limits(1, 0), now() - Duration::from_secs(HOUR)).is_empty());
    }
}
