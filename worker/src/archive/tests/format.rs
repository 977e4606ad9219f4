use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;
use crate::archive::header;

/// Name, link target and data.
type Found = (Vec<u8>, Option<Vec<u8>>, Vec<u8>);

/// What the tar crate, as an independent reader, finds.
fn oracle(bytes: &[u8]) -> Vec<Found> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        (path, link, data)
    });
    entries.collect()
}

/// The segments of a sparse entry where they belong.
fn expand(entry: &Entry, packed: &[u8]) -> Vec<u8> {
    let Some(segments) = &entry.sparse else {
        return packed.to_vec();
    };
    let mut data = vec![0; entry.size as usize];
    let mut packed = packed;
    for segment in segments {
        let (now, rest) = packed.split_at(segment.length as usize);
        data[segment.offset as usize..][..now.len()].copy_from_slice(now);
        packed = rest;
    }
    data
}

fn link(entry: &Entry) -> Option<Vec<u8>> {
    match &entry.kind {
        EntryKind::Symlink(target) | EntryKind::Hardlink(target) => Some(target.clone()),
        _ => None,
    }
}

fn sample_tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("d/e")).unwrap();
    fs::write(at("d/file"), b"content").unwrap();
    fs::write(at("d/empty"), b"").unwrap();
    fs::write(at("d/umlaut-ä"), vec![b'x'; 1024]).unwrap();
    fs::hard_link(at("d/file"), at("d/hard")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", at("d/soft")).unwrap();
    let long = format!("d/e/{}", "n".repeat(150));
    fs::write(at(&long), b"long").unwrap();
    std::os::unix::fs::symlink("t".repeat(150), at("d/longlink")).unwrap();
    dir
}

fn sparse_file(dir: &Path, segments: u64) {
    let mut file = fs::File::create(dir.join("sparse")).unwrap();
    for n in 0..segments {
        file.seek(SeekFrom::Start(n * 131_072 + 65_536)).unwrap();
        file.write_all(&[n as u8 + 1; 4096]).unwrap();
    }
    file.set_len(segments * 131_072 + 65_536).unwrap();
}

#[test]
fn archives_of_gnu_tar_are_read_as_the_oracle_reads_them() {
    let dir = sample_tree();
    for format in ["gnu", "oldgnu", "pax", "posix"] {
        let bytes = gnu_tar(dir.path(), &[&format!("--format={format}"), "-cf", "-", "d"]);
        let ours: Vec<_> = read_all(&bytes)
            .unwrap()
            .into_iter()
            .map(|(entry, data)| (entry.path.clone(), link(&entry), data))
            .collect();
        assert_eq!(ours, oracle(&bytes), "{format}");
    }
}

#[test]
fn sparse_files_of_every_format_get_their_holes_back() {
    for segments in [1, 3, 40] {
        let dir = tempfile::tempdir().unwrap();
        sparse_file(dir.path(), segments);
        let want = fs::read(dir.path().join("sparse")).unwrap();
        for args in [
            &["--format=gnu", "-Scf", "-", "sparse"][..],
            &["--format=pax", "--sparse-version=0.0", "-Scf", "-", "sparse"],
            &["--format=pax", "--sparse-version=0.1", "-Scf", "-", "sparse"],
            &["--format=pax", "--sparse-version=1.0", "-Scf", "-", "sparse"],
        ] {
            let bytes = gnu_tar(dir.path(), args);
            let entries = read_all(&bytes).unwrap();
            let [(entry, packed)] = &entries[..] else {
                panic!("{entries:?}")
            };
            assert_eq!(entry.path, b"sparse", "{args:?}");
            assert!(entry.sparse.is_some(), "{args:?}");
            assert!(packed.len() < want.len() / 2, "{args:?}");
            assert!(expand(entry, packed) == want, "{args:?}");
        }
    }
}

