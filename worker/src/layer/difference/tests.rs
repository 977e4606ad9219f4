use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::sys::is_root_or_skip;

/// What is at each path.
type Tree = BTreeMap<String, String>;

struct Lab {
    store: LayerStore,
    _dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path()).unwrap();
        Self { store, _dir: dir }
    }

    /// A layer over `parents`.
    fn layer(&self, parents: &LayerList, write: impl FnOnce(&Root)) -> LayerList {
        let layer = self.store.prepare(parents).unwrap();
        let mounted = layer.mount().unwrap();
        write(mounted.root());
        mounted.unmount().unwrap();
        layer.commit(&Describe::default()).unwrap()
    }

    fn difference(&self, lower: &LayerList, upper: &LayerList) -> LayerList {
        let list = self.store.difference(lower, upper, &Describe::default()).unwrap();
        assert_eq!(list.ids().len(), 1);
        list
    }

    /// All files of a result.
    fn tree(&self, list: &LayerList) -> Tree {
        let mounted = self.store.mount_readonly(list).unwrap();
        read(mounted.root())
    }

    /// The files of a layer as they are stored.
    fn stored(&self, list: &LayerList) -> Tree {
        read(&self.store.layer_root(list.top().unwrap()).unwrap())
    }
}

fn read(root: &Root) -> Tree {
    let mut found = Tree::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in root.read_dir(&dir).unwrap() {
            let path = dir.join(entry.name);
            let metadata = root.lstat(&path).unwrap();
            let what = match metadata.kind() {
                FileKind::File => String::from_utf8(root.read_file_limited(&path, 1 << 10).unwrap()).unwrap(),
                FileKind::Symlink => format!("-> {}", root.read_link(&path).unwrap().display()),
                FileKind::Dir => {
                    pending.push(path.clone());
                    "/".to_owned()
                }
                _ if metadata.is_whiteout() => "gone".to_owned(),
                _ => "special".to_owned(),
            };
            let text = format!("{what} {:o} {}", metadata.permissions(), metadata.uid);
            found.insert(path.display().to_string(), text);
        }
    }
    found
}

fn write(root: &Root, path: &str, text: &str) {
    root.create_dir_all(Path::new(path).parent().unwrap(), 0o755).unwrap();
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::TRUNC;
    let mut file = root.open_file(path, flags, 0o644).unwrap();
    io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
    let time = Time { secs: 1000, nanos: 0 };
    root.set_times(path, Some(time), Some(time)).unwrap();
}

#[test]
fn what_differs_makes_one_of_the_other() {
    if !is_root_or_skip() {
        return;
    }
    let lab = Lab::new();
    let scratch = lab.store.scratch();
    let lower = lab.layer(&scratch, |root| {
        for path in [
            "same/a",
            "changed/a",
            "gone/a",
            "file-then-dir",
            "dir-then-file/a",
            "mode",
        ] {
            write(root, path, "text");
        }
        root.symlink("one", "link").unwrap();
    });
    let upper = lab.layer(&scratch, |root| {
        for path in ["same/a", "file-then-dir/a", "dir-then-file", "mode", "new/deep/a"] {
            write(root, path, "text");
        }
        // Of the same length and time.
        write(root, "changed/a", "TEXT");
        root.hard_link("new/deep/a", "new/b").unwrap();
        root.symlink("two", "link").unwrap();
        root.chown("mode", 5, 5).unwrap();
        root.chmod("mode", 0o4711).unwrap();
    });
    let difference = lab.difference(&lower, &upper);
    let laid_over = lower.merge(std::slice::from_ref(&difference));
    assert_eq!(lab.tree(&laid_over), lab.tree(&upper));
    let stored = lab.stored(&difference);
    let expected = [
        ("changed", "/ 755 0"),
        ("changed/a", "TEXT 644 0"),
        ("dir-then-file", "text 644 0"),
        ("file-then-dir", "/ 755 0"),
        ("file-then-dir/a", "text 644 0"),
        ("gone", "gone 0 0"),
        ("link", "-> two 777 0"),
        ("mode", "text 4711 5"),
        ("new", "/ 755 0"),
        ("new/b", "text 644 0"),
        ("new/deep", "/ 755 0"),
        ("new/deep/a", "text 644 0"),
    ];
    let expected: Tree = expected.map(|(path, what)| (path.to_owned(), what.to_owned())).into();
    assert_eq!(stored, expected);
    let root = lab.store.layer_root(difference.top().unwrap()).unwrap();
    assert!(
        root.lstat("new/b")
            .unwrap()
            .is_same_file(&root.lstat("new/deep/a").unwrap())
    );
}

#[test]
fn what_is_below_the_other_is_taken_away_again() {
    if !is_root_or_skip() {
        return;
    }
    let lab = Lab::new();
    let lower = lab.layer(&lab.store.scratch(), |root| write(root, "d/a", "1"));
    let upper = lab.layer(&lower, |root| {
        write(root, "d/b", "2");
        root.chmod("d", 0o700).unwrap();
    });
    let back = lab.difference(&upper, &lower);
    assert_eq!(lab.tree(&upper.merge(std::slice::from_ref(&back))), lab.tree(&lower));
    // Over something else, only what was told of is changed.
    let other = lab.layer(&lab.store.scratch(), |root| {
        write(root, "d/b", "3");
        write(root, "d/c", "4");
    });
    let changed = lab.tree(&other.merge(&[back]));
    assert_eq!(changed.keys().collect::<Vec<_>>(), ["d", "d/c"]);
    assert_eq!(changed["d"], "/ 755 0");
}

#[test]
fn nothing_differs_from_itself() {
    if !is_root_or_skip() {
        return;
    }
    let lab = Lab::new();
    let make = || lab.layer(&lab.store.scratch(), |root| write(root, "d/a", "1"));
    let (one, two) = (make(), make());
    assert!(lab.stored(&lab.difference(&one, &two)).is_empty());
    assert_eq!(lab.stored(&lab.difference(&one, &lab.store.scratch())).len(), 1);
}
