mod cache_dirs;

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cairn_solver::Digest;

use super::*;
use crate::archive::{self, ApplyOptions, ArchiveError, Entry, EntryKind, Mtime, TarWriter};
use crate::sys::{Root, is_root_or_skip, mounts};

fn describe(text: &str) -> Describe {
    Describe {
        description: text.to_owned(),
        record_type: "regular".to_owned(),
    }
}

fn blob(text: &str) -> Blob {
    Blob {
        digest: Digest::sha256(format!("blob {text}").as_bytes()),
        diff_id: Digest::sha256(text.as_bytes()),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        size: 1,
    }
}

/// Adds a layer in which `change` was made.
fn layer(store: &LayerStore, parents: &LayerList, change: impl FnOnce(&Path)) -> LayerList {
    let writable = store.prepare(parents).unwrap();
    let mounted = writable.mount().unwrap();
    change(mounted.path());
    mounted.unmount().unwrap();
    writable.commit(&describe("test")).unwrap()
}

fn write(name: &'static str, text: &'static str) -> impl FnOnce(&Path) {
    move |root| std::fs::write(root.join(name), text).unwrap()
}

fn names(store: &LayerStore, list: &LayerList) -> BTreeSet<String> {
    let mounted = store.mount_readonly(list).unwrap();
    let entries = mounted.root().read_dir("").unwrap();
    mounted.unmount().unwrap();
    entries
        .into_iter()
        .map(|entry| entry.name.into_string().unwrap())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Puts one file, named after the media type's end, into every layer, and counts.
#[derive(Default)]
struct FakeUnpacker {
    calls: AtomicUsize,
    fail: bool,
}

#[async_trait]
impl Unpacker for FakeUnpacker {
    async fn unpack(
        &self,
        blob: &Blob,
        dir: Root,
        _: Option<Vec<Root>>,
    ) -> Result<Unpacked, Box<dyn std::error::Error + Send + Sync>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        dir.symlink("content", &blob.diff_id.hex()[..8])?;
        if self.fail {
            return Err("broken blob".into());
        }
        Ok(Unpacked::Whole {
            implied: BTreeSet::new(),
            marked: BTreeSet::new(),
        })
    }
}

#[test]
fn layers_stack_and_deletions_hide() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let base = layer(&store, &store.scratch(), |root| {
        std::fs::write(root.join("a"), "1").unwrap();
        std::fs::write(root.join("b"), "1").unwrap();
        std::fs::set_permissions(root, PermissionsExt::from_mode(0o711)).unwrap();
    });
    let top = layer(&store, &base, |root| {
        std::fs::remove_file(root.join("a")).unwrap();
        std::fs::write(root.join("c"), "2").unwrap();
    });
    assert_eq!(names(&store, &store.scratch()), set(&[]));
    assert_eq!(names(&store, &base), set(&["a", "b"]));
    assert_eq!(names(&store, &top), set(&["b", "c"]));
    assert_eq!(top.ids().len(), 2);
    let mounted = store.mount_readonly(&top).unwrap();
    assert_eq!(
        mounted.root().stat("").unwrap().permissions(),
        0o711,
        "the root keeps its attributes"
    );
    assert!(std::fs::write(mounted.path().join("x"), "").is_err());
    drop(mounted);
    // The upper part alone shows what overlay keeps.
    assert!(
        store
            .layer_root(top.top().unwrap())
            .unwrap()
            .lstat("a")
            .unwrap()
            .is_whiteout()
    );
    drop(store);
    assert!(mounts::mounts_below(dir.path()).unwrap().is_empty());
}