#[test]
fn what_we_write_is_read_back_by_us_by_the_oracle_and_by_gnu_tar() {
    let entries = [
        (directory("usr/"), &b""[..]),
        (
            Entry {
                uid: 1000,
                gid: 70_000_000,
                mode: 0o4755,
                ..file("usr/prog")
            },
            b"program",
        ),
        (file(&format!("usr/{}/x", "p".repeat(140))), b"long path"),
        (file(&"q".repeat(300)), b"longer path"),
        (file("ümlaut"), b"utf-8"),
        (
            Entry {
                mtime: Mtime {
                    seconds: -5,
                    nanos: 250_000_000,
                },
                ..file("old")
            },
            b"",
        ),
        (
            Entry {
                mtime: Mtime {
                    seconds: 1 << 40,
                    nanos: 1,
                },
                ..file("late")
            },
            b"",
        ),
        (symlink("link", &"t".repeat(120)), b""),
        (hardlink("hard", "usr/prog"), b""),
        (
            Entry {
                xattrs: [(b"user.x".to_vec(), b"a\0b\n=c".to_vec())].into(),
                ..file("attributes")
            },
            b"x",
        ),
        (
            Entry::new("null", EntryKind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
            b"",
        ),
        (
            Entry::new(
                "disk",
                EntryKind::BlockDevice(Device {
                    major: 4095,
                    minor: 1_048_575,
                }),
                0o600,
            ),
            b"",
        ),
        (Entry::new("pipe", EntryKind::Fifo, 0o600), b""),
    ];
    let bytes = archive(&entries);
    assert_eq!(bytes.len() % 512, 0);
    let back = read_all(&bytes).unwrap();
    for ((entry, data), (read, read_data)) in entries.iter().zip(&back) {
        assert_eq!(
            &Entry {
                size: data.len() as u64,
                ..entry.clone()
            },
            read
        );
        assert_eq!(data, read_data);
    }
    let found = oracle(&bytes);
    let want: Vec<_> = back
        .iter()
        .map(|(entry, data)| (entry.path.clone(), link(entry), data.clone()))
        .collect();
    assert_eq!(found, want);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.tar"), &bytes).unwrap();
    let listed = gnu_tar(
        dir.path(),
        &[
            "--quoting-style=literal",
            "-tf",
            dir.path().join("a.tar").to_str().unwrap(),
        ],
    );
    let names = back
        .iter()
        .flat_map(|(entry, _)| [&entry.path[..], b"\n"].concat())
        .collect::<Vec<u8>>();
    assert_eq!(String::from_utf8_lossy(&listed), String::from_utf8_lossy(&names));
}

#[test]
fn a_plain_entry_has_the_bytes_of_gos_writer() {
    let bytes = archive(&[(
        Entry {
            uid: 1,
            mtime: Mtime {
                seconds: 1_700_000_000,
                nanos: 0,
            },
            ..file("a")
        },
        b"hi",
    )]);
    assert_eq!(&bytes[..8], b"a\0\0\0\0\0\0\0");
    assert_eq!(
        &bytes[100..156],
        b"0000644\x000000001\x000000000\x0000000000002\x0014524770400\x00007403\x00 "
    );
    assert_eq!(&bytes[156..158], b"0\0");
    assert_eq!(&bytes[257..265], b"ustar\x0000");
    assert_eq!(&bytes[329..345], b"0000000\x000000000\0");
    assert_eq!(bytes.len(), 512 * 4);
}

#[test]
fn archives_may_end_without_a_marker_but_not_in_the_middle() {
    let bytes = archive(&[(file("a"), &[1; 700]), (file("b"), b"2")]);
    assert_eq!(read_all(&bytes[..bytes.len() - 1024]).unwrap().len(), 2);
    assert_eq!(read_all(&bytes[..bytes.len() - 512]).unwrap().len(), 2);
    for cut in [1, 511, 513, 700, 1024, 1536, 1537, 2049] {
        let result = read_all(&bytes[..cut]);
        let is_boundary = result.as_ref().is_ok_and(|entries| entries.len() == 1 && cut == 1536);
        assert!(result.is_err() || is_boundary, "cut at {cut}");
    }
    assert!(read_all(&[]).unwrap().is_empty());
}

/// Changes a header and makes its checksum right again.
fn patched(bytes: &[u8], change: impl FnOnce(&mut header::Block)) -> Vec<u8> {
    let mut block: header::Block = bytes[..512].try_into().unwrap();
    change(&mut block);
    header::set_checksum(&mut block);
    [&block, &bytes[512..]].concat()
}

#[test]
fn malformed_headers_are_refused() {
    let good = archive(&[(file("a"), b"x")]);
    let refuse = |bytes: &[u8], what: &str| {
        let err = read_all(bytes).unwrap_err();
        assert!(
            matches!(err, ArchiveError::Malformed { .. } | ArchiveError::Read(_)),
            "{what}: {err}"
        );
    };
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    refuse(&flipped, "checksum");
    refuse(
        &patched(&good, |b| b[header::SIZE].copy_from_slice(b"0000000000x\0")),
        "size digits",
    );
    refuse(
        &patched(&good, |b| b[header::SIZE].copy_from_slice(&[0xff; 12])),
        "negative size",
    );
    let mut huge = [0xff; 12];
    huge[..5].copy_from_slice(&[0x80, 0, 0, 0, 0x7f]);
    refuse(&patched(&good, |b| b[header::SIZE].copy_from_slice(&huge)), "huge size");
    refuse(&patched(&good, |b| b[header::TYPE] = b'Z'), "type");
    refuse(&patched(&good, |b| b[header::TYPE] = b'2'), "symbolic link to nothing");
    refuse(
        &patched(&good, |b| b[header::TYPE] = b'x'),
        "extended header that is none",
    );
    refuse(&patched(&good, |b| b[header::TYPE] = b'S'), "sparse outside GNU");
    refuse(
        &[&good[..1024], &[0; 512], &good[..]].concat(),
        "data behind an empty block",
    );
}

/// CVE-2024-40635: an owner that wraps around to root.
#[test]
fn cve_2024_40635_owners_do_not_wrap_around() {
    let good = archive(&[(file("a"), b"")]);
    for id in [
        [0x80, 0, 0, 1, 0, 0, 0, 0],
        [0xff; 8],
        [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ] {
        let bytes = patched(&good, |b| b[header::UID].copy_from_slice(&id));
        assert!(read_all(&bytes).unwrap_err().to_string().contains("out of range"));
    }
    for value in ["4294967296", "4294967295", "-1"] {
        let bytes = [&extended(&[("uid", value)]), &good[..]].concat();
        assert!(
            read_all(&bytes).unwrap_err().to_string().contains("out of range"),
            "{value}"
        );
    }
}

/// An extended header entry with these records.
fn extended(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        crate::archive::pax::push_record(&mut body, key.as_bytes(), value.as_bytes());
    }
    let bytes = archive(&[(file("PaxHeaders.0/x"), &body)]);
    let bytes = patched(&bytes, |b| b[header::TYPE] = b'x');
    bytes[..bytes.len() - 1024].to_vec()
}

/// CVE-2025-62518 and its kin: two readers disagree on where an entry ends, and one sees files the other does not.
#[test]
fn cve_2025_62518_the_extended_size_counts_for_data_and_for_the_next_header() {
    let inner = archive(&[(file("smuggled"), b"evil")]);
    let inner = &inner[..inner.len() - 1024];
    let outer = archive(&[(file("nested.tar"), inner), (file("after"), b"")]);
    // The header says zero, the extended header tells the truth.
    let lying = patched(&outer, |b| b[header::SIZE].copy_from_slice(b"00000000000\0"));
    let bytes = [&extended(&[("size", &inner.len().to_string())]), &lying[..]].concat();
    let names: Vec<_> = read_all(&bytes)
        .unwrap()
        .into_iter()
        .map(|(entry, _)| entry.path)
        .collect();
    assert_eq!(names, [b"nested.tar".to_vec(), b"after".to_vec()]);
}

#[test]
fn links_and_directories_have_no_data_whatever_their_size_says() {
    for entry in [symlink("l", "t"), hardlink("h", "t"), directory("d/")] {
        let bytes = archive(&[(entry, b""), (file("after"), b"")]);
        let bytes = patched(&bytes, |b| b[header::SIZE].copy_from_slice(b"00000001000\0"));
        assert_eq!(read_all(&bytes).unwrap()[1].0.path, b"after");
    }
}

#[test]
fn extended_headers_are_bounded() {
    let big = patched(&archive(&[(file("x"), b"")]), |b| {
        b[header::TYPE] = b'x';
        b[header::SIZE].copy_from_slice(b"00004000001\0");
    });
    assert!(read_all(&big).unwrap_err().to_string().contains("extended header of"));
    let many = extended(&[("comment", "x")]).repeat(100);
    assert!(read_all(&many).unwrap_err().to_string().contains("too many"));
    assert!(
        read_all(&extended(&[("path", "x")]))
            .unwrap_err()
            .to_string()
            .contains("without an entry")
    );
}

#[test]
fn hostile_sparse_maps_are_refused() {
    let data = archive(&[(file("a"), &[b'x'; 512])]);
    let max = u64::MAX.to_string();
    for records in [
        &[("GNU.sparse.map", "0,512"), ("GNU.sparse.size", "100")][..],
        &[("GNU.sparse.map", "0,256,128,256"), ("GNU.sparse.size", "1000")],
        &[("GNU.sparse.map", "0,100"), ("GNU.sparse.size", "1000")],
        &[("GNU.sparse.map", "0,512,"), ("GNU.sparse.size", "1000")],
        &[("GNU.sparse.map", &format!("{max},512")), ("GNU.sparse.size", &max)],
        &[("GNU.sparse.map", "0,512")],
        &[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "10"),
        ],
        &[
            ("GNU.sparse.major", "2"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "10"),
        ],
    ] {
        let bytes = [&extended(records), &data[..]].concat();
        assert!(read_all(&bytes).is_err(), "{records:?}");
    }
}

