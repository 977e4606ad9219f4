use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn unpack(entries: &[(Entry, &[u8])]) -> Result<(tempfile::TempDir, Applied), ArchiveError> {
    let (dir, root) = temp_root();
    let applied = apply(&archive(entries)[..], &root, &ApplyOptions::default())?;
    Ok((dir, applied))
}

fn refusal(entries: &[(Entry, &[u8])]) -> String {
    unpack(entries).map(|(_, applied)| applied).unwrap_err().to_string()
}

#[test]
fn metadata_arrives_complete() {
    if !is_root() {
        return;
    }
    let mtime = Mtime {
        seconds: 1_600_000_000,
        nanos: 123_456_789,
    };
    let attributes = [(b"user.note".to_vec(), b"x\0y".to_vec())];
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let (dir, applied) = unpack(&[
        (
            Entry {
                mtime,
                uid: 5,
                mode: 0o1777,
                ..directory("d/")
            },
            b"",
        ),
        (
            Entry {
                mtime,
                uid: 1000,
                gid: 1001,
                mode: 0o6755,
                xattrs: attributes.into(),
                ..file("d/f")
            },
            b"content",
        ),
        (
            Entry {
                xattrs: [(b"security.capability".to_vec(), capability.clone())].into(),
                ..file("d/cap")
            },
            b"",
        ),
        (
            Entry {
                mtime,
                uid: 7,
                gid: 8,
                ..symlink("d/s", "/nowhere")
            },
            b"",
        ),
        (
            Entry {
                mtime,
                ..Entry::new("d/pipe", EntryKind::Fifo, 0o622)
            },
            b"",
        ),
        (
            Entry::new("d/null", EntryKind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
            b"",
        ),
        (
            Entry::new("d/disk", EntryKind::BlockDevice(Device { major: 7, minor: 300 }), 0o660),
            b"",
        ),
        (
            Entry {
                mtime,
                uid: 1000,
                gid: 1001,
                mode: 0o6755,
                ..hardlink("d/h", "d/f")
            },
            b"",
        ),
        // Its owner is the same, so that the capabilities are left alone.
        (hardlink("d/h2", "d/cap"), b""),
    ])
    .unwrap();
    let meta = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    let root = Root::open(dir.path()).unwrap();
    assert_eq!((meta("d").mode() & 0o7777, meta("d").uid()), (0o1777, 5));
    assert_eq!(
        (meta("d").mtime(), meta("d").mtime_nsec()),
        (mtime.seconds, 123_456_789)
    );
    let f = meta("d/f");
    assert_eq!(
        (f.mode() & 0o7777, f.uid(), f.gid(), f.mtime_nsec()),
        (0o6755, 1000, 1001, 123_456_789)
    );
    assert_eq!(f.ino(), meta("d/h").ino());
    assert_eq!(root.xattr("d/f", "user.note".as_ref()).unwrap().unwrap(), b"x\0y");
    assert_eq!(
        root.xattr("d/cap", "security.capability".as_ref()).unwrap().unwrap(),
        capability
    );
    assert_eq!(
        (meta("d/s").uid(), meta("d/s").gid(), meta("d/s").mtime()),
        (7, 8, mtime.seconds)
    );
    assert!(meta("d/pipe").file_type().is_fifo());
    assert_eq!(meta("d/pipe").mode() & 0o777, 0o622);
    assert_eq!(meta("d/null").rdev(), libc::makedev(1, 3));
    assert_eq!(meta("d/disk").rdev(), libc::makedev(7, 300));
    assert_eq!((applied.entries, applied.size), (9, 7));
    assert_eq!(applied.implied, [PathBuf::new()].into());
}

#[test]
fn whiteouts_become_overlays_own() {
    if !is_root() {
        return;
    }
    let (dir, _) = unpack(&[
        (file(".wh.gone"), b""),
        (directory("d/"), b""),
        (file("d/.wh..wh..opq"), b""),
        (file("d/new"), b"x"),
        (directory("kept/"), b""),
        (file("kept/own"), b""),
        // About the layer below: the directory of this layer stays.
        (file(".wh.kept"), b""),
        // Deleted below, then made anew as a directory: nothing from below may show in it.
        (file(".wh.again"), b""),
        (directory("again/"), b""),
        (file(".wh..wh.plnk"), b""),
        (file(".wh..wh.aufs/x"), b""),
    ])
    .unwrap();
    let root = Root::open(dir.path()).unwrap();
    assert!(root.lstat("gone").unwrap().is_whiteout());
    for opaque in ["d", "kept", "again"] {
        assert_eq!(
            root.xattr(opaque, "trusted.overlay.opaque".as_ref()).unwrap().unwrap(),
            b"y",
            "{opaque}"
        );
    }
    assert!(root.lstat("kept/own").unwrap().is_file());
    let mut names: Vec<_> = root.read_dir("").unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    assert_eq!(names, ["again", "d", "gone", "kept"]);
    for name in [".wh.", ".wh..", "d/.wh..."] {
        assert!(
            refusal(&[(file(name), b"")]).contains("whiteout without a name"),
            "{name}"
        );
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    if !is_root() {
        return;
    }
    let (dir, _) = unpack(&[
        (file("a"), b"1"),
        (file("a"), b"22"),
        (directory("b/"), b""),
        (file("b/x"), b""),
        (file("b"), b"file"),
        (file("c"), b""),
        (directory("c/"), b""),
        (file("c/y"), b""),
        (directory("c/"), b""),
    ])
    .unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"22");
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"file");
    assert!(dir.path().join("c/y").exists());
    let root = Root::open(dir.path()).unwrap();
    assert!(root.xattr("c", "trusted.overlay.opaque".as_ref()).unwrap().is_some());
}

