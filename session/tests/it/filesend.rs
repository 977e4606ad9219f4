use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::fsutil::Stat;
use cairn_session::filesend::{self, ExportTarget, FileOutcome, FileStream, OutputStream, OutputTarget, ReceiveMode};
use cairn_session::fsutil::{BoxError, LocalTree, Selection, Tree};
use cairn_session::{Services, mode};

use crate::support::{Connected, TRANSPORTS, Transport, big, connect, listing, sample_dir};

async fn take(transport: Transport, target: OutputTarget) -> Connected {
    let mut services = Services::new();
    filesend::serve(&mut services, BTreeMap::from([(3, target)]));
    connect(transport, services).await
}

fn to_dir(path: &Path, mode: ReceiveMode) -> OutputTarget {
    OutputTarget::Directory {
        path: path.to_owned(),
        mode,
    }
}

fn exporter() -> ExportTarget {
    ExportTarget {
        exporter: 3,
        is_multi_platform: true,
        ..Default::default()
    }
}

fn local(path: &Path) -> Arc<LocalTree> {
    Arc::new(LocalTree::new(path, &Selection::default(), true).unwrap())
}

#[tokio::test]
async fn files_are_written_when_complete() {
    for transport in TRANSPORTS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.tar");
        fs::write(&path, "old").unwrap();
        let connected = take(transport, OutputTarget::file(path.clone())).await;
        let stream = FileStream::open(&connected.session, &exporter()).unwrap();
        assert!(stream.write(Bytes::from(big())).await.unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(stream.finish().await.unwrap(), FileOutcome::Written);
        assert!(fs::read(&path).unwrap() == big());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn abandoned_files_leave_nothing() {
    let (opened, mut openings) = tokio::sync::mpsc::channel(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let target = path.clone();
    let open: filesend::OpenStream = Arc::new(move |_| {
        let (opened, path) = (opened.clone(), target.clone());
        Box::pin(async move {
            let stream = OutputStream::file(&path).await?;
            opened.send(()).await.unwrap();
            Ok(Some(stream))
        })
    });
    let connected = take(Transport::UnixSocket, OutputTarget::Stream(open)).await;
    let stream = FileStream::open(&connected.session, &exporter()).unwrap();
    stream.write(Bytes::from_static(b"half")).await.unwrap();
    openings.recv().await.unwrap();
    drop(stream);
    let emptied = async {
        while fs::read_dir(dir.path()).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), emptied).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn targets_see_metadata_and_may_decline() {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let seen_by_target = Arc::clone(&seen);
    let open: filesend::OpenStream = Arc::new(move |metadata| {
        *seen_by_target.lock().unwrap() = metadata;
        Box::pin(async { Ok(None) })
    });
    let connected = take(Transport::Memory, OutputTarget::Stream(open)).await;
    let metadata = BTreeMap::from([("Containerimage.Digest".to_owned(), "sha256:1".to_owned())]);
    let target = ExportTarget {
        exporter: 3,
        metadata,
        ..Default::default()
    };
    let stream = FileStream::open(&connected.session, &target).unwrap();
    while stream.write(Bytes::from(vec![0; 1 << 20])).await.unwrap() {}
    assert_eq!(stream.finish().await.unwrap(), FileOutcome::NotWanted);
    assert_eq!(
        *seen.lock().unwrap(),
        BTreeMap::from([("containerimage.digest".to_owned(), "sha256:1".to_owned())])
    );

    let stream = FileStream::open(&connected.session, &ExportTarget::default()).unwrap();
    assert!(
        stream
            .finish()
            .await
            .unwrap_err()
            .to_string()
            .contains("exporter 0 not found")
    );
}

#[tokio::test]
async fn trees_arrive_as_they_are() {
    let source = sample_dir();
    for transport in TRANSPORTS {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("new/out");
        let connected = take(transport, to_dir(&out, ReceiveMode::Merge)).await;
        let send = async || {
            filesend::send_tree(&connected.session, &exporter(), local(source.path()), Arc::new(|_| {}))
                .await
                .unwrap()
        };
        let summary = send().await;
        assert_eq!((summary.entries, summary.content_bytes), (12, 3_000_018));
        assert_eq!(listing(&out), listing(source.path()));
        assert_eq!(send().await.content_bytes, 0, "what is there already is not sent again");
        assert_eq!(listing(&out), listing(source.path()));
    }
}

#[tokio::test]
async fn merging_replaces_and_keeps_while_mirroring_deletes() {
    let source = sample_dir();
    for mode in [ReceiveMode::Merge, ReceiveMode::Mirror] {
        let out = tempfile::tempdir().unwrap();
        fs::create_dir_all(out.path().join("other/dir")).unwrap();
        fs::create_dir_all(out.path().join("a.txt/was/a/dir")).unwrap();
        fs::create_dir_all(out.path().join("link/was/a/dir")).unwrap();
        fs::write(out.path().join("a"), "was a file").unwrap();
        symlink("/etc/passwd", out.path().join("nothing")).unwrap();
        let connected = take(Transport::Memory, to_dir(out.path(), mode)).await;
        filesend::send_tree(&connected.session, &exporter(), local(source.path()), Arc::new(|_| {}))
            .await
            .unwrap();
        let mut found = listing(out.path());
        assert_eq!(found.remove(Path::new("other")).is_some(), mode == ReceiveMode::Merge);
        assert_eq!(
            found.remove(Path::new("other/dir")).is_some(),
            mode == ReceiveMode::Merge
        );
        assert_eq!(found, listing(source.path()));
    }
}

#[tokio::test]
async fn mirroring_refuses_a_tree_of_one_platform() {
    let out = tempfile::tempdir().unwrap();
    let source = sample_dir();
    let connected = take(Transport::Memory, to_dir(out.path(), ReceiveMode::Mirror)).await;
    let target = ExportTarget {
        exporter: 3,
        ..Default::default()
    };
    let error = filesend::send_tree(&connected.session, &target, local(source.path()), Arc::new(|_| {})).await;
    assert!(error.unwrap_err().to_string().contains("all platforms"));
}

/// Sends entries as they are given, with their paths as content.
struct Made(Vec<Stat>);

impl Tree for Made {
    fn walk(&self, emit: &mut dyn FnMut(Stat) -> bool) -> Result<(), BoxError> {
        for stat in &self.0 {
            if !emit(stat.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> std::io::Result<Option<Box<dyn std::io::Read + Send>>> {
        Ok(Some(Box::new(std::io::Cursor::new(
            path.as_os_str().as_bytes().to_owned(),
        ))))
    }
}

#[tokio::test]
async fn nothing_is_written_outside() {
    let outside = tempfile::tempdir().unwrap();
    let file = |path: &str| Stat {
        path: path.into(),
        mode: 0o644,
        mod_time: 1,
        ..Default::default()
    };
    let dir = |path: &str| Stat {
        path: path.into(),
        mode: mode::DIR | 0o755,
        ..Default::default()
    };
    let link = |path: &str| Stat {
        path: path.into(),
        mode: mode::SYMLINK | 0o777,
        linkname: outside.path().to_str().unwrap().into(),
        ..Default::default()
    };
    let hard = |path: &str, target: &str| Stat {
        linkname: target.into(),
        ..file(path)
    };
    let rows = [
        vec![link("a"), file("a/escaped")],
        vec![file("../escaped")],
        vec![dir("a"), link("a/b"), file("a/b/escaped")],
        vec![dir("a"), hard("b", "../../etc/passwd")],
    ];
    for entries in rows {
        let out = tempfile::tempdir().unwrap();
        let connected = take(Transport::Memory, to_dir(out.path(), ReceiveMode::Merge)).await;
        let tree = Arc::new(Made(entries.clone()));
        let result = filesend::send_tree(&connected.session, &exporter(), tree, Arc::new(|_| {})).await;
        result.expect_err(&format!("{entries:?}"));
    }
    // A link that was there before is replaced by the directory, not written through.
    let out = tempfile::tempdir().unwrap();
    symlink(outside.path(), out.path().join("a")).unwrap();
    let connected = take(Transport::Memory, to_dir(out.path(), ReceiveMode::Merge)).await;
    let tree = Arc::new(Made(vec![dir("a"), file("a/inside")]));
    filesend::send_tree(&connected.session, &exporter(), tree, Arc::new(|_| {}))
        .await
        .unwrap();
    assert_eq!(fs::read(out.path().join("a/inside")).unwrap(), b"a/inside");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn many_files_and_unwritable_directories_arrive() {
    let mut entries = vec![Stat {
        path: "d".into(),
        mode: mode::DIR | 0o555,
        mod_time: 7,
        ..Default::default()
    }];
    let file = |n: u32| Stat {
        path: format!("d/{n:05}").into(),
        mode: 0o444,
        size: 7,
        mod_time: 1,
        ..Default::default()
    };
    entries.extend((0..5000).map(file));
    let out = tempfile::tempdir().unwrap();
    let connected = take(Transport::UnixSocket, to_dir(out.path(), ReceiveMode::Merge)).await;
    let tree = Arc::new(Made(entries));
    let summary = filesend::send_tree(&connected.session, &exporter(), tree, Arc::new(|_| {}))
        .await
        .unwrap();
    assert_eq!((summary.entries, summary.content_bytes), (5001, 35_000));
    assert_eq!(fs::read_dir(out.path().join("d")).unwrap().count(), 5000);
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let metadata = fs::metadata(out.path().join("d")).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.mtime_nsec()), (0o555, 7));
    fs::set_permissions(out.path().join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}
