//! Transfers into the store, what they make of it, and collection.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::Stat;
use cairn_session::fsutil::{self, ReceiveSink, TransferLimits, Tree as _, order};
use cairn_session::mode;
use cairn_solver::llb::Differ;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::testing::{build, inode, listing, receive, receive_list};
use super::*;
use crate::sys::{Root, is_root_or_skip};

mod names;

struct Fixture {
    dir: tempfile::TempDir,
    store: TreeStore,
}

impl Fixture {
    fn new(spec: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("client")).unwrap();
        build(&dir.path().join("client"), spec);
        let store = TreeStore::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn receive(&self) -> (Tree, Vec<String>) {
        receive(&self.store, &self.path("client"), "context")
    }

    fn lay_out(&self, tree: &Tree, name: &str) -> std::path::PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        crate::fileop::lay_out(tree, &Root::open(&path).unwrap(), &|| false).unwrap();
        path
    }
}

const EXAMPLE: &str = "
    a = one
    d/ 700
    d/x = two 4755
    d/y -> ../a
    d/z/
    e = one 600
    p |
";

#[test]
fn a_tree_is_the_directory_that_was_received() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let (tree, fetched) = fixture.receive();
    assert_eq!(fetched, ["a", "d/x", "e"]);
    let out = fixture.lay_out(&tree, "out");
    assert_eq!(listing(&out), listing(&fixture.path("client")));
    let times = |path: &Path| fs::symlink_metadata(path).unwrap().modified().unwrap();
    for path in ["a", "d", "d/x", "d/y", "d/z", "p"] {
        assert_eq!(
            times(&out.join(path)),
            times(&fixture.path("client").join(path)),
            "{path}"
        );
    }
}

#[test]
fn files_are_listed_and_few_of_them_received() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    fs::write(fixture.path("client").join(".early"), "").unwrap();
    let wanted = ["d/x", "d/z"];
    let (tree, fetched) = receive_list(&fixture.store, &fixture.path("client"), &wanted);
    assert_eq!(fetched, ["d/x"]);
    let out = fixture.lay_out(&tree, "out");
    let list = fs::read(out.join(".fsutil-metadata")).unwrap();
    fs::remove_file(out.join(".fsutil-metadata")).unwrap();
    assert_eq!(listing(&out), "d/ 700\nd/x = two 4755\nd/z/ 755");
    let (mut listed, mut rest) = (Vec::new(), list.as_slice());
    while let Some((length, after)) = rest.split_first_chunk() {
        let (stat, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        let stat = <Stat as prost::Message>::decode(stat).unwrap();
        listed.push(stat.path().display().to_string());
        rest = after;
    }
    assert_eq!(listed, [".early", "a", "d", "d/x", "d/y", "d/z", "e", "p"]);
    // Known the next time, and the list is not mistaken for that of before.
    fs::remove_file(fixture.path("client").join("a")).unwrap();
    let (again, fetched) = receive_list(&fixture.store, &fixture.path("client"), &wanted);
    assert!(fetched.is_empty(), "{fetched:?}");
    let out = fixture.lay_out(&again, "again");
    assert_eq!(fs::read(out.join("d/x")).unwrap(), b"two");
    assert!(fs::read(out.join(".fsutil-metadata")).unwrap().len() < list.len());
}

#[test]
fn files_of_several_trees_take_room_once() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new("a = one\nd/\nd/x = two-and-more\nd/same = one-more");
    let (first, _) = fixture.receive();
    fs::write(fixture.path("client").join("a"), "another").unwrap();
    let (second, _) = fixture.receive();
    let usage = fixture.store.usage().unwrap();
    let sizes: Vec<_> = usage.iter().map(|record| (record.digest, record.bytes)).collect();
    assert_eq!(sizes, [(second.digest(), 7 + 12 + 8), (first.digest(), 3)]);
    drop(first);
    let swept = fixture.store.retain(&[second.digest()]).unwrap();
    assert_eq!((swept.trees, swept.files), (1, 1));
    assert_eq!(fixture.store.usage().unwrap().len(), 1);
}

