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
fn what_a_layer_cannot_say_is_refused_or_left_out() {
    let (dir, root) = temp_root();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert_eq!(packed(&root).len(), 1024);
    fs::write(dir.path().join(".wh.real"), b"").unwrap();
    let err = pack(&root, &PackOptions::default(), Vec::new()).unwrap_err();
    assert!(err.to_string().contains(".wh.real"), "{err}");
    // In an archive of plain files it is a name like others.
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