#[test]
fn long_paths_are_split_as_by_other_builders() {
    let (a, b, n) = ("a".repeat(90), "b".repeat(90), "n".repeat(101));
    for (path, want) in [
        (format!("{a}/{b}"), Some((a.clone(), b.clone()))),
        (format!("{a}/{b}/"), Some((a.clone(), format!("{b}/")))),
        (format!("{a}/x/{b}"), Some((format!("{a}/x"), b.clone()))),
        (format!("{}/{b}", "p".repeat(155)), Some(("p".repeat(155), b.clone()))),
        (format!("{}/{b}", "p".repeat(156)), None),
        (format!("{a}/{n}"), None),
        (format!("{a}/{b}é"), None),
        (format!("/{n}"), None),
        (b.clone(), Some((String::new(), b.clone()))),
    ] {
        let kind = if path.ends_with('/') {
            EntryKind::Directory
        } else {
            EntryKind::File
        };
        let mut entry = Entry::new(path.clone(), kind, 0o644);
        let bytes = archive(&[(entry.clone(), b"")]);
        let parts = |block: &[u8]| {
            let text = |range: std::ops::Range<usize>| {
                let field = block[range].iter().take_while(|byte| **byte != 0);
                String::from_utf8_lossy(&field.copied().collect::<Vec<_>>()).into_owned()
            };
            (text(header::PREFIX), text(header::NAME))
        };
        let found = (bytes[header::TYPE] != b'x').then(|| parts(&bytes[..512]));
        assert_eq!(found, want, "{path}");
        assert_eq!(read_all(&bytes).unwrap()[0].0.path, path.as_bytes());
        // Whatever needs a record has the whole path in another.
        entry.uid = u32::MAX - 1;
        let bytes = archive(&[(entry, b"")]);
        assert_eq!(bytes[header::TYPE], b'x');
        assert_eq!(read_all(&bytes).unwrap()[0].0.path, path.as_bytes());
        assert_eq!(oracle(&bytes)[0].0, path.as_bytes());
    }
}