#[test]
fn implied_directories_look_like_those_below() {
    if !is_root() {
        return;
    }
    let (_lower_dir, lower) = temp_root();
    apply(
        &archive(&[
            (
                Entry {
                    mode: 0o711,
                    uid: 3,
                    mtime: Mtime { seconds: 77, nanos: 0 },
                    ..directory("./")
                },
                b"",
            ),
            (
                Entry {
                    mode: 0o1777,
                    uid: 9,
                    mtime: Mtime { seconds: 99, nanos: 5 },
                    ..directory("tmp/")
                },
                b"",
            ),
            (directory("usr/lib/"), b""),
            (symlink("lib", "usr/lib"), b""),
            (
                Entry {
                    mode: 0o700,
                    ..directory("hidden/")
                },
                b"",
            ),
            (
                Entry {
                    uid: 4,
                    ..file("usr/original")
                },
                b"older",
            ),
        ])[..],
        &lower,
        &ApplyOptions::default(),
    )
    .unwrap();
    let (dir, root) = temp_root();
    let layer = archive(&[
        (file("tmp/x"), b""),
        (file("lib/libc.so"), b""),
        (file("fresh/a/b"), b""),
        (file(".wh.hidden"), b""),
        (file("hidden/new"), b""),
        (
            Entry {
                uid: 4,
                ..hardlink("linked", "usr/original")
            },
            b"",
        ),
    ]);
    let applied = apply(
        &layer[..],
        &root,
        &ApplyOptions {
            lowers: &[&lower],
            ..Default::default()
        },
    )
    .unwrap();
    let meta = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!(
        (meta("").mode() & 0o7777, meta("").uid(), meta("").mtime()),
        (0o711, 3, 77)
    );
    assert_eq!((meta("tmp").mode() & 0o7777, meta("tmp").uid()), (0o1777, 9));
    assert_eq!((meta("tmp").mtime(), meta("tmp").mtime_nsec()), (99, 5));
    assert!(dir.path().join("usr/lib/libc.so").exists());
    assert!(fs::symlink_metadata(dir.path().join("lib")).is_err());
    assert_eq!(meta("hidden").mode() & 0o777, 0o755);
    assert!(
        root.xattr("hidden", "trusted.overlay.opaque".as_ref())
            .unwrap()
            .is_some()
    );
    assert_eq!(
        (fs::read(dir.path().join("linked")).unwrap(), meta("linked").uid()),
        (b"older".to_vec(), 4)
    );
    assert_eq!(meta("linked").ino(), meta("usr/original").ino());
    assert_eq!(applied.implied, ["fresh", "fresh/a"].map(PathBuf::from).into());
}

#[test]
fn sparse_files_keep_their_holes() {
    let source = tempfile::tempdir().unwrap();
    let file = fs::File::create(source.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 64 << 20).unwrap();
    file.set_len(128 << 20).unwrap();
    for args in [
        &["--format=gnu", "-Scf", "-", "sparse"][..],
        &["--format=pax", "-Scf", "-", "sparse"],
    ] {
        let bytes = gnu_tar(source.path(), args);
        let (dir, root) = temp_root();
        apply(&bytes[..], &root, &ApplyOptions::default()).unwrap();
        let meta = fs::metadata(dir.path().join("sparse")).unwrap();
        assert_eq!(meta.len(), 128 << 20);
        assert!(meta.blocks() < 1000);
        let mut back = [0; 4];
        let file = fs::File::open(dir.path().join("sparse")).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 64 << 20).unwrap();
        assert_eq!(&back, b"data");
    }
}

