use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn packed(root: &Root) -> Vec<u8> {
    pack(root, &PackOptions::default(), Vec::new()).unwrap()
}

#[test]
fn a_layer_survives_unpacking_and_packing() {
    if !is_root() {
        return;
    }
    let time = |seconds| Mtime { seconds, nanos: 0 };
    // In the order and form in which pack writes.
    let layer = archive(&[
        (
            Entry {
                mtime: time(5),
                mode: 0o750,
                ..directory("a/")
            },
            b"",
        ),
        (
            Entry {
                mode: 0,
                ..file("a/.wh..wh..opq")
            },
            b"",
        ),
        (
            Entry {
                mtime: time(6),
                mode: 0o4755,
                uid: 1,
                gid: 2,
                ..file("a/one")
            },
            b"1",
        ),
        (
            Entry {
                mtime: time(6),
                mode: 0o4755,
                uid: 1,
                gid: 2,
                ..hardlink("a/two", "a/one")
            },
            b"",
        ),
        (
            Entry {
                mtime: time(1),
                ..directory("b/")
            },
            b"",
        ),
        (
            Entry {
                mtime: time(1),
                xattrs: [(b"user.k".to_vec(), b"v".to_vec())].into(),
                ..file("b/x")
            },
            b"xx",
        ),
        (
            Entry {
                mtime: time(2),
                ..symlink("b/y", "../a")
            },
            b"",
        ),
        (
            Entry {
                mtime: time(3),
                ..Entry::new("b/z", EntryKind::Fifo, 0o600)
            },
            b"",
        ),
        (
            Entry {
                mtime: time(4),
                ..file("c")
            },
            b"",
        ),
        (
            Entry {
                mode: 0,
                ..file(".wh.gone")
            },
            b"",
        ),
    ]);
    let (_dir, root) = temp_root();
    apply(&layer[..], &root, &ApplyOptions::default()).unwrap();
    let again = packed(&root);
    assert_eq!(read_all(&again).unwrap(), read_all(&layer).unwrap());
    assert!(again == layer);
}

#[test]
fn the_bytes_depend_on_the_tree_alone() {
    let make = |names: &[&str]| {
        let (dir, root) = temp_root();
        for name in names {
            fs::write(dir.path().join(name), name).unwrap();
            fs::File::options()
                .write(true)
                .open(dir.path().join(name))
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1000, 999))
                .unwrap();
        }
        let bytes = packed(&root);
        drop(dir);
        bytes
    };
    let bytes = make(&["a", "b", "c"]);
    assert_eq!(bytes, make(&["c", "a", "b"]));
    // No extended headers: the fraction of the time is cut.
    assert_eq!(bytes.len(), 3 * 1024 + 1024);
}

#[test]
fn times_are_clamped_when_asked() {
    let (dir, root) = temp_root();
    fs::write(dir.path().join("new"), b"").unwrap();
    let bytes = pack(
        &root,
        &PackOptions {
            times: Times::AtMost(42),
        },
        Vec::new(),
    )
    .unwrap();
    assert_eq!(read_all(&bytes).unwrap()[0].0.mtime, Mtime { seconds: 42, nanos: 0 });
}

#[test]
fn what_a_layer_cannot_say_is_left_out() {
    let (dir, root) = temp_root();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert_eq!(packed(&root).len(), 1024);
    // Such a name means a deletion to who reads the layer; it is written as it is, as other builders do.
    fs::write(dir.path().join(".wh.real"), b"x").unwrap();
    let entries = read_all(&packed(&root)).unwrap();
    assert_eq!(
        (&entries[0].0.path[..], &entries[0].1[..]),
        (&b".wh.real"[..], &b"x"[..])
    );
    let mut tar = TarWriter::new(Vec::new());
    pack_below(&root, b"p/", &PackOptions::default(), &mut tar).unwrap();
    let entries = read_all(&tar.finish().unwrap()).unwrap();
    assert_eq!(entries[0].0.path, b"p/.wh.real");
}

