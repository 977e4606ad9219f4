//! Indexes that grow too large.

use super::super::{compact, repair};
use super::*;

fn nth(n: u32) -> CacheKey {
    CacheKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn record(index: &RedbIndex, n: u32) {
    let known = Arc::new(Known {
        preimage: Preimage {
            kind: "exec".into(),
            fields: [("arg", format!("make {n}"))].into_iter().collect(),
            inputs: Vec::new(),
        },
        ..Known::default()
    });
    let outputs = vec![Some(ResultId::new(format!("r{n}")))];
    index.record_results(&nth(n), &known, &outputs).unwrap();
}

fn is_whole(index: &RedbIndex, n: u32) -> bool {
    let known = index.known(&nth(n)).unwrap();
    let made = format!("make {n}");
    assert!(known.is_none_or(|known| known.preimage.fields.iter().eq([("arg", &*made)])));
    index.results(&nth(n)).unwrap() == Some(vec![Some(ResultId::new(format!("r{n}")))])
}

#[test]
fn the_oldest_records_go_when_there_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let limits = IndexLimits {
        records: 10,
        ..IndexLimits::default()
    };
    let index = RedbIndex::open_with(&dir.path().join("index.redb"), limits).unwrap();
    let removal = Removal {
        at: Millis(5),
        how: Removed::Pruned,
    };
    for n in 0..30 {
        record(&index, n);
        index.record_content(&nth(n), &Digest::sha256(b"x")).unwrap();
        index.flush().unwrap();
        if n == 3 {
            // What is made anew is as good as new.
            record(&index, 0);
        }
        if n == 4 {
            index.forget(&nth(1), removal).unwrap();
        }
        index.flush().unwrap();
        if n == 12 {
            let left: Vec<u32> = (0..=n).filter(|n| is_whole(&index, *n)).collect();
            assert_eq!(left, [0, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
            assert_eq!(
                index.removal(&nth(1)).unwrap(),
                None,
                "nothing is left of what went first"
            );
            assert_eq!(index.known(&nth(1)).unwrap(), None);
        }
    }
    let left: Vec<u32> = (0..30).filter(|n| is_whole(&index, *n)).collect();
    assert_eq!(left, (20..30).collect::<Vec<_>>());
    let contents = (0..30).filter(|n| index.content(&nth(*n)).unwrap().is_some());
    assert_eq!(contents.count(), 20);
    assert_eq!(index.repair().unwrap(), 0);
}

#[test]
fn a_file_that_is_too_large_loses_its_oldest_records() {
    let dir = tempfile::tempdir().unwrap();
    let limits = IndexLimits {
        bytes: 0,
        ..IndexLimits::default()
    };
    let index = RedbIndex::open_with(&dir.path().join("index.redb"), limits).unwrap();
    for n in 0..10 {
        record(&index, n);
    }
    index.flush().unwrap();
    assert!(!(0..10).any(|n| is_whole(&index, n)));
}

#[test]
fn a_file_is_compacted_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let index = RedbIndex::open(&path).unwrap();
    let removal = Removal {
        at: Millis(5),
        how: Removed::Pruned,
    };
    for n in 0..4_000 {
        record(&index, n);
    }
    index.record_build(build("a", &[(1, 1)])).unwrap();
    index.flush().unwrap();
    for n in 100..4_000 {
        index.forget(&nth(n), removal).unwrap();
    }
    index.flush().unwrap();
    index.pending.ask_compaction();
    for n in 0..2_000 {
        match n % 3 {
            0 => index.forget(&nth(n % 50), removal).unwrap(),
            1 => record(&index, n % 50),
            _ => record(&index, n),
        }
        assert!(is_whole(&index, 51), "{n}");
    }
    for n in 0..100 {
        record(&index, n);
    }
    index.flush().unwrap();
    // The next thing that the writer does ends after the compaction.
    index.record_build(build("b", &[(1, 1)])).unwrap();
    index.flush().unwrap();
    assert!((0..100).all(|n| is_whole(&index, n)));
    assert_eq!(index.removal(&nth(3_999)).unwrap(), Some(removal));
    assert!(index.known(&nth(3_999)).unwrap().is_some());
    assert_eq!(index.builds().unwrap().len(), 2);
    drop(index);
    let index = RedbIndex::open(&path).unwrap();
    assert!((0..100).all(|n| is_whole(&index, n)));
    assert!(index.known(&nth(3_999)).unwrap().is_some());
    assert!(!path.with_extension("compacted").exists());
}

#[test]
fn a_compaction_that_was_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    std::fs::write(path.with_extension("compacted"), b"half").unwrap();
    drop(RedbIndex::open(&path).unwrap());
    assert!(!path.with_extension("compacted").exists());
}

#[test]
fn only_large_files_that_are_mostly_empty_are_compacted() {
    for (size, live, expected) in [
        (1 << 20, 0, false),
        (64 << 20, 1 << 20, true),
        (64 << 20, 32 << 20, false),
    ] {
        assert_eq!(compact::is_worth_it(size, live), expected, "{size} {live}");
    }
}

#[test]
fn strays_are_removed_and_the_rest_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let index = RedbIndex::open(&dir.path().join("index.redb")).unwrap();
    for n in 0..5_000 {
        record(&index, n);
    }
    index.flush().unwrap();
    let before = repair::repair(&index.file).unwrap();
    assert_eq!(before.removed, 0);
    assert!(before.live > 5_000 * 64);
    let stray = |database: &Database| -> Result<(), ::redb::Error> {
        let transaction = database.begin_write()?;
        transaction
            .open_table(super::super::tables::RESULTS)?
            .remove(nth(7).as_bytes())?;
        transaction.commit()?;
        Ok(())
    };
    index.file.write(stray).unwrap();
    assert_eq!(index.repair().unwrap(), 1);
    assert_eq!(index.repair().unwrap(), 0);
    assert!(is_whole(&index, 8));
}
