//! Commits that fail.

use super::super::pending::{Change, MAX_WAITING, Pending};
use super::*;

fn nth(n: usize) -> CacheKey {
    CacheKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn content(n: usize) -> Change {
    Change::Content(Digest::sha256(&n.to_le_bytes()))
}

#[test]
fn what_cannot_be_committed_is_kept_up_to_a_limit_and_tried_again() {
    let pending = Pending::default();
    pending.put(nth(0), content(0));
    let batch = pending.next().unwrap();
    pending.settle(&batch, Err("no space left on device".to_owned()));
    for n in 1..2 * MAX_WAITING {
        pending.put(nth(n), content(n));
    }
    assert!(pending.content(&nth(0)).is_some());
    assert!(pending.content(&nth(MAX_WAITING - 1)).is_some());
    assert!(pending.content(&nth(MAX_WAITING)).is_none(), "beyond the limit");
    pending.put(nth(0), content(7));
    assert_eq!(
        pending.content(&nth(0)),
        Some(Digest::sha256(&7_usize.to_le_bytes())),
        "newer news of a known key"
    );
    // Once there is room again, everything that was kept is committed.
    let mut committed = 0;
    while pending.content(&nth(1)).is_some() || committed < MAX_WAITING {
        let batch = pending.next().unwrap();
        committed += batch.len();
        pending.settle(&batch, Ok(()));
    }
    assert_eq!(committed, MAX_WAITING);
    assert!(pending.content(&nth(0)).is_none());
}

#[test]
fn a_write_during_a_commit_is_not_taken_for_committed() {
    let pending = Pending::default();
    pending.put(nth(0), content(0));
    let batch = pending.next().unwrap();
    pending.put(nth(0), content(1));
    pending.settle(&batch, Ok(()));
    assert!(pending.content(&nth(0)).is_some());
    pending.close();
    let batch = pending.next().unwrap();
    pending.settle(&batch, Ok(()));
    assert!(pending.next().is_none());
}

#[test]
fn a_flush_says_that_a_commit_failed() {
    let pending = Pending::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ended = pending.end_on_drop();
            while let Some(batch) = pending.next() {
                pending.settle(&batch, Err("no space left on device".to_owned()));
            }
        });
        pending.put(nth(0), content(0));
        assert_eq!(pending.flush(), Err("no space left on device".to_owned()));
        // Closing tries once more, and ends all the same.
        pending.close();
    });
    assert_eq!(pending.flush(), Err("the writer has ended".to_owned()));
}