#[test]
fn unchanged_files_are_not_asked_for_again() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let (first, _) = fixture.receive();
    let (second, fetched) = fixture.receive();
    assert!(fetched.is_empty());
    assert_eq!(first.digest(), second.digest());
    let records = fixture.store.trees().unwrap();
    assert_eq!(
        (records.len(), records[0].uses, records[0].files, records[0].bytes),
        (1, 2, 3, 9)
    );
    assert_eq!(records[0].name, "context");
    // Another directory has no earlier transfer to go by, but its files are stored once.
    let (_, fetched) = receive(&fixture.store, &fixture.path("client"), "other");
    assert_eq!(fetched.len(), 3);
    assert_eq!(fixture.store.trees().unwrap().len(), 1);
}

#[test]
fn a_touch_changes_the_tree_but_not_its_content() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let (first, _) = fixture.receive();
    Root::open(fixture.path("client"))
        .unwrap()
        .set_times("d/x", None, Some(crate::sys::Time { secs: 5, nanos: 0 }))
        .unwrap();
    let (second, fetched) = fixture.receive();
    assert_eq!(fetched, ["d/x"]);
    assert_ne!(first.digest(), second.digest());
    assert_eq!(first.content().unwrap(), second.content().unwrap());
    fs::write(fixture.path("client").join("d/x"), "three").unwrap();
    let (third, _) = fixture.receive();
    assert_ne!(second.content().unwrap(), third.content().unwrap());
}

#[test]
fn a_layer_has_at_most_one_link_to_a_stored_file() {
    if !is_root_or_skip() {
        return;
    }
    // Three files that are equal in everything, two of which are one.
    let fixture = Fixture::new("a = same\nb = same\nc == b\nd = other");
    let (tree, fetched) = fixture.receive();
    assert_eq!(fetched, ["a", "b", "d"]);
    let out = fixture.lay_out(&tree, "out");
    let at = |name: &str| inode(&out.join(name));
    assert_eq!(at("b").0, at("c").0, "hard links stay");
    assert_ne!(at("a").0, at("b").0, "equal files do not become hard links");
    let links: Vec<u64> = ["a", "b", "d"].map(|name| at(name).1).to_vec();
    assert_eq!(
        links,
        [2, 2, 2],
        "one name of each of two is in the store; both names of one are in the layer"
    );
    let again = fixture.lay_out(&tree, "again");
    assert_eq!(inode(&again.join("d")), (at("d").0, 3));
    assert_eq!(listing(&again), listing(&out));
    let (second, fetched) = fixture.receive();
    assert!(fetched.is_empty());
    assert_eq!(second.digest(), tree.digest());
}

#[test]
fn collection_keeps_what_is_live_or_open() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let (first, _) = fixture.receive();
    fs::write(fixture.path("client").join("a"), "changed").unwrap();
    let (second, _) = fixture.receive();
    assert_eq!(fixture.store.retain(&[]).unwrap().files, 0, "both trees are open");
    let live = second.digest();
    drop((first, second));
    let swept = fixture.store.retain(&[live]).unwrap();
    assert_eq!((swept.trees, swept.files), (1, 1));
    let (third, fetched) = fixture.receive();
    assert!(fetched.is_empty());
    assert_eq!(
        listing(&fixture.lay_out(&third, "out")),
        listing(&fixture.path("client"))
    );
    drop(third);
    let swept = fixture.store.retain(&[]).unwrap();
    assert_eq!((swept.trees, swept.files, swept.kept_bytes), (1, 3, 0));
    assert!(fixture.store.tree(live).unwrap().is_none());
    assert_eq!(fixture.receive().1.len(), 3);
}