#[test]
fn extended_headers_are_named_as_by_other_builders() {
    for (path, want) in [
        ("d/e/", "d/e/PaxHeaders.0"),
        ("d/f", "d/PaxHeaders.0/f"),
        ("f", "PaxHeaders.0/f"),
        ("d/\u{fc}", "d/PaxHeaders.0"),
    ] {
        let entry = Entry {
            uid: u32::MAX - 1,
            ..file(path)
        };
        let bytes = archive(&[(entry, b"")]);
        let name = bytes[..100].split(|byte| *byte == 0).next().unwrap();
        assert_eq!(String::from_utf8_lossy(name), want);
        assert_eq!(bytes[header::DEV_MAJOR], [0; 8]);
    }
}

#[test]
fn what_tar_cannot_express_is_refused() {
    for entry in [
        file(""),
        file("a\0b"),
        symlink("x", "a\0b"),
        Entry {
            xattrs: [(b"user.a=b".to_vec(), vec![])].into(),
            ..file("x")
        },
        Entry::new(
            "d",
            EntryKind::CharDevice(Device {
                major: 1 << 22,
                minor: 0,
            }),
            0,
        ),
    ] {
        let err = TarWriter::new(Vec::new()).append(&entry, std::io::empty()).unwrap_err();
        assert!(matches!(err, ArchiveError::Refused { .. }), "{err}");
    }
    let short = Entry { size: 10, ..file("x") };
    assert!(matches!(
        TarWriter::new(Vec::new()).append(&short, &b"123"[..]),
        Err(ArchiveError::Read(_))
    ));
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let name = proptest::collection::vec(1_u8..=255, 1..300);
    let kind = prop_oneof![
        Just(EntryKind::File),
        Just(EntryKind::Directory),
        Just(EntryKind::Fifo),
        proptest::collection::vec(1_u8..=255, 1..300).prop_map(EntryKind::Symlink),
        proptest::collection::vec(1_u8..=255, 1..300).prop_map(EntryKind::Hardlink),
    ];
    let xattrs = proptest::collection::btree_map("user\\.[a-z]{1,8}", any::<Vec<u8>>(), 0..3);
    let time = (-1_i64 << 40..1_i64 << 40, 0_u32..1_000_000_000);
    let rest = (0..u32::MAX, 0..u32::MAX, 0_u32..0o10000, time, xattrs, any::<Vec<u8>>());
    (name, kind, rest).prop_map(|(path, kind, (uid, gid, mode, (seconds, nanos), xattrs, data))| {
        let data = if kind == EntryKind::File { data } else { Vec::new() };
        let xattrs = xattrs
            .into_iter()
            .map(|(key, value)| (key.into_bytes(), value))
            .collect();
        let entry = Entry {
            uid,
            gid,
            mtime: Mtime { seconds, nanos },
            xattrs,
            size: data.len() as u64,
            ..Entry::new(path, kind, mode)
        };
        (entry, data)
    })
}