#[test]
fn names_that_lead_outside_are_refused() {
    for path in ["../x", "a/../../x", "a/..", "/..", ".."] {
        assert!(refusal(&[(file(path), b"")]).contains("\"..\""), "{path}");
    }
    assert!(refusal(&[(file("a"), b""), (hardlink("h", "../../etc/passwd"), b"")]).contains("\"..\""));
    assert!(refusal(&[(file(&"x/".repeat(3000)), b"")]).contains("name of"));
    assert!(refusal(&[(file("a"), b""), (file("a/b"), b"")]).contains("parent is not a directory"));
    assert!(refusal(&[(hardlink("h", "missing"), b"")]).contains("which is not there"));
    assert!(refusal(&[(directory("d"), b""), (hardlink("h", "d"), b"")]).contains("cannot be linked"));
    assert!(refusal(&[(file("./"), b"")]).contains("not a directory"));
    assert!(refusal(&[(symlink("l", "l"), b""), (file("l/x"), b"")]).contains("symbolic links"));
}

/// CVE-2025-47290, CVE-2021-38511: what a link in the archive points to must not be written to.
#[test]
fn cve_2025_47290_links_in_the_archive_do_not_lead_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), b"untouched").unwrap();
    let absolute = outside.path().to_str().unwrap();
    let up = format!("{}{absolute}", "../".repeat(40));
    for target in [absolute, &up] {
        let (dir, _) = unpack(&[
            (symlink("escape", target), b""),
            (file("escape/victim"), b"overwritten"),
            (directory("escape/made"), b""),
            (symlink("again", &format!("{target}/victim")), b""),
            (file("again"), b"overwritten"),
        ])
        .unwrap();
        assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"untouched");
        assert!(!outside.path().join("made").exists());
        // The same path inside the root is where it went.
        assert_eq!(
            fs::read(dir.path().join(&absolute[1..]).join("victim")).unwrap(),
            b"overwritten"
        );
        assert!(fs::symlink_metadata(dir.path().join("again")).unwrap().is_file());
    }
}

/// CVE-2021-32760, CVE-2026-33056: setting a mode or owner must not follow a link.
#[test]
fn cve_2021_32760_modes_are_not_set_through_links() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, b"").unwrap();
    let before = fs::metadata(&victim).unwrap();
    let target = victim.to_str().unwrap();
    let mtime = Mtime { seconds: 5, nanos: 0 };
    unpack(&[
        (
            Entry {
                mode: 0o4777,
                uid: 12,
                mtime,
                ..symlink("l", target)
            },
            b"",
        ),
        (
            Entry {
                mode: 0o4777,
                uid: 12,
                mtime,
                ..hardlink("h", "l")
            },
            b"",
        ),
        (
            Entry {
                mode: 0o4777,
                uid: 12,
                mtime,
                ..directory("l")
            },
            b"",
        ),
    ])
    .unwrap();
    let after = fs::metadata(&victim).unwrap();
    assert_eq!(
        (before.mode(), before.uid(), before.mtime()),
        (after.mode(), after.uid(), after.mtime())
    );
}

#[test]
fn overlays_own_attributes_are_not_taken_from_images() {
    if !is_root() {
        return;
    }
    let evil = [
        (b"trusted.overlay.redirect".to_vec(), b"/secret".to_vec()),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.overlay.metacopy".to_vec(), b"".to_vec()),
    ];
    let (dir, _) = unpack(&[
        (
            Entry {
                xattrs: evil.clone().into(),
                ..directory("d/")
            },
            b"",
        ),
        (
            Entry {
                xattrs: evil.into(),
                ..file("f")
            },
            b"",
        ),
    ])
    .unwrap();
    let root = Root::open(dir.path()).unwrap();
    for name in ["d", "f"] {
        assert!(
            root.xattrs(name)
                .unwrap()
                .keys()
                .all(|key| !key.to_string_lossy().contains("overlay"))
        );
    }
}