#[test]
fn collection_leaves_a_running_transfer_alone() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new("");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut receiver = fixture
        .store
        .receive(SourceKey::new("c", "", ""), Differ::Metadata, None)
        .unwrap();
    let meta = FileMeta {
        mode: 0o644,
        ..FileMeta::default()
    };
    let tree = runtime.block_on(async {
        receiver.entry(0, stat("f", 0o100_644, 5)).await.unwrap();
        receiver.data(0, Bytes::from_static(b"bytes")).await.unwrap();
        receiver.end_of_file(0).await.unwrap();
        // Once the file is there, the transfer has registered it.
        let key = identity::file_key(&meta, blake3::hash(b"bytes").as_bytes());
        while !fixture.store.files().contains(&key).unwrap() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.store.retain(&[]).unwrap().files, 0);
        receiver.complete().await.unwrap();
        receiver.into_tree().unwrap()
    });
    assert_eq!(listing(&fixture.lay_out(&tree, "out")), "f = bytes 644");
}

#[test]
fn trees_that_were_not_synced_are_forgotten_after_a_reboot() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let (synced, _) = fixture.receive();
    fixture.store.sync().unwrap();
    fs::write(fixture.path("client").join("a"), "lost").unwrap();
    let (lost, _) = fixture.receive();
    let (synced, lost) = {
        let trees = (synced, lost);
        (trees.0.digest(), trees.1.digest())
    };
    let path = fixture.path("store");
    drop(fixture.store);
    let store = TreeStore::open(&path).unwrap();
    assert!(store.tree(lost).unwrap().is_some(), "a killed daemon loses nothing");
    drop(store);
    let store = TreeStore::open_on(&path, "another boot".to_owned()).unwrap();
    assert!(store.tree(lost).unwrap().is_none());
    let kept = store.tree(synced).unwrap().unwrap();
    let out = fixture.dir.path().join("out");
    fs::create_dir(&out).unwrap();
    crate::fileop::lay_out(&kept, &Root::open(&out).unwrap(), &|| false).unwrap();
    assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one");
    assert_eq!(store.retain(&[synced]).unwrap().files, 0, "the torn file went at once");
}

#[test]
fn a_damaged_database_is_started_anew() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    drop(fixture.receive());
    let path = fixture.path("store");
    drop(fixture.store);
    fs::write(path.join("v1/trees.redb"), "no database at all").unwrap();
    let store = TreeStore::open(&path).unwrap();
    assert!(store.trees().unwrap().is_empty());
    assert_eq!(
        receive(&store, &fixture.dir.path().join("client"), "context").1.len(),
        3
    );
}

fn stat(path: &str, st_mode: u32, size: i64) -> Stat {
    Stat {
        path: path.into(),
        mode: mode::from_unix(st_mode),
        size,
        ..Stat::default()
    }
}

#[test]
fn lists_that_make_no_sense_are_errors() {
    let fixture = Fixture::new("");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let file = 0o100_644;
    let link = |path: &str, to: &str| Stat {
        linkname: to.into(),
        ..stat(path, file, 0)
    };
    let lists = [
        vec![stat("a/b", file, 0)],
        vec![stat("a", file, 0), stat("a/b", file, 0)],
        vec![stat("d", 0o040_755, 0), stat("e", file, 0), stat("d/f", file, 0)],
        vec![link("a", "b")],
        vec![link("a", "a")],
        vec![stat("d", 0o040_755, 0), link("e", "d")],
        vec![Stat {
            mode: 1 << 31 | 1 << 27,
            ..stat("a", file, 0)
        }],
        vec![stat("a", file, -1)],
    ];
    for list in lists {
        let mut receiver = fixture
            .store
            .receive(SourceKey::new("c", "", ""), Differ::Metadata, None)
            .unwrap();
        let result = runtime.block_on(async {
            for (index, stat) in list.iter().enumerate() {
                receiver.entry(index as u32, stat.clone()).await?;
            }
            receiver.complete().await
        });
        assert!(result.is_err(), "{list:?}");
        assert!(receiver.into_tree().is_none());
    }
    let mut receiver = fixture
        .store
        .receive(SourceKey::new("c", "", ""), Differ::Metadata, None)
        .unwrap();
    assert!(runtime.block_on(receiver.end_of_file(7)).is_err());
}

