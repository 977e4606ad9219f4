use super::super::MemoryIndex;
use super::*;
use crate::worker::ResultId;

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

/// What every index does.
fn conformance(index: &dyn CacheIndex) {
    let preimage = Preimage {
        kind: "exec".to_owned(),
        ..Preimage::default()
    };
    let outputs = vec![Some(ResultId::new("a")), None];
    assert_eq!(index.results(&key(1)).unwrap(), None);
    index.record_results(&key(1), &preimage, &outputs).unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), Some(outputs.clone()));
    assert_eq!(index.preimage(&key(1)).unwrap(), Some(preimage.clone()));
    let newer = vec![Some(ResultId::new("b"))];
    index.record_results(&key(1), &preimage, &newer).unwrap();
    index.flush().unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), Some(newer));
    index.forget(&key(1)).unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), None);
    index.flush().unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), None);
    let digest = Digest::sha256(b"x");
    assert_eq!(index.content(&key(2)).unwrap(), None);
    index.record_content(&key(2), &digest).unwrap();
    assert_eq!(index.content(&key(2)).unwrap(), Some(digest));
    index.flush().unwrap();
    assert_eq!(index.content(&key(2)).unwrap(), Some(digest));
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
        index.record_results(&key(1), &Preimage::default(), &outputs).unwrap();
    }
    let index = RedbIndex::open(&path).unwrap();
    assert_eq!(index.results(&key(1)).unwrap(), Some(outputs));
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
mod full;

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
                    index.record_results(&key, &Preimage::default(), &outputs).unwrap();
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
    for at in [0, 9, 64, 70, 100, 128, 200, 4096, 8192, whole.len() - 1] {
        let mut damaged = whole.clone();
        let end = (at + 16).min(damaged.len());
        damaged[at..end].fill(0xa5);
        std::fs::write(&path, &damaged).unwrap();
        let index = RedbIndex::open(&path).unwrap();
        for n in 0..100 {
            let found = index.content(&key(n)).ok().flatten();
            assert!(found.is_none_or(|found| found == Digest::sha256(&[n])), "at {at}");
        }
        index.record_content(&key(1), &Digest::sha256(b"new")).unwrap();
    }
    for len in [0, 1, 100, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let index = RedbIndex::open(&path).unwrap();
        index.record_content(&key(1), &Digest::sha256(b"new")).unwrap();
        index.flush().unwrap();
    }
}
