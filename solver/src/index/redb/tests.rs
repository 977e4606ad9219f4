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
