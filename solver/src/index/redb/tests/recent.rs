//! What goes when there are too many records: what was used least recently.

use proptest::prelude::*;

use super::*;

const ROOM: u64 = 6;

fn open(path: &Path) -> RedbIndex {
    let limits = IndexLimits {
        records: ROOM,
        ..IndexLimits::default()
    };
    RedbIndex::open_with(path, limits).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Record(u8),
    Use(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..12_u8).prop_map(Step::Record),
        5 => (0..12_u8).prop_map(Step::Use),
        1 => Just(Step::Restart),
    ]
}

/// Which keys have results, without using them.
fn present(index: &RedbIndex) -> Vec<CacheKey> {
    index.scan(None, 100).unwrap().into_iter().map(|(key, _)| key).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_used_least_recently_goes(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let mut index = Some(open(&path));
        // In the order of their last use, the most recent last.
        let mut model: Vec<u8> = Vec::new();
        for step in steps {
            let at = index.as_ref().unwrap();
            match step {
                Step::Record(n) => {
                    at.record_results(&key(n), &Arc::default(), &vec![None]).unwrap();
                    at.flush().unwrap();
                    model.retain(|other| *other != n);
                    model.push(n);
                    let surplus = model.len().saturating_sub(usize::try_from(ROOM).unwrap());
                    drop(model.drain(..surplus));
                }
                Step::Use(n) => {
                    let is_there = at.results(&key(n)).unwrap().is_some();
                    prop_assert_eq!(is_there, model.contains(&n));
                    if is_there {
                        model.retain(|other| *other != n);
                        model.push(n);
                    }
                }
                Step::Restart => {
                    drop(index.take());
                    index = Some(open(&path));
                }
            }
            let mut expected: Vec<_> = model.iter().map(|n| key(*n)).collect();
            expected.sort_unstable();
            prop_assert_eq!(present(index.as_ref().unwrap()), expected);
        }
        for n in model {
            prop_assert!(index.as_ref().unwrap().known(&key(n)).unwrap().is_some());
        }
        prop_assert_eq!(index.as_ref().unwrap().repair().unwrap(), 0);
    }
}

#[test]
fn a_look_up_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let index = RedbIndex::open(&path).unwrap();
    index.record_results(&key(1), &Arc::default(), &vec![None]).unwrap();
    index.flush().unwrap();
    let before = std::fs::read(&path).unwrap();
    for _ in 0..1_000 {
        assert!(index.results(&key(1)).unwrap().is_some());
    }
    index.flush().unwrap();
    assert!(std::fs::read(&path).unwrap() == before);
}