#[test]
fn gnu_tar_unpacks_a_packed_tree() {
    if !is_root() {
        return;
    }
    let (dir, root) = temp_root();
    let deep = "d/".repeat(60);
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    fs::write(dir.path().join(&deep).join("ünder"), b"deep").unwrap();
    fs::write(dir.path().join("suid"), b"x").unwrap();
    fs::set_permissions(dir.path().join("suid"), fs::Permissions::from_mode(0o4711)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("layer.tar");
    fs::write(&archive, packed(&root)).unwrap();
    gnu_tar(out.path(), &["-xpf", archive.to_str().unwrap()]);
    assert_eq!(fs::read(out.path().join(&deep).join("ünder")).unwrap(), b"deep");
    assert_eq!(fs::metadata(out.path().join("suid")).unwrap().mode() & 0o7777, 0o4711);
}

#[test]
fn further_names_of_anything_are_links() {
    if !is_root() {
        return;
    }
    let (dir, root) = temp_root();
    let path = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink("target", path("a")).unwrap();
    fs::hard_link(path("a"), path("b")).unwrap();
    fs::write(path("c"), b"").unwrap();
    // cap_net_raw, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    root.set_xattr("c", OsStr::new(whiteout::CAPABILITY), &capability)
        .unwrap();
    root.set_xattr("c", OsStr::new("user.x"), b"1").unwrap();
    fs::hard_link(path("c"), path("d")).unwrap();
    let entries: Vec<_> = read_all(&packed(&root))
        .unwrap()
        .into_iter()
        .map(|(entry, _)| entry)
        .collect();
    assert_eq!(entries[1].kind, EntryKind::Hardlink(b"a".to_vec()));
    assert_eq!((entries[0].mode, entries[1].mode), (0o777, 0o777));
    assert_eq!(entries[3].kind, EntryKind::Hardlink(b"c".to_vec()));
    // Setting the owner of the second name would take the capabilities of the file away.
    let of_link: Vec<_> = entries[3].xattrs.keys().collect();
    assert_eq!(of_link, [whiteout::CAPABILITY.as_bytes()]);
}

#[test]
fn times_are_cut_in_layers_and_rounded_in_plain_archives() {
    let (dir, root) = temp_root();
    fs::write(dir.path().join("f"), b"").unwrap();
    for (nanos, in_layer, in_plain) in [(499_999_999, 7, 7), (500_000_000, 7, 8)] {
        let time = crate::sys::Time { secs: 7, nanos };
        root.set_times("f", None, Some(time)).unwrap();
        assert_eq!(read_all(&packed(&root)).unwrap()[0].0.mtime.seconds, in_layer);
        let mut tar = TarWriter::new(Vec::new());
        pack_below(&root, b"", &PackOptions::default(), &mut tar).unwrap();
        let entries = read_all(&tar.finish().unwrap()).unwrap();
        assert_eq!(
            entries[0].0.mtime,
            Mtime {
                seconds: in_plain,
                nanos: 0
            }
        );
    }
}

#[test]
fn absolute_links_lead_to_where_their_archive_puts_the_files() {
    let (dir, root) = temp_root();
    for (name, target) in [("a", "/x/../y"), ("b", "../y"), ("c", "/")] {
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    }
    for (prefix, want) in [("", ["/x/../y", "../y", "/"]), ("p/", ["/p/y", "../y", "/p"])] {
        let mut tar = TarWriter::new(Vec::new());
        pack_below(&root, prefix.as_bytes(), &PackOptions::default(), &mut tar).unwrap();
        let entries = read_all(&tar.finish().unwrap()).unwrap();
        let targets: Vec<_> = entries.into_iter().map(|(entry, _)| entry.kind).collect();
        assert_eq!(targets, want.map(|target| EntryKind::Symlink(target.into())));
    }
}