#[test]
fn no_change_is_an_empty_layer() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let base = layer(&store, &store.scratch(), write("a", "1"));
    let same = layer(&store, &base, |root| {
        std::fs::write(root.join("t"), "").unwrap();
        std::fs::remove_file(root.join("t")).unwrap();
    });
    assert_eq!(same.ids().len(), 2);
    assert_ne!(same, base);
    assert!(
        store
            .layer_root(same.top().unwrap())
            .unwrap()
            .read_dir("")
            .unwrap()
            .is_empty()
    );
    let chmod = layer(&store, &base, |root| {
        std::fs::set_permissions(root, PermissionsExt::from_mode(0o700)).unwrap()
    });
    assert_eq!(chmod.ids().len(), 2);
}

#[test]
fn a_mounted_layer_cannot_be_finished_or_mounted_again() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let writable = store.prepare(&store.scratch()).unwrap();
    let mounted = writable.mount().unwrap();
    assert!(matches!(writable.mount(), Err(LayerError::StillMounted(_))));
    assert!(matches!(
        writable.commit(&describe("")),
        Err(LayerError::StillMounted(_))
    ));
    drop(mounted);
    let writable = store.prepare(&store.scratch()).unwrap();
    for name in ["one", "two"] {
        let mounted = writable.mount().unwrap();
        std::fs::write(mounted.path().join(name), "").unwrap();
    }
    let list = writable.commit(&describe("")).unwrap();
    assert_eq!(names(&store, &list), set(&["one", "two"]));
}

#[test]
fn merging_is_concatenation_and_the_last_occurrence_counts() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let base = layer(&store, &store.scratch(), write("f", "base"));
    let left = layer(&store, &base, write("f", "left"));
    let right = layer(&store, &base, write("g", "right"));
    let merged = left.merge(std::slice::from_ref(&right));
    assert_eq!(merged.ids().len(), 4, "images have all of them");
    let mounted = store.mount_readonly(&merged).unwrap();
    assert_eq!(mounted.root().read_file_limited("f", 10).unwrap(), b"base");
    assert_eq!(mounted.root().read_file_limited("g", 10).unwrap(), b"right");
    drop(mounted);
    assert_eq!((merged.bottom(2), merged.above(2)), (left, right));
}

#[test]
fn results_survive_a_restart_and_the_rest_does_not() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    assert!(matches!(LayerStore::open(dir.path()), Err(LayerError::InUse(_))));
    let kept = layer(&store, &store.scratch(), write("a", "1"));
    let id = store.record_result(&kept).unwrap();
    assert_eq!(store.record_result(&kept).unwrap(), id);
    let lost = layer(&store, &kept, write("b", "1"));
    // A crash in the next few milliseconds may take the records; this one comes later.
    store.settle().unwrap();
    let unfinished = store.prepare(&kept).unwrap();
    let mounted = unfinished.mount().unwrap();
    std::fs::write(mounted.path().join("c"), "").unwrap();
    let lost_id = lost.top().unwrap().clone();
    // As after a kill: nothing gets to clean up.
    std::mem::forget(mounted);
    std::mem::forget(unfinished);
    drop(lost);
    drop(kept);
    let inner = Arc::clone(&store.inner);
    // One count for `store`, one here, one in the forgotten layer.
    assert_eq!(Arc::strong_count(&inner), 3);
    drop(store);
    forget_lock(dir.path());
    std::mem::forget(inner);
    let copy = tempfile::tempdir().unwrap();
    let store = reopen_elsewhere(dir.path(), copy.path());
    let list = store.pin(&id).unwrap().unwrap();
    assert_eq!(names(&store, &list), set(&["a"]));
    assert_eq!(store.layer(&lost_id).unwrap(), None);
    assert!(!copy.path().join("layers").join(lost_id.as_str()).exists());
    assert_eq!(std::fs::read_dir(copy.path().join("staging")).unwrap().count(), 0);
    drop(list);
    drop(store);
    mounts::unmount_below(&dir.path().canonicalize().unwrap()).unwrap();
}

/// The database and the lock of a store that was not closed stay with this process: take a copy, as a crash would.
fn reopen_elsewhere(from: &Path, to: &Path) -> LayerStore {
    mounts::unmount_below(&from.canonicalize().unwrap()).unwrap();
    // What is in the trash goes away meanwhile.
    let entries = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args(entries.filter(|path| !path.ends_with("trash")))
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
    LayerStore::open(to).unwrap()
}

