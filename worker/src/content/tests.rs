use std::io::Write;

use super::*;

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path(), Durability::Synced).unwrap();
    (dir, store)
}

fn ingest_files(dir: &tempfile::TempDir) -> usize {
    fs::read_dir(dir.path().join("ingest")).unwrap().count()
}

#[test]
fn a_committed_blob_can_be_read_listed_and_deleted() {
    let (dir, store) = store();
    let info = store.put(b"hello").unwrap();
    assert_eq!(
        info,
        BlobInfo {
            digest: Digest::sha256(b"hello"),
            size: 5
        }
    );
    assert_eq!(store.read(&info.digest, 5).unwrap(), b"hello");
    assert_eq!(store.list().unwrap(), [info]);
    assert_eq!(ingest_files(&dir), 0);
    assert!(store.delete(&info.digest).unwrap());
    assert!(!store.delete(&info.digest).unwrap());
    assert!(matches!(store.reader(&info.digest), Err(ContentError::NotFound(_))));
}

#[test]
fn reading_is_bounded() {
    let (_dir, store) = store();
    let info = store.put(b"hello").unwrap();
    assert!(matches!(
        store.read(&info.digest, 4),
        Err(ContentError::TooLarge { size: 5, limit: 4, .. })
    ));
}

#[test]
fn unexpected_bytes_never_become_visible() {
    let (dir, store) = store();
    let wanted = Digest::sha256(b"wanted");
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"other").unwrap();
    let err = ingest.commit(Some(&wanted), None).unwrap_err();
    assert_eq!(
        err.to_string(),
        format!("digest mismatch: expected {wanted}, got {}", Digest::sha256(b"other"))
    );

    let mut ingest = store.resume("r").unwrap();
    ingest.write_all(b"other").unwrap();
    assert!(matches!(
        ingest.commit(Some(&wanted), Some(7)),
        Err(ContentError::SizeMismatch { expected: 7, actual: 5 })
    ));
    assert!(store.list().unwrap().is_empty());
    assert_eq!(ingest_files(&dir), 0);
    assert_eq!(store.resume("r").unwrap().offset(), 0);
}

#[test]
fn a_resumable_ingest_goes_on_after_a_restart() {
    let (dir, store) = store();
    let mut ingest = store.resume("layer").unwrap();
    ingest.write_all(b"first ").unwrap();
    assert!(matches!(store.resume("layer"), Err(ContentError::Busy(_))));
    drop(ingest);

    let store = ContentStore::open(dir.path(), Durability::Relaxed).unwrap();
    let mut ingest = store.resume("layer").unwrap();
    assert_eq!(ingest.offset(), 6);
    ingest.write_all(b"second").unwrap();
    let info = ingest.commit(Some(&Digest::sha256(b"first second")), Some(12)).unwrap();
    assert_eq!(store.read(&info.digest, 100).unwrap(), b"first second");
    store.sync().unwrap();
    assert_eq!(store.resume("layer").unwrap().offset(), 0);
}

#[test]
fn opening_removes_what_a_killed_writer_left() {
    let (dir, store) = store();
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"half").unwrap();
    // A killed process runs no destructors.
    std::mem::forget(ingest);
    let mut partial = store.resume("kept").unwrap();
    partial.write_all(b"half").unwrap();
    drop(partial);
    let old = store.resume("old").unwrap();
    let long_ago = SystemTime::now() - PARTIAL_LIFETIME - Duration::from_secs(1);
    File::options()
        .write(true)
        .open(old.path())
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    drop(old);
    assert_eq!(ingest_files(&dir), 3);
    ContentStore::open(dir.path(), Durability::Synced).unwrap();
    assert_eq!(ingest_files(&dir), 1);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_reset_ingest_starts_over() {
    let (_dir, store) = store();
    for mut ingest in [store.ingest().unwrap(), store.resume("x").unwrap()] {
        ingest.write_all(b"wrong").unwrap();
        ingest.reset().unwrap();
        ingest.write_all(b"right").unwrap();
        let info = ingest.commit(None, None).unwrap();
        assert_eq!(store.read(&info.digest, 5).unwrap(), b"right");
    }
}

#[test]
fn a_dropped_ingest_leaves_nothing_and_abort_removes_a_resumable_one() {
    let (dir, store) = store();
    drop(store.ingest().unwrap());
    store.resume("x").unwrap().abort();
    assert_eq!(ingest_files(&dir), 0);
    assert!(store.resume("x").is_ok());
}

/// Set in the process that is to be killed: the store's directory.
const VICTIM: &str = "CAIRN_TEST_KILLED_WRITER";

/// Not a test of its own: the other half of [`killing_the_writer_leaves_only_whole_blobs`].
#[test]
#[ignore = "run by another test, in a process of its own"]
fn killed_writer() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let store = ContentStore::open(Path::new(&dir), Durability::Relaxed).unwrap();
    for n in 0_u32.. {
        let bytes = n.to_le_bytes().repeat(50_000);
        if n % 2 == 0 {
            store.put(&bytes).unwrap();
        } else {
            let mut ingest = store.resume(&n.to_string()).unwrap();
            ingest.write_all(&bytes).unwrap();
            ingest.commit(None, None).unwrap();
        }
    }
}

#[test]
fn killing_the_writer_leaves_only_whole_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "content::tests::killed_writer", "--ignored"])
        .env(VICTIM, dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let blobs = dir.path().join("blobs/sha256");
    let count = || fs::read_dir(&blobs).map_or(0, Iterator::count);
    while count() < 20 {
        assert!(writer.try_wait().unwrap().is_none(), "the writer ended by itself");
        std::thread::yield_now();
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    let store = ContentStore::open(dir.path(), Durability::Synced).unwrap();
    let blobs = store.list().unwrap();
    assert!(blobs.len() >= 20);
    for blob in blobs {
        let bytes = store.read(&blob.digest, u64::MAX).unwrap();
        assert_eq!((Digest::sha256(&bytes), bytes.len()), (blob.digest, 200_000));
    }
}