#[test]
fn large_and_interleaved_files_are_stored_whole() {
    let fixture = Fixture::new("");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut receiver = fixture
        .store
        .receive(SourceKey::new("c", "", ""), Differ::None, None)
        .unwrap();
    let own = |path| Stat {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..stat(path, 0o100_600, 0)
    };
    let tree = runtime.block_on(async {
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            receiver.entry(index as u32, own(name)).await.unwrap();
        }
        for piece in 0..20u8 {
            for index in 0..3u32 {
                receiver
                    .data(index, vec![piece + index as u8; 32 << 10].into())
                    .await
                    .unwrap();
            }
        }
        for index in 0..3 {
            receiver.end_of_file(index).await.unwrap();
        }
        receiver.complete().await.unwrap();
        receiver.into_tree().unwrap()
    });
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let at = view::find(&tree, Path::new(name), Links::Keep).unwrap().unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut tree.open(&at).unwrap(), &mut content).unwrap();
        let want: Vec<u8> = (0..20u8)
            .flat_map(|piece| vec![piece + index as u8; 32 << 10])
            .collect();
        assert!(content == want, "{name}");
        assert_eq!(at.node.size(), want.len() as u64);
    }
    assert_eq!(fs::read_dir(fixture.path("store/v1/tmp")).unwrap().count(), 0);
}

#[test]
fn results_are_sent_in_order_each_to_its_directory() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new("b = bee\nc == b\nd/\nd/x = ex\nsbom.json = old");
    std::os::unix::fs::symlink("/b", fixture.path("client/e")).unwrap();
    let view: Arc<dyn View> = Arc::new(Root::open(fixture.path("client")).unwrap());
    let sender = ViewSender::new(Arc::clone(&view))
        .with_view("linux_amd64", view)
        .with_file("linux_amd64", "sbom.json", Bytes::from_static(b"new"))
        .with_file("", "a.json", Bytes::from_static(b"{}"));
    let mut stats: Vec<Stat> = Vec::new();
    sender
        .walk(&mut |stat| {
            stats.push(stat);
            true
        })
        .unwrap();
    let paths: Vec<_> = stats.iter().map(|stat| stat.path.as_slice()).collect();
    let top = ["a.json", "b", "c", "d", "d/x", "e"];
    let inner = ["b", "c", "d", "d/x", "e", "sbom.json"].map(|path| format!("linux_amd64/{path}"));
    let want: Vec<&[u8]> = top
        .into_iter()
        .chain(["linux_amd64"])
        .chain(inner.iter().map(String::as_str))
        .chain(["sbom.json"])
        .map(str::as_bytes)
        .collect();
    assert_eq!(paths, want);
    assert!(paths.is_sorted_by(|a, b| order::compare(a, b).is_lt()));
    assert_eq!(stats[2].linkname, b"b");
    assert_eq!(stats[8].linkname, b"linux_amd64/b");
    assert_eq!(
        (&stats[5].linkname[..], &stats[11].linkname[..]),
        (&b"/b"[..], &b"/linux_amd64/b"[..])
    );
    let read = |path: &str| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut sender.open(Path::new(path)).unwrap().unwrap(), &mut text).unwrap();
        text
    };
    assert_eq!(
        ["linux_amd64/sbom.json", "sbom.json", "linux_amd64/d/x", "d/x", "a.json"].map(read),
        ["new", "old", "ex", "ex", "{}"]
    );
    assert!(sender.open(Path::new("linux_amd64/gone")).unwrap().is_none());
}

/// Has a sender and a store transfer a tree as over the wire; tells how many files were sent, too.
async fn transfer(store: &TreeStore, sender: Arc<dyn fsutil::Tree>) -> (Tree, u32) {
    let (to_receiver, at_receiver) = mpsc::channel(4);
    let (to_sender, at_sender) = mpsc::channel(4);
    let mut receiver = store
        .receive(SourceKey::new("wire", "", ""), Differ::Metadata, None)
        .unwrap();
    let sending = fsutil::send(
        ReceiverStream::new(at_sender).map(Ok),
        to_receiver,
        sender,
        Arc::new(|_| {}),
    );
    let limits = TransferLimits::default();
    let receiving = fsutil::receive(
        ReceiverStream::new(at_receiver).map(Ok),
        to_sender,
        &limits,
        &mut receiver,
    );
    let (sent, received) = tokio::join!(sending, receiving);
    sent.unwrap();
    let files = received.unwrap().files;
    (receiver.into_tree().unwrap(), files)
}

