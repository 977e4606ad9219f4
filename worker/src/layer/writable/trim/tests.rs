use std::path::{Path, PathBuf};

use super::*;
use crate::layer::{Describe, LayerList, LayerStore};
use crate::sys::{Time, is_root_or_skip};

const TIME: Time = Time { secs: 1000, nanos: 5 };

struct Trees {
    upper: Root,
    lower: Root,
    dir: tempfile::TempDir,
}

impl Trees {
    /// Two equal trees.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let root = Root::open(&path).unwrap();
            root.create_dir("d", 0o755).unwrap();
            root.create_dir("d/e", 0o700).unwrap();
            for file in ["d/e/f", "d/g"] {
                std::fs::write(path.join(file), "content").unwrap();
            }
            root.symlink("to", "d/link").unwrap();
            root.mknod("fifo", libc::S_IFIFO | 0o600, (0, 0)).unwrap();
            for path in ["d/e/f", "d/g", "d/link", "fifo"] {
                root.set_times(path, None, Some(TIME)).unwrap();
            }
            root
        });
        Self { upper, lower, dir }
    }

    /// What is left of the upper tree.
    fn left(&self) -> Vec<String> {
        // Times of directories are for other tests.
        for path in ["d", "d/e"] {
            if let (Ok(ours), Ok(below)) = (self.upper.lstat(path), self.lower.lstat(path))
                && ours.is_dir()
                && below.is_dir()
            {
                self.lower.set_times(path, None, Some(ours.mtime)).unwrap();
            }
        }
        trim(&self.upper, &self.lower).unwrap();
        let mut found = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            for entry in self.upper.read_dir(&dir).unwrap() {
                let path = dir.join(entry.name);
                if self.upper.lstat(&path).unwrap().is_dir() {
                    pending.push(path.clone());
                }
                found.push(path.into_os_string().into_string().unwrap());
            }
        }
        found.sort();
        found
    }
}

#[test]
fn what_is_the_same_goes_and_what_differs_stays() {
    if !is_root_or_skip() {
        return;
    }
    type Change = fn(&Trees);
    let cases: [(&str, Change, &[&str]); 19] = [
        ("nothing", |_| {}, &[]),
        (
            "mode",
            |t| t.upper.chmod("d/e/f", 0o600).unwrap(),
            &["d", "d/e", "d/e/f"],
        ),
        ("owner", |t| t.upper.chown("d/g", 7, 0).unwrap(), &["d", "d/g"]),
        (
            "group of a link",
            |t| t.upper.chown("d/link", 0, 7).unwrap(),
            &["d", "d/link"],
        ),
        (
            "time",
            |t| {
                t.upper
                    .set_times("d/g", None, Some(Time { secs: 1000, nanos: 6 }))
                    .unwrap()
            },
            &["d", "d/g"],
        ),
        (
            "time of a directory",
            |t| t.upper.set_times("d/e", None, Some(TIME)).unwrap(),
            &[],
        ),
        (
            "mode of a directory",
            |t| t.upper.chmod("d/e", 0o711).unwrap(),
            &["d", "d/e"],
        ),
        (
            "content",
            |t| {
                std::fs::write(t.dir.path().join("upper/d/g"), "CONTENT").unwrap();
                t.upper.set_times("d/g", None, Some(TIME)).unwrap();
            },
            &["d", "d/g"],
        ),
        (
            "size",
            |t| {
                std::fs::write(t.dir.path().join("upper/d/g"), "content, more").unwrap();
                t.upper.set_times("d/g", None, Some(TIME)).unwrap();
            },
            &["d", "d/g"],
        ),
        (
            "content of a copied file with a set time",
            |t| {
                std::fs::write(t.dir.path().join("upper/d/g"), "CONTENT").unwrap();
                t.upper.set_xattr("d/g", ORIGIN.as_ref(), b"x").unwrap();
                for root in [&t.upper, &t.lower] {
                    root.set_times("d/g", None, Some(Time { secs: 1, nanos: 0 })).unwrap();
                }
            },
            &["d", "d/g"],
        ),
        (
            "attribute",
            |t| t.upper.set_xattr("d/g", "trusted.x".as_ref(), b"1").unwrap(),
            &["d", "d/g"],
        ),
        (
            "attribute of the overlay",
            |t| t.upper.set_xattr("d/g", ORIGIN.as_ref(), b"1").unwrap(),
            &[],
        ),
        (
            "target of a link",
            |t| {
                t.upper.unlink("d/link").unwrap();
                t.upper.symlink("elsewhere", "d/link").unwrap();
                t.upper.set_times("d/link", None, Some(TIME)).unwrap();
            },
            &["d", "d/link"],
        ),
        (
            "new",
            |t| {
                t.upper.create_dir("d/new", 0o755).unwrap();
                t.upper.symlink("x", "d/new/x").unwrap();
            },
            &["d", "d/new", "d/new/x"],
        ),
        (
            "type",
            |t| {
                t.upper.unlink("fifo").unwrap();
                t.upper.create_dir("fifo", 0o600).unwrap();
            },
            &["fifo"],
        ),
        (
            "deletions",
            |t| {
                for path in ["d/g", "fifo"] {
                    t.upper.unlink(path).unwrap();
                    t.upper.mknod(path, libc::S_IFCHR, (0, 0)).unwrap();
                }
                t.upper.mknod("d/e/never", libc::S_IFCHR, (0, 0)).unwrap();
            },
            &["d", "d/g", "fifo"],
        ),
        (
            "opaque",
            |t| t.upper.set_xattr("d/e", OPAQUE.as_ref(), b"y").unwrap(),
            &[],
        ),
        (
            "opaque with what is in it",
            |t| {
                t.upper.set_xattr("d", OPAQUE.as_ref(), b"y").unwrap();
                t.upper.unlink("d/g").unwrap();
                t.upper.unlink("d/e/f").unwrap();
                t.upper.symlink("new", "d/e/n").unwrap();
            },
            &["d", "d/e", "d/e/f", "d/e/n", "d/g"],
        ),
        (
            "second name",
            |t| t.upper.hard_link("d/g", "second").unwrap(),
            &["d", "d/g", "second"],
        ),
    ];
    for (what, change, left) in cases {
        let trees = Trees::new();
        change(&trees);
        assert_eq!(trees.left(), left, "{what}");
    }
}

