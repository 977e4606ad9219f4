use ::redb::{Database, ReadableDatabase as _, TableDefinition};

use super::super::{MAX_BUILDS, MAX_SITE_KEYS, MemoryIndex, Millis, Removed};
use super::*;
use crate::cache_key::Preimage;
use crate::worker::ResultId;

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

/// What every index does.
fn conformance(index: &dyn CacheIndex) {
    let known = Arc::new(Known {
        preimage: Preimage {
            kind: "exec".into(),
            ..Preimage::default()
        },
        ..Known::default()
    });
    let outputs = vec![Some(ResultId::new("a")), None];
    assert_eq!(index.results(&key(1)).unwrap(), None);
    index.record_results(&key(1), &known, &outputs).unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), Some(outputs.clone()));
    assert_eq!(index.known(&key(1)).unwrap().as_ref(), Some(&*known));
    assert_eq!(index.removal(&key(1)).unwrap(), None);
    let newer = vec![Some(ResultId::new("b"))];
    index.record_results(&key(1), &known, &newer).unwrap();
    index.flush().unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), Some(newer));
    let removal = Removal {
        at: Millis(5),
        how: Removed::Pruned,
    };
    index.forget(&key(1), removal).unwrap();
    for _ in 0..2 {
        assert_eq!(index.results(&key(1)).unwrap(), None);
        assert_eq!(index.removal(&key(1)).unwrap(), Some(removal));
        assert_eq!(
            index.known(&key(1)).unwrap().as_ref(),
            Some(&*known),
            "it can still be explained"
        );
        index.flush().unwrap();
    }
    index.record_results(&key(1), &known, &outputs).unwrap();
    assert_eq!(index.removal(&key(1)).unwrap(), None);
    index.flush().unwrap();
    assert_eq!(index.removal(&key(1)).unwrap(), None);
    let digest = Digest::sha256(b"x");
    assert_eq!(index.content(&key(2)).unwrap(), None);
    index.record_content(&key(2), &digest).unwrap();
    assert_eq!(index.content(&key(2)).unwrap(), Some(digest));
    index.flush().unwrap();
    assert_eq!(index.content(&key(2)).unwrap(), Some(digest));
    history_conformance(index, &known);
}

fn build(id: &str, sites: &[(u8, u8)]) -> BuildRecord {
    BuildRecord {
        summary: BuildSummary {
            id: id.to_owned(),
            ..BuildSummary::default()
        },
        sites: sites.iter().map(|&(site, n)| (SiteId([site; 32]), key(n))).collect(),
        ..BuildRecord::default()
    }
}

fn history_conformance(index: &dyn CacheIndex, known: &Arc<Known>) {
    let site = SiteId([1; 32]);
    index.record_build(build("a", &[(1, 1)])).unwrap();
    index.record_build(build("b", &[(1, 9)])).unwrap();
    let third = BuildRecord {
        unfinished: vec![(key(1), Arc::default()), (key(8), known.clone())],
        ..build("c", &[(1, 1), (3, 7)])
    };
    index.record_build(third).unwrap();
    index.flush().unwrap();
    let builds = index.builds().unwrap();
    let ids: Vec<&str> = builds.iter().map(|build| build.id.as_str()).collect();
    assert_eq!(ids, ["c", "b", "a"]);
    assert!(index.steps(builds[0].number).unwrap().is_empty());
    let keys = index.site(&site).unwrap();
    let entry = |n, first: usize, last: usize| SiteKey {
        key: key(n),
        first: builds[first].number,
        last: builds[last].number,
    };
    assert_eq!(keys, [entry(1, 2, 0), entry(9, 1, 1)]);
    assert_eq!(
        index.known(&key(1)).unwrap().as_ref(),
        Some(&**known),
        "it had ended well before"
    );
    assert_eq!(index.removal(&key(8)).unwrap().unwrap().how, Removed::NotFinished);
    assert_eq!(
        index.repair().unwrap(),
        1,
        "nothing is known about what the third site had"
    );
    assert!(index.site(&SiteId([3; 32])).unwrap().is_empty());
    assert!(!index.site(&site).unwrap().is_empty());

    let found = index.scan(None, 10).unwrap();
    assert_eq!(found.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(1)]);
    assert!(index.scan(Some(&key(1)), 10).unwrap().is_empty());
    for n in 0..=MAX_BUILDS {
        index
            .record_build(build(&n.to_string(), &[(2, u8::try_from(n).unwrap())]))
            .unwrap();
        index.flush().unwrap();
    }
    assert_eq!(index.builds().unwrap().len(), MAX_BUILDS);
    assert_eq!(index.site(&SiteId([2; 32])).unwrap().len(), MAX_SITE_KEYS);
}

#[test]
fn both_indexes_conform() {
    conformance(&MemoryIndex::default());
    let dir = tempfile::tempdir().unwrap();
    conformance(&RedbIndex::open(&dir.path().join("index.redb")).unwrap());
}