fn forget_lock(dir: &Path) {
    std::fs::remove_file(dir.join("lock")).unwrap();
}

#[test]
fn layers_of_another_boot_that_are_not_durable_are_dropped() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let durable = layer(&store, &store.scratch(), write("a", "1"));
    store.sync().unwrap();
    assert_eq!(store.records(&durable).unwrap()[0].unsynced, None);
    let torn = layer(&store, &durable, write("b", "1"));
    let (durable_id, torn_id) = (
        store.record_result(&durable).unwrap(),
        store.record_result(&torn).unwrap(),
    );
    let torn_layer = torn.top().unwrap().clone();
    store.sync().unwrap();
    store
        .inner
        .db
        .write(|changes| {
            changes.update(
                super::metadata::LAYERS,
                torn_layer.as_str(),
                |record: &mut LayerRecord| {
                    record.unsynced = Some("another boot".to_owned());
                },
            )
        })
        .unwrap();
    drop((durable, torn));
    drop(store);
    let store = LayerStore::open(dir.path()).unwrap();
    assert!(store.pin(&torn_id).unwrap().is_none());
    assert!(store.pin(&durable_id).unwrap().is_some());
    assert!(store.layer_root(&torn_layer).is_err());
}

/// What a process that opens the records after a crash would find: a copy of the file as it is now.
fn results_after_crash(records: &Path, elsewhere: &Path) -> Vec<String> {
    std::fs::copy(records, elsewhere).unwrap();
    let copy = super::metadata::Metadata::open(elsewhere).unwrap().unwrap();
    let results: Vec<(String, ResultRecord)> = copy.all(super::metadata::RESULTS).unwrap();
    results.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn what_waits_for_the_disk_is_seen_at_once_and_gets_there() {
    use super::metadata::{Metadata, RESULTS};
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("records"), dir.path().join("copy"));
    let records = Arc::new(Metadata::open(&path).unwrap().unwrap());
    let result = ResultRecord {
        layers: Vec::new(),
        created: jiff::Timestamp::now(),
        transient: false,
    };
    let soon = |key: &str| {
        records
            .write_soon(|changes| changes.put(RESULTS, key, &result))
            .unwrap()
    };
    soon("one");
    assert!(records.get::<ResultRecord>(RESULTS, "one").unwrap().is_some());
    assert_eq!(results_after_crash(&path, &copy), Vec::<String>::new());
    records.settle().unwrap();
    assert_eq!(results_after_crash(&path, &copy), ["one"]);

    let settler = {
        let records = Arc::clone(&records);
        std::thread::spawn(move || records.keep_settling())
    };
    soon("two");
    records.close();
    settler.join().unwrap();
    assert_eq!(results_after_crash(&path, &copy), ["one", "two"]);
}

#[tokio::test]
async fn blobs_are_unpacked_once_and_only_when_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let list = store.add_blobs(&[blob("a"), blob("b")], &describe("pulled")).unwrap();
    assert_eq!(
        store.add_blobs(&[blob("a"), blob("b")], &describe("again")).unwrap(),
        list
    );
    assert!(matches!(store.prepare(&list), Err(LayerError::NotUnpacked(_))));
    let unpacker = Arc::new(FakeUnpacker::default());
    let seam: Arc<dyn Unpacker> = unpacker.clone();
    let all = futures_util::future::join_all((0..10).map(|_| store.ensure_unpacked(&list, &seam))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(unpacker.calls.load(Ordering::SeqCst), 2);
    assert!(store.records(&list).unwrap().iter().all(|record| record.unpacked));
    store
        .layer_root(&list.ids()[0])
        .unwrap()
        .read_link(&blob("a").diff_id.hex()[..8])
        .unwrap();
}