#[test]
fn directories_that_stay_keep_their_times() {
    let trees = Trees::new();
    trees.upper.create_dir("d/new", 0o755).unwrap();
    for path in ["", "d"] {
        trees.upper.set_times(path, None, Some(TIME)).unwrap();
    }
    assert_eq!(trees.left(), ["d", "d/new"]);
    for path in ["", "d"] {
        assert_eq!(trees.upper.stat(path).unwrap().mtime, TIME, "{path:?}");
    }
}

#[test]
fn depth_takes_neither_stack_nor_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let mut roots = ["upper", "lower"].map(|name| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        Root::open(&path).unwrap()
    });
    let [upper, lower] = [0, 1].map(|n: usize| roots[n].try_clone().unwrap());
    for _ in 0..3000 {
        for root in &mut roots {
            root.create_dir("d", 0o755).unwrap();
            let below = root.sub_root("d").unwrap();
            at::set_times_fd(&*root, None, Some(TIME)).unwrap();
            at::set_times_fd(&below, None, Some(TIME)).unwrap();
            *root = below;
        }
    }
    trim(&upper, &lower).unwrap();
    assert!(at::is_empty_dir(&upper).unwrap());
    // Deeper than a path can be long.
    at::remove_children(&lower).unwrap();
}

#[test]
fn files_written_again_are_not_in_the_layer() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let write = |root: &Path| {
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/c"), "text").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
        std::fs::File::open(root.join("a/b/c"))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let layer = store.prepare(&store.scratch()).unwrap();
    write(&layer.dir.join("fs"));
    let base = layer.commit(&Describe::default()).unwrap();
    let layer = store.prepare(&base).unwrap();
    write(&layer.dir.join("fs"));
    assert!(is_empty(&store, &layer.commit(&Describe::default()).unwrap()));
    // A file copied up without being changed, and one made and removed again.
    let layer = store.prepare(&base).unwrap();
    let mounted = layer.mount().unwrap();
    mounted.root().chown("a/b/c", 0, 0).unwrap();
    mounted.root().create_dir("a/new", 0o755).unwrap();
    mounted.root().rmdir("a/new").unwrap();
    assert!(layer.upper().lstat("a/b/c").is_ok(), "copied up");
    mounted.unmount().unwrap();
    let list = layer.commit(&Describe::default()).unwrap();
    assert!(is_empty(&store, &list));
    let left = store.layer_root(list.top().unwrap()).unwrap();
    assert!(
        left.lstat("a/b").is_err() && left.lstat("a").is_ok(),
        "its time is another"
    );
}