#[test]
fn what_was_flushed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let outputs = vec![Some(ResultId::new("r"))];
    {
        let index = RedbIndex::open(&path).unwrap();
        index.record_results(&key(1), &Arc::default(), &outputs).unwrap();
    }
    let index = RedbIndex::open(&path).unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), Some(outputs));
}

#[test]
fn builds_are_there_after_a_restart_and_go_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let open = || RedbIndex::open(&path).unwrap();
    open().record_build(build("a", &[(1, 1)])).unwrap();
    let index = open();
    assert_eq!(index.builds().unwrap()[0].id, "a");
    index.record_build(build("b", &[(1, 2)])).unwrap();
    index.flush().unwrap();
    let builds = index.builds().unwrap();
    assert!(builds.len() == 2 && builds[0].number > builds[1].number);
}

#[test]
fn a_file_of_another_format_is_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let old: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("results.v1");
    {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(old)
            .unwrap()
            .insert(&[1; 32], &b"x"[..])
            .unwrap();
        transaction.commit().unwrap();
    }
    drop(RedbIndex::open(&path).unwrap());
    let database = Database::create(&path).unwrap();
    assert!(database.begin_read().unwrap().open_table(old).is_err());
}

#[test]
fn a_damaged_file_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    std::fs::write(&path, vec![7; 8192]).unwrap();
    let index = RedbIndex::open(&path).unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), None);
    assert!(path.with_extension("damaged").is_file());
}

#[test]
fn a_file_in_use_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let _first = RedbIndex::open(&path).unwrap();
    assert!(RedbIndex::open(&path).is_err());
}

mod crash;
mod faulty;
mod full;
mod growth;
mod power;
mod recent;

#[test]
fn readers_and_writers_do_not_hurt_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let index = RedbIndex::open(&dir.path().join("index.redb")).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let index = &index;
            scope.spawn(move || {
                for n in 0..200_u8 {
                    let key = CacheKey::from_bytes([n; 32]);
                    let outputs = vec![Some(ResultId::new(format!("{writer}.{n}")))];
                    index.record_results(&key, &Arc::default(), &outputs).unwrap();
                    index.record_content(&key, &Digest::sha256(&[n])).unwrap();
                    // Whatever another one wrote meanwhile, it is a whole record of this key.
                    let found = index.results(&key).unwrap().unwrap();
                    let id = found[0].as_ref().unwrap().as_str();
                    assert_eq!(id.split_once('.').unwrap().1, n.to_string());
                    assert_eq!(index.content(&key).unwrap(), Some(Digest::sha256(&[n])));
                    if n % 50 == 0 {
                        index.flush().unwrap();
                    }
                }
            });
        }
    });
    let last = |index: &RedbIndex| -> Vec<_> { (0..200).map(|n| index.results(&key(n)).unwrap().unwrap()).collect() };
    let before = last(&index);
    drop(index);
    let again = RedbIndex::open(&dir.path().join("index.redb")).unwrap();
    assert_eq!(last(&again), before, "the last write is the one that stays");
}

#[test]
fn more_than_fits_into_one_batch_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    let key = |n: u32| CacheKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    {
        let index = RedbIndex::open(&path).unwrap();
        for n in 0..40_000 {
            index.record_content(&key(n), &Digest::sha256(b"x")).unwrap();
        }
    }
    let index = RedbIndex::open(&path).unwrap();
    assert!((0..40_000).all(|n| index.content(&key(n)).unwrap().is_some()));
}

#[test]
fn a_file_with_damage_anywhere_is_opened_or_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.redb");
    {
        let index = RedbIndex::open(&path).unwrap();
        for n in 0..100 {
            index.record_content(&key(n), &Digest::sha256(&[n])).unwrap();
        }
    }
    let whole = std::fs::read(&path).unwrap();
    let places = (0..whole.len())
        .step_by(whole.len() / 24)
        .chain([9, 64, 70, 100, 128, 200]);
    for at in places {
        let mut damaged = whole.clone();
        let end = (at + 16).min(damaged.len());
        damaged[at..end].fill(0xa5);
        std::fs::write(&path, &damaged).unwrap();
        let index = RedbIndex::open(&path).unwrap();
        for n in 0..100 {
            let found = index.content(&key(n)).ok().flatten();
            assert!(found.is_none_or(|found| found == Digest::sha256(&[n])), "at {at}");
        }
        // Whatever is found out when: in the end one can write, and what was written is there.
        index.record_content(&key(1), &Digest::sha256(b"new")).unwrap();
        let mut tries = 0;
        while let Err(error) = index.flush() {
            tries += 1;
            assert!(tries < 3, "at {at}: {error}");
        }
        assert_eq!(index.content(&key(1)).unwrap(), Some(Digest::sha256(b"new")), "at {at}");
        drop(index);
        let index = RedbIndex::open(&path).unwrap();
        assert_eq!(index.content(&key(1)).unwrap(), Some(Digest::sha256(b"new")), "at {at}");
    }
    for len in [0, 1, 100, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let index = RedbIndex::open(&path).unwrap();
        index.record_content(&key(1), &Digest::sha256(b"new")).unwrap();
        index.flush().unwrap();
    }
}