/// Unpacks tar archives that it has in memory, by blob.
#[derive(Default)]
struct TarUnpacker {
    tars: std::collections::BTreeMap<Digest, Vec<u8>>,
    calls: AtomicUsize,
}

impl TarUnpacker {
    fn add(&mut self, entries: &[(&str, EntryKind, u32, u32)]) -> Blob {
        let mut writer = TarWriter::new(Vec::new());
        for (path, kind, mode, owner) in entries {
            let entry = Entry {
                uid: *owner,
                gid: *owner,
                mtime: Mtime {
                    seconds: 1_000_000 + i64::from(*owner),
                    nanos: 0,
                },
                ..Entry::new(*path, kind.clone(), *mode)
            };
            writer.append(&entry, &mut std::io::empty()).unwrap();
        }
        let tar = writer.finish().unwrap();
        let blob = blob(&format!("{} {}", self.tars.len(), tar.len()));
        self.tars.insert(blob.digest, tar);
        blob
    }
}

#[async_trait]
impl Unpacker for TarUnpacker {
    async fn unpack(
        &self,
        blob: &Blob,
        dir: Root,
        lowers: Option<Vec<Root>>,
    ) -> Result<Unpacked, Box<dyn std::error::Error + Send + Sync>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let below: Vec<&Root> = lowers.iter().flatten().collect();
        match archive::apply(&self.tars[&blob.digest][..], &dir, &ApplyOptions::over(&below)) {
            Err(ArchiveError::MissingLink { .. }) if lowers.is_none() => Ok(Unpacked::NeedsLowers),
            applied => {
                let applied = applied?;
                Ok(Unpacked::Whole {
                    implied: applied.implied,
                    marked: applied.marked,
                })
            }
        }
    }
}

#[tokio::test]
async fn deletions_of_what_is_not_below_are_no_files() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let mut unpacker = TarUnpacker::default();
    let (file, directory) = (EntryKind::File, EntryKind::Directory);
    let base = unpacker.add(&[
        ("d", directory.clone(), 0o700, 0),
        ("d/.wh.never", file.clone(), 0o644, 0),
        ("d/there", file.clone(), 0o644, 0),
        (".wh.never", file.clone(), 0o644, 0),
    ]);
    let top = unpacker.add(&[
        ("d/.wh.there", file.clone(), 0o644, 0),
        ("e/.wh.never", file.clone(), 0o644, 0),
    ]);
    let unpacker: Arc<dyn Unpacker> = Arc::new(unpacker);
    for (blobs, expected) in [
        (vec![base.clone()], vec!["d", "d/there"]),
        (vec![base, top.clone()], vec!["d", "e"]),
        (vec![top], vec!["d", "e"]),
    ] {
        let list = store.add_blobs(&blobs, &describe("pulled")).unwrap();
        store.ensure_unpacked(&list, &unpacker).await.unwrap();
        let mounted = store.mount_readonly(&list).unwrap();
        let mut names = Vec::new();
        for dir in ["", "d", "e"] {
            let entries = mounted.root().read_dir(dir).into_iter().flatten();
            names.extend(entries.map(|entry| Path::new(dir).join(entry.name)));
        }
        names.sort();
        assert_eq!(names, expected.iter().map(Path::new).collect::<Vec<_>>());
        assert!(names.iter().all(|name| mounted.root().lstat(name).is_ok()));
    }
}