#[test]
fn devices_can_be_left_out() {
    let (dir, root) = temp_root();
    let layer = archive(&[(
        Entry::new("null", EntryKind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
        b"",
    )]);
    apply(
        &layer[..],
        &root,
        &ApplyOptions {
            skip_devices: true,
            ..Default::default()
        },
    )
    .unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Where links in [`no_archive_reaches_outside`] point to, before the test knows the directory.
const OUTSIDE: &str = "/outside-of-the-root";

/// Names and targets out of a small set, so that entries often meet.
fn hostile_entry() -> impl Strategy<Value = Entry> {
    let names = [
        "a",
        "b",
        "a/b",
        "a/b/c",
        "b/c",
        "a/victim",
        ".wh.a",
        "a/.wh.b",
        "a/.wh..wh..opq",
        "./",
        "/a",
        "a//b/.",
    ];
    let up = format!("{}{OUTSIDE}", "../".repeat(30));
    let targets = [
        OUTSIDE.to_owned(),
        up,
        "..".to_owned(),
        "/".to_owned(),
        "a".to_owned(),
        "b/c".to_owned(),
    ];
    let parts = (
        proptest::sample::select(names.to_vec()),
        proptest::sample::select(targets.to_vec()),
    );
    (parts, 0_u32..6, 0_u32..0o10000).prop_map(|((name, target), kind, mode)| {
        let kind = match kind {
            0 => EntryKind::File,
            1 => EntryKind::Directory,
            2 => EntryKind::Hardlink(target.into_bytes()),
            3 => EntryKind::Fifo,
            _ => EntryKind::Symlink(target.into_bytes()),
        };
        Entry {
            mtime: Mtime { seconds: 1, nanos: 0 },
            ..Entry::new(name, kind, mode)
        }
    })
}

/// Everything that unpacking could change about a directory and what lies in it.
fn state(dir: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(dir.to_path_buf());
    files.sort();
    let describe = |path: &PathBuf| {
        let meta = fs::symlink_metadata(path).unwrap();
        format!(
            "{path:?} {:o} {} {} {}",
            meta.mode(),
            meta.uid(),
            meta.ctime(),
            meta.ctime_nsec()
        )
    };
    files.iter().map(describe).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever an archive holds, nothing outside is made, changed or removed; and what was unpacked can be packed.
    #[test]
    fn no_archive_reaches_outside(entries in proptest::collection::vec(hostile_entry(), 0..12)) {
        if !is_root() {
            return Ok(());
        }
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("victim"), b"untouched").unwrap();
        fs::create_dir(outside.path().join("b")).unwrap();
        let before = state(outside.path());
        let real = outside.path().as_os_str().as_encoded_bytes();
        let entries: Vec<(Entry, &[u8])> = entries
            .into_iter()
            .map(|mut entry| {
                if let EntryKind::Symlink(target) | EntryKind::Hardlink(target) = &mut entry.kind
                    && let Some(up) = target.strip_suffix(OUTSIDE.as_bytes())
                {
                    *target = [up, real].concat();
                }
                (entry, &b""[..])
            })
            .collect();
        let (_dir, root) = temp_root();
        let applied = apply(&archive(&entries)[..], &root, &ApplyOptions::default());
        prop_assert_eq!(state(outside.path()), before);
        if applied.is_ok() {
            pack(&root, &PackOptions::default(), std::io::sink()).unwrap();
        }
    }
}

#[test]
fn what_an_archive_is_extracted_into_keeps_its_look() {
    if !is_root() {
        return;
    }
    let top = Entry {
        mode: 0o1777,
        uid: 5,
        gid: 6,
        mtime: Mtime { seconds: 7, nanos: 0 },
        ..directory("./")
    };
    let tar = archive(&[(top, b""), (file("./f"), b"1")]);
    let look = |dir: &tempfile::TempDir| {
        let metadata = fs::metadata(dir.path()).unwrap();
        (
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime() == 7,
        )
    };

    let (dir, root) = temp_root();
    let before = look(&dir);
    for owner in [None, Some((1, 2))] {
        extract(&tar[..], &root, owner).unwrap();
        assert_eq!(look(&dir), before);
    }
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"1");

    let (dir, root) = temp_root();
    apply(&tar[..], &root, &ApplyOptions::default()).unwrap();
    assert_eq!(
        look(&dir),
        (0o1777, 5, 6, true),
        "a layer says what its root looks like"
    );
}

#[test]
fn the_last_name_says_what_a_file_looks_like() {
    if !is_root() {
        return;
    }
    let link = |path: &str| Entry {
        mode: 0o640,
        uid: 7,
        mtime: Mtime { seconds: 9, nanos: 0 },
        ..hardlink(path, "f")
    };
    let soft = Entry {
        mtime: Mtime { seconds: 9, nanos: 0 },
        ..hardlink("soft2", "soft")
    };
    let tar = archive(&[
        (file("f"), b"1"),
        (link("g"), b""),
        (symlink("soft", "f"), b""),
        (soft, b""),
    ]);
    let (dir, root) = temp_root();
    apply(&tar[..], &root, &ApplyOptions::default()).unwrap();
    let metadata = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.mtime()),
        (0o640, 7, 9)
    );
    assert_eq!(fs::symlink_metadata(dir.path().join("soft")).unwrap().mtime(), 9);
}

#[test]
fn times_out_of_reach_become_the_epoch() {
    let (dir, root) = temp_root();
    for (seconds, want) in [
        (-5, 0),
        (5, 5),
        (9_223_372_035, 9_223_372_035),
        (9_999_999_999, 0),
        (i64::MAX, 0),
    ] {
        let entry = Entry {
            mtime: Mtime { seconds, nanos: 0 },
            ..file("f")
        };
        extract(&archive(&[(entry, b"")])[..], &root, None).unwrap();
        assert_eq!(fs::metadata(dir.path().join("f")).unwrap().mtime(), want);
    }
}
