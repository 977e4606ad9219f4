use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cairn_proto::fsutil::Stat;
use cairn_proto::names;
use cairn_session::filesync::{self, DirRequest, LocalDir};
use cairn_session::fsutil::{
    BoxError, Decision, ReceiveSink, ReceiveSummary, Selection, TransferError, TransferLimits,
};
use cairn_session::{Services, mode};

use crate::support::{Connected, MemorySink, TRANSPORTS, Transport, big, connect, sample_dir};

async fn offer(transport: Transport, dir: &Path) -> Connected {
    let mut services = Services::new();
    let local = LocalDir {
        path: dir.to_owned(),
        keeps_owner: false,
    };
    filesync::serve(&mut services, BTreeMap::from([("context".to_owned(), local)]));
    connect(transport, services).await
}

async fn receive(connected: &Connected, selection: Selection, sink: &mut MemorySink) -> ReceiveSummary {
    let request = DirRequest {
        name: "context".into(),
        selection,
    };
    filesync::receive(&connected.session, &request, &TransferLimits::default(), sink)
        .await
        .unwrap()
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

/// What is included, excluded and followed.
fn selection([include, exclude, follow]: [&[&str]; 3]) -> Selection {
    Selection {
        include: strings(include),
        exclude: strings(exclude),
        follow: strings(follow),
    }
}

#[tokio::test]
async fn a_directory_arrives_whole() {
    let dir = sample_dir();
    for transport in TRANSPORTS {
        let connected = offer(transport, dir.path()).await;
        let mut sink = MemorySink::default();
        let summary = receive(&connected, Selection::default(), &mut sink).await;
        assert!(sink.is_list_complete && sink.is_complete);
        assert_eq!(
            sink.paths(),
            [
                "a",
                "a/deep",
                "a/deep/file",
                "a/up",
                "a.txt",
                "big",
                "dangling",
                "empty",
                "link",
                "nothing",
                "run.sh",
                "twin"
            ]
        );
        assert_eq!(sink.content[&b"a/deep/file"[..]], b"deep");
        assert_eq!(sink.content[&b"nothing"[..]], b"");
        assert!(sink.content[&b"big"[..]] == big());
        assert_eq!(sink.stat("run.sh").mode, mode::SETUID | 0o755);
        assert_eq!(sink.stat("empty").mode, mode::DIR | mode::STICKY | 0o777);
        assert_eq!(sink.stat("dangling").linkname, b"/nowhere/at/all");
        assert_eq!(sink.stat("a/up").linkname, b"../escape");
        assert_eq!(sink.stat("twin").linkname, b"a.txt");
        assert!(!sink.content.contains_key(&b"twin"[..]), "hard links carry no content");
        assert!(
            sink.entries
                .iter()
                .all(|stat| (stat.uid, stat.gid) == (0, 0) && stat.mod_time > 0)
        );
        assert_eq!((summary.entries, summary.files), (12, 5));
        assert_eq!(summary.content_bytes, 4 + 4 + 10 + 3_000_000);
        assert_eq!(sink.finished_files, 5);
    }
}

#[tokio::test]
async fn a_second_run_transfers_only_what_changed() {
    let dir = sample_dir();
    let connected = offer(Transport::UnixSocket, dir.path()).await;
    let mut first = MemorySink::default();
    receive(&connected, Selection::default(), &mut first).await;
    let known = |sink: &MemorySink| {
        sink.entries
            .iter()
            .map(|stat| (stat.path.clone(), stat.clone()))
            .collect()
    };

    let mut second = MemorySink {
        known: known(&first),
        ..Default::default()
    };
    let summary = receive(&connected, Selection::default(), &mut second).await;
    assert_eq!((summary.files, summary.content_bytes), (0, 0));
    assert_eq!(second.entries, first.entries);

    fs::write(dir.path().join("nothing"), "something").unwrap();
    let mut third = MemorySink {
        known: known(&first),
        ..Default::default()
    };
    receive(&connected, Selection::default(), &mut third).await;
    assert_eq!(
        third.content,
        BTreeMap::from([(b"nothing".to_vec(), b"something".to_vec())])
    );
}

#[tokio::test]
async fn thousands_of_files_arrive() {
    let dir = tempfile::tempdir().unwrap();
    for sub in 0..50 {
        let sub = dir.path().join(format!("d{sub}"));
        fs::create_dir(&sub).unwrap();
        for file in 0..100 {
            fs::write(sub.join(format!("f{file}")), format!("{}/{file}", sub.display())).unwrap();
        }
    }
    for transport in TRANSPORTS {
        let connected = offer(transport, dir.path()).await;
        let mut sink = MemorySink::default();
        let summary = receive(&connected, Selection::default(), &mut sink).await;
        assert_eq!((summary.entries, summary.files), (5050, 5000));
        assert!(sink.content.iter().all(|(path, data)| {
            data.as_slice()
                == format!("{}", dir.path().join(names::path(path)).display())
                    .replace("/f", "/")
                    .as_bytes()
        }));
    }
}

#[tokio::test]
async fn selections_choose() {
    let dir = sample_dir();
    fs::create_dir_all(dir.path().join("ä")).unwrap();
    fs::write(dir.path().join("ä/ü"), "").unwrap();
    symlink("../a.txt", dir.path().join("a/to-text")).unwrap();
    symlink("link/file", dir.path().join("chain")).unwrap();
    symlink("loop2", dir.path().join("loop1")).unwrap();
    symlink("loop1", dir.path().join("loop2")).unwrap();
    let connected = offer(Transport::Memory, dir.path()).await;
    // Included, excluded, followed; what arrives.
    let rows: &[[&[&str]; 4]] = &[
        [&["a/deep"], &[], &[], &["a", "a/deep", "a/deep/file"]],
        [&["*.txt", "none"], &[], &[], &["a.txt"]],
        [&["ä"], &[], &[], &["ä", "ä/ü"]],
        [&["a"], &["a/deep"], &[], &["a", "a/to-text", "a/up"]],
        [&[], &["*", "!a/deep/file"], &[], &["a", "a/deep", "a/deep/file"]],
        [&[], &["*", "!missing"], &[], &[]],
        [&["twin"], &[], &[], &["twin"]],
        [&[], &[], &["a.txt"], &["a.txt"]],
        [&[], &[], &["/link/file"], &["a", "a/deep", "a/deep/file", "link"]],
        [&[], &[], &["chain"], &["a", "a/deep", "a/deep/file", "chain", "link"]],
        [&[], &[], &["a/to-*"], &["a", "a/to-text", "a.txt"]],
        [&[], &[], &["loop1"], &["loop1", "loop2"]],
        [
            &[],
            &[],
            &["loop1/x", "missing/../nothing"],
            &["loop1", "loop2", "nothing"],
        ],
        [&[], &["*", "!empty"], &["."], &["empty"]],
        // A followed path that is the directory itself adds nothing; an included one means everything, with any other.
        [&["a.txt"], &[], &["."], &["a.txt"]],
        [&["."], &[], &[], &[]],
        [&["."], &["*", "!empty"], &["a.txt"], &["empty"]],
        // Above the directory there is nothing.
        [&[], &[], &["../a.txt"], &[]],
        [&[], &[], &["/../a.txt"], &[]],
        // On a walk, the last pattern is not asked about the directory, and does not match what is in it.
        [&["a"], &["*", "!a/*/file", "a"], &[], &["a", "a/deep", "a/deep/file"]],
        // A pattern that means nothing and is not come to.
        [&["a.txt"], &["missing", "!d\\y"], &[], &["a.txt"]],
    ];
    for [include, exclude, follow, expected] in rows {
        let selection = selection([include, exclude, follow]);
        let mut sink = MemorySink::default();
        receive(&connected, selection.clone(), &mut sink).await;
        assert_eq!(&sink.paths(), expected, "{selection:?}");
    }
    let mut sink = MemorySink::default();
    receive(
        &connected,
        Selection {
            include: strings(&["twin"]),
            ..Default::default()
        },
        &mut sink,
    )
    .await;
    assert_eq!(
        sink.content[&b"twin"[..]],
        b"text",
        "a link whose target is left out is a file"
    );
}

#[tokio::test]
async fn refusals_say_why() {
    let dir = sample_dir();
    let connected = offer(Transport::UnixSocket, dir.path()).await;
    let try_receive = async |request: DirRequest| {
        let mut sink = MemorySink::default();
        filesync::receive(&connected.session, &request, &TransferLimits::default(), &mut sink)
            .await
            .unwrap_err()
    };
    let error = try_receive(DirRequest {
        name: "other".into(),
        ..Default::default()
    })
    .await;
    let TransferError::Stream(status) = &error else {
        panic!("{error}")
    };
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert_eq!(status.message(), r#"no access allowed to dir "other""#);

    let selection = Selection {
        include: strings(&["[a-"]),
        ..Default::default()
    };
    let error = try_receive(DirRequest {
        name: "context".into(),
        selection,
    })
    .await;
    assert!(error.to_string().contains("invalid pattern"), "{error}");

    let without = connect(Transport::Memory, Services::new()).await;
    let request = DirRequest::default();
    let mut sink = MemorySink::default();
    let error = filesync::receive(&without.session, &request, &TransferLimits::default(), &mut sink).await;
    assert!(error.unwrap_err().to_string().contains("not supported by the client"));
}

#[tokio::test]
async fn names_are_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &'static [u8]| dir.path().join(names::path(path));
    fs::create_dir_all(at(b"d\xff/sub")).unwrap();
    fs::write(at(b"caf\xe9.txt"), "latin").unwrap();
    fs::write(at("café.txt".as_bytes()), "utf-8").unwrap();
    fs::write(at(b"d\xff/in\xfe"), "inner").unwrap();
    fs::hard_link(at(b"caf\xe9.txt"), at(b"twin\xe9")).unwrap();
    symlink(names::path(b"\xe9"), at(b"dangling\xc3")).unwrap();
    symlink(names::path(b"d\xff"), at(b"link")).unwrap();
    let all: &[&[u8]] = &[
        "café.txt".as_bytes(),
        b"caf\xe9.txt",
        b"dangling\xc3",
        b"d\xff",
        b"d\xff/in\xfe",
        b"d\xff/sub",
        b"link",
        b"twin\xe9",
    ];
    // Included, excluded, followed; what arrives.
    type Row<'a> = ([&'a [&'a str]; 3], &'a [&'a [u8]]);
    let rows: &[Row<'_>] = &[
        ([&[], &[], &[]], all),
        ([&["caf?.txt"], &[], &[]], &all[..2]),
        ([&["caf*"], &["café*"], &[]], &all[1..2]),
        ([&["d?"], &[], &[]], &all[3..6]),
        ([&["**/in*"], &[], &[]], &all[3..5]),
        ([&[], &["d*", "caf*", "twin[^a-z]"], &[]], &[b"link"]),
        ([&[], &[], &["link/in*"]], &[b"d\xff", b"d\xff/in\xfe", b"link"]),
    ];
    for transport in TRANSPORTS {
        let connected = offer(transport, dir.path()).await;
        for (selected, expected) in rows {
            let selection = selection(*selected);
            let mut sink = MemorySink::default();
            receive(&connected, selection.clone(), &mut sink).await;
            let paths: Vec<&[u8]> = sink.entries.iter().map(|stat| stat.path.as_slice()).collect();
            assert_eq!(&paths, expected, "{selection:?}");
        }
        let mut sink = MemorySink::default();
        receive(&connected, Selection::default(), &mut sink).await;
        assert_eq!(sink.content[&b"caf\xe9.txt"[..]], b"latin");
        assert_eq!(sink.content[&b"d\xff/in\xfe"[..]], b"inner");
        let links = sink.entries.iter().filter(|stat| !stat.linkname.is_empty());
        let links: Vec<_> = links.map(|stat| (&stat.path[..], &stat.linkname[..])).collect();
        let expected: [(&[u8], &[u8]); 3] = [
            (b"dangling\xc3", b"\xe9"),
            (b"link", b"d\xff"),
            (b"twin\xe9", b"caf\xe9.txt"),
        ];
        assert_eq!(links, expected);
    }
}

/// Fails in the middle, or makes the client disappear there.
struct Interrupting(Option<Connected>);

impl ReceiveSink for Interrupting {
    async fn entry(&mut self, _: u32, _: Stat) -> Result<Decision, BoxError> {
        Ok(Decision::Fetch)
    }

    async fn data(&mut self, _: u32, _: bytes::Bytes) -> Result<(), BoxError> {
        match &mut self.0 {
            Some(connected) => {
                connected.client = None;
                Ok(())
            }
            None => Err("disk full".into()),
        }
    }

    async fn end_of_file(&mut self, _: u32) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::test]
async fn interrupted_transfers_end_with_errors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("huge"), vec![1; 64 << 20]).unwrap();
    let request = DirRequest {
        name: "context".into(),
        ..Default::default()
    };
    for transport in TRANSPORTS {
        let connected = offer(transport, dir.path()).await;
        let session = connected.session.clone();
        let limits = TransferLimits::default();
        let error = filesync::receive(&session, &request, &limits, &mut Interrupting(None))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "failed to store received files: disk full");

        let mut sink = Interrupting(Some(connected));
        let work = filesync::receive(&session, &request, &limits, &mut sink);
        tokio::time::timeout(std::time::Duration::from_secs(20), work)
            .await
            .unwrap()
            .unwrap_err();
        session.closed().cancelled().await;
    }
}

#[tokio::test]
async fn unreadable_files_are_not_silently_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("private");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read(&path).is_ok() {
        return; // Root reads everything.
    }
    let connected = offer(Transport::Memory, dir.path()).await;
    let request = DirRequest {
        name: "context".into(),
        ..Default::default()
    };
    let mut sink = MemorySink::default();
    let error = filesync::receive(&connected.session, &request, &TransferLimits::default(), &mut sink).await;
    assert!(error.unwrap_err().to_string().contains("private"));
}