#[tokio::test]
async fn directories_that_a_layer_only_implies_look_like_those_below() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let mut unpacker = TarUnpacker::default();
    let (file, directory) = (EntryKind::File, EntryKind::Directory);
    let base = unpacker.add(&[
        ("./", directory.clone(), 0o711, 5),
        ("tmp", directory.clone(), 0o1777, 7),
        ("gone", directory.clone(), 0o700, 7),
    ]);
    let middle = unpacker.add(&[("other", file.clone(), 0o644, 0)]);
    let top = unpacker.add(&[
        ("tmp/a", file.clone(), 0o644, 0),
        (".wh.gone", file.clone(), 0o644, 0),
        ("gone/b", file.clone(), 0o644, 0),
        ("new/c", file.clone(), 0o644, 0),
    ]);
    let list = store.add_blobs(&[base, middle, top], &describe("pulled")).unwrap();
    let unpacker: Arc<dyn Unpacker> = Arc::new(unpacker);
    store.ensure_unpacked(&list, &unpacker).await.unwrap();
    let mounted = store.mount_readonly(&list).unwrap();
    for (path, mode, owner) in [
        ("", 0o711, 5),
        ("tmp", 0o1777, 7),
        ("gone", 0o755, 0),
        ("new", 0o755, 0),
    ] {
        let metadata = mounted.root().lstat(path).unwrap();
        assert_eq!(
            (metadata.permissions(), metadata.uid, metadata.gid),
            (mode, owner, owner),
            "{path:?}"
        );
        if owner != 0 {
            assert_eq!(metadata.mtime.secs, 1_000_000 + i64::from(owner), "{path:?}");
        }
    }
    mounted.unmount().unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    assert!(store.inner.staged.lock().is_empty());
}

#[tokio::test]
async fn layers_that_need_those_below_are_unpacked_again_over_them() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let mut unpacker = TarUnpacker::default();
    let (file, directory) = (EntryKind::File, EntryKind::Directory);
    let base = unpacker.add(&[
        ("usr/lib", directory, 0o755, 0),
        ("usr/lib/old", file.clone(), 0o644, 7),
        ("lib", EntryKind::Symlink(b"usr/lib".to_vec()), 0o777, 0),
    ]);
    let through_link = unpacker.add(&[("lib/new", file, 0o644, 0)]);
    let hard_link = unpacker.add(&[("same", EntryKind::Hardlink(b"lib/old".to_vec()), 0o644, 7)]);
    let list = store
        .add_blobs(&[base.clone(), through_link, hard_link.clone()], &describe("pulled"))
        .unwrap();
    let tars = Arc::new(unpacker);
    let unpacker: Arc<dyn Unpacker> = tars.clone();
    store.ensure_unpacked(&list, &unpacker).await.unwrap();
    assert_eq!(tars.calls.load(Ordering::SeqCst), 5);
    let mounted = store.mount_readonly(&list).unwrap();
    assert!(mounted.root().lstat("lib").unwrap().is_symlink());
    assert!(mounted.root().lstat("usr/lib/new").unwrap().is_file());
    assert_eq!(mounted.root().lstat("same").unwrap().uid, 7);
    mounted.unmount().unwrap();
    // With nothing below, the link leads nowhere, and nothing is recorded.
    drop(list);
    store.prune(&PruneOptions::default(), |_| true).unwrap();
    let alone = store.add_blobs(&[hard_link], &describe("pulled")).unwrap();
    let error = store.ensure_unpacked(&alone, &unpacker).await.unwrap_err();
    assert!(matches!(error, LayerError::Shared(_)), "{error}");
    assert!(!store.records(&alone).unwrap()[0].unpacked);
}

#[tokio::test]
async fn images_with_layers_in_different_orders_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let one = store.add_blobs(&[blob("a"), blob("b")], &describe("one")).unwrap();
    let other = store.add_blobs(&[blob("b"), blob("a")], &describe("other")).unwrap();
    let unpacker: Arc<dyn Unpacker> = Arc::new(FakeUnpacker::default());
    let (one, other) = tokio::join!(
        store.ensure_unpacked(&one, &unpacker),
        store.ensure_unpacked(&other, &unpacker)
    );
    one.and(other).unwrap();
}