proptest! {
    #[test]
    fn any_entries_round_trip(entries in proptest::collection::vec(any_entry(), 0..5)) {
        let mut writer = TarWriter::new(Vec::new());
        for (entry, data) in &entries {
            writer.append(entry, &data[..]).unwrap();
        }
        let bytes = writer.finish().unwrap();
        prop_assert_eq!(read_all(&bytes).unwrap(), entries);
    }

    #[test]
    fn damaged_archives_never_panic(
        changes in proptest::collection::vec((0_usize..6000, any::<u8>()), 1..20),
        fix in any::<bool>(),
    ) {
        let mut bytes = archive(&[
            (Entry { xattrs: [(b"user.x".to_vec(), b"y".to_vec())].into(), ..file(&"l".repeat(200)) }, b"data"),
            (symlink("s", &"t".repeat(200)), b""),
            (file("f"), &[7; 600]),
        ]);
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if fix {
            bytes = patched(&bytes, |_| {});
        }
        drop(read_all(&bytes));
    }
}

#[test]
fn names_that_are_not_utf8_survive() {
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let bytes = archive(&[(Entry::new(name.as_bytes(), EntryKind::File, 0o644), b"")]);
    assert_eq!(read_all(&bytes).unwrap()[0].0.path, name.as_bytes());
}