/// Whether the topmost of two layers has nothing in it for an image.
fn is_empty(store: &LayerStore, list: &LayerList) -> bool {
    assert_eq!(list.ids().len(), 2);
    let root = store.layer_root(list.top().unwrap()).unwrap();
    let packed = crate::archive::pack(&root, &crate::archive::PackOptions::default(), Vec::new()).unwrap();
    packed.iter().all(|byte| *byte == 0)
}

#[test]
fn a_time_alone_is_kept_and_is_no_change() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let layer = store.prepare(&store.scratch()).unwrap();
    for path in ["a/b", "c", "d/e"] {
        layer.upper().create_dir_all(path, 0o755).unwrap();
    }
    let base = layer.commit(&Describe::default()).unwrap();
    let touch = |over: &LayerList, paths: &[&str]| {
        let layer = store.prepare(over).unwrap();
        let mounted = layer.mount().unwrap();
        for path in paths {
            mounted.root().set_times(path, None, Some(TIME)).unwrap();
        }
        mounted.unmount().unwrap();
        layer.commit(&Describe::default()).unwrap()
    };
    let touched = touch(&base, &["a/b", "d/e"]);
    assert!(is_empty(&store, &touched));
    let names = |list: &LayerList, path: &str| {
        let root = store.layer_root(list.top().unwrap()).unwrap();
        let mut names: Vec<_> = root.read_dir(path).unwrap().into_iter().map(|e| e.name).collect();
        names.sort();
        names
    };
    assert_eq!(names(&touched, ""), ["a", "d"]);
    let mounted = store.mount_readonly(&touched).unwrap();
    assert_eq!(mounted.root().stat("a/b").unwrap().mtime, TIME);
    assert_eq!(
        mounted.root().stat("a").unwrap().mtime,
        store.mount_readonly(&base).unwrap().root().stat("a").unwrap().mtime
    );
    assert!(mounted.root().xattrs("a").unwrap().is_empty(), "nobody sees the mark");
    mounted.unmount().unwrap();

    // What is put into such a directory later takes it along into the layer, without the mark.
    let layer = store.prepare(&touched).unwrap();
    let mounted = layer.mount().unwrap();
    mounted.root().create_dir("a/b/new", 0o755).unwrap();
    mounted.unmount().unwrap();
    let above = layer.commit(&Describe::default()).unwrap();
    let root = store.layer_root(above.top().unwrap()).unwrap();
    let packed = crate::archive::pack(&root, &crate::archive::PackOptions::default(), Vec::new()).unwrap();
    assert!(packed.windows(7).any(|bytes| bytes == b"a/b/new"));

    // Laid over something else, it is not there.
    let alone = store.without_times(&touched.above(1)).unwrap();
    assert!(names(&alone, "").is_empty());
    assert_eq!(store.without_times(&base).unwrap(), base);
}

#[test]
fn directories_hide_nothing_but_mark_what_is_gone() {
    if !is_root_or_skip() {
        return;
    }
    let trees = Trees::new();
    let path = |tree: &str, name: &str| trees.dir.path().join(tree).join(name);
    std::fs::write(path("lower", "was-file"), "").unwrap();
    std::fs::create_dir(path("lower", "was-dir")).unwrap();
    for name in ["was-file", "was-dir", "new"] {
        std::fs::create_dir(path("upper", name)).unwrap();
        at::set_xattr(&trees.upper, name.as_ref(), OPAQUE.as_ref(), b"y").unwrap();
    }
    std::fs::write(path("lower", "was-dir/gone"), "").unwrap();
    std::fs::create_dir_all(path("lower", "was-dir/in/deep")).unwrap();
    std::fs::create_dir(path("upper", "was-dir/in")).unwrap();
    at::set_times(&trees.upper, "was-dir".as_ref(), None, Some(TIME)).unwrap();
    let left = [
        "new",
        "was-dir",
        "was-dir/gone",
        "was-dir/in",
        "was-dir/in/deep",
        "was-file",
    ];
    assert_eq!(trees.left(), left);
    for gone in ["was-dir/gone", "was-dir/in/deep"] {
        assert!(trees.upper.lstat(gone).unwrap().is_whiteout(), "{gone}");
    }
    assert_eq!(trees.upper.stat("was-dir").unwrap().mtime, TIME);
    let is_marked = |name: &str| {
        at::xattr(&trees.upper, name.as_ref(), OPAQUE.as_ref())
            .unwrap()
            .is_some()
    };
    let names = ["was-dir", "was-file", "new"];
    assert!(!names.into_iter().any(is_marked));
    let inside = trees.upper.sub_root("was-dir").unwrap();
    assert_eq!(at::xattr(&inside, "in".as_ref(), OPAQUE.as_ref()).unwrap(), None);
}