#[tokio::test]
async fn a_blob_that_does_not_unpack_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let list = store.add_blobs(&[blob("a")], &describe("pulled")).unwrap();
    let broken: Arc<dyn Unpacker> = Arc::new(FakeUnpacker {
        fail: true,
        ..FakeUnpacker::default()
    });
    let error = store.ensure_unpacked(&list, &broken).await.unwrap_err();
    assert!(error.to_string().contains("broken blob"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
    let works: Arc<dyn Unpacker> = Arc::new(FakeUnpacker::default());
    store.ensure_unpacked(&list, &works).await.unwrap();
}

#[test]
fn uses_by_builds_are_counted_at_the_top_and_told_at_once() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let base = layer(&store, &store.scratch(), write("a", "1"));
    let top = layer(&store, &base, write("b", "1"));
    let result = store.record_result(&top).unwrap();
    let made = store.usage().unwrap();
    let list = store.pin_for_build(&result).unwrap().expect("it was recorded");
    drop(store.pin(&result).unwrap());
    let used = store.usage().unwrap();
    for (before, after) in made.iter().zip(&used) {
        let is_top = list.ids().last().is_some_and(|id| id.as_str() == after.id);
        assert_eq!((before.usage_count, after.usage_count), (1, 1 + u64::from(is_top)));
        assert!(after.last_used_at > before.last_used_at, "what is below is in use too");
    }
}

#[test]
fn pruning_takes_tops_first_and_leaves_what_is_held() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let base = layer(&store, &store.scratch(), write("a", "1"));
    let left = layer(&store, &base, write("b", "1"));
    let right = layer(&store, &base, write("c", "1"));
    let ids: Vec<_> = [&base, &left, &right]
        .map(|list| store.record_result(list).unwrap())
        .into();
    drop((base, left));
    let removed = store.prune(&PruneOptions::default(), |_| true).unwrap();
    assert_eq!(removed.len(), 1, "only what nobody holds");
    assert!(store.pin(&ids[1]).unwrap().is_none());
    assert_eq!(names(&store, &right), set(&["a", "c"]));
    drop(right);
    let recent = PruneOptions {
        keep_duration: Duration::from_secs(600),
        ..PruneOptions::default()
    };
    assert!(store.prune(&recent, |_| true).unwrap().is_empty());
    let within = PruneOptions {
        max_used_space: 1 << 30,
        ..PruneOptions::default()
    };
    assert!(store.prune(&within, |_| true).unwrap().is_empty());
    assert!(
        store
            .prune(&PruneOptions::default(), |record| record.record_type == "frontend")
            .unwrap()
            .is_empty()
    );
    let removed = store.prune(&PruneOptions::default(), |_| true).unwrap();
    assert_eq!(removed.len(), 2);
    assert!(removed[1].parents.is_empty());
    assert!(removed[0].size > 0);
    assert!(store.usage().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
}

#[test]
fn layers_below_a_pruned_one_that_no_result_has_go_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let list = store
        .add_blobs(&[blob("a"), blob("b"), blob("c")], &describe("pulled"))
        .unwrap();
    store.record_result(&list).unwrap();
    let top = list.top().unwrap().to_string();
    drop(list);
    let removed = store
        .prune(&PruneOptions::default(), |record| record.id == top)
        .unwrap();
    assert_eq!(removed.len(), 3);
}

#[test]
fn a_layer_that_is_there_twice_is_kept_used_and_pruned_as_one() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let twice = layer(&store, &store.scratch(), write("f", "twice"));
    let between = layer(&store, &store.scratch(), write("f", "between"));
    let list = twice.merge(&[between, twice.clone()]);
    let above = layer(&store, &list, write("g", "above"));
    assert_eq!(above.ids().len(), 4);
    let mounted = store.mount_readonly(&above).unwrap();
    assert_eq!(mounted.root().read_file_limited("f", 10).unwrap(), b"twice");
    drop(mounted);
    let result = store.record_result(&above).unwrap();
    drop((twice, list, above));
    let pinned = store.pin(&result).unwrap().expect("it was recorded");
    assert_eq!(pinned.ids().len(), 4);
    assert_eq!(names(&store, &pinned), set(&["f", "g"]));
}