#[tokio::test]
async fn a_transfer_over_the_protocol_makes_the_same_tree() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let view: Arc<dyn View> = Arc::new(Root::open(fixture.path("client")).unwrap());
    let mut digests = Vec::new();
    for want in [3, 0] {
        let (tree, files) = transfer(&fixture.store, Arc::new(ViewSender::new(Arc::clone(&view)))).await;
        assert_eq!(files, want);
        digests.push(tree.digest());
    }
    assert_eq!(digests[0], digests[1]);
    let fixture = tokio::task::spawn_blocking(move || {
        assert_eq!(fixture.receive().0.digest(), digests[0]);
        fixture
    });
    drop(fixture.await.unwrap());
}

/// Any bytes: what the file system allows is checked elsewhere.
fn name() -> impl Strategy<Value = OsString> {
    any::<Vec<u8>>().prop_map(OsString::from_vec)
}

fn entry() -> impl Strategy<Value = Entry> {
    let body = prop_oneof![
        (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(a, b)| Body::Dir {
            digest: TreeDigest(a),
            content: ContentHash(b)
        }),
        (
            any::<[u8; 32]>(),
            any::<[u8; 32]>(),
            any::<u64>(),
            proptest::option::of(name())
        )
            .prop_map(|(key, bytes, size, group)| {
                Body::File(FileBody {
                    key: FileKey(key),
                    bytes,
                    size,
                    group: group.map(|path| Path::new(&path).into()),
                })
            }),
        name().prop_map(|target| Body::Special(NodeKind::Symlink { target })),
        any::<(u32, u32)>().prop_map(|(major, minor)| Body::Special(NodeKind::CharDevice { major, minor })),
        any::<(u32, u32)>().prop_map(|(major, minor)| Body::Special(NodeKind::BlockDevice { major, minor })),
        Just(Body::Special(NodeKind::Fifo)),
        Just(Body::Special(NodeKind::Socket)),
    ];
    let xattrs = proptest::collection::btree_map(name(), any::<Vec<u8>>(), 0..3);
    (name(), any::<[u32; 3]>(), any::<i64>(), xattrs, body).prop_map(
        |(name, [mode, uid, gid], mtime_ns, xattrs, body)| Entry {
            name,
            mode,
            uid,
            gid,
            mtime_ns,
            xattrs,
            body,
        },
    )
}

proptest! {
    #[test]
    fn objects_survive_being_written_down(entries in proptest::collection::vec(entry(), 0..6)) {
        let dir = Dir { entries: entries.into_iter().map(Arc::new).collect() };
        let bytes = dir.encode();
        prop_assert_eq!(&Dir::decode(&bytes).unwrap().entries, &dir.entries);
        for cut in 0..bytes.len() {
            prop_assert!(Dir::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_at_worst(bytes in any::<Vec<u8>>()) {
        drop(Dir::decode(&bytes));
    }
}

#[test]
fn digests_are_names() {
    let digest = TreeDigest([0xab; 32]);
    assert_eq!(TreeDigest::parse(&digest.to_string()), Some(digest));
    let bad = ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &"ab".repeat(33)];
    assert!(bad.iter().all(|text| TreeDigest::parse(text).is_none()));
    let keys: BTreeSet<_> = [("a", "b", ""), ("a", "", "b"), ("a:b", "", ""), ("a", "b:", "")]
        .map(|(name, hint, shared)| SourceKey::new(name, hint, shared).as_str().to_owned())
        .into();
    assert_eq!(keys.len(), 4, "no two keys look alike");
}
