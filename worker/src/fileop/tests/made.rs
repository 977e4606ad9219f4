//! mkdir, mkfile, symlink and rm.

use super::*;

fn mkdir(path: &str, make_parents: bool) -> FileActionKind {
    FileActionKind::Mkdir {
        path: path.to_owned(),
        mode: 0o750,
        make_parents,
        owner: None,
        timestamp: None,
    }
}

fn mkfile(path: &str) -> FileActionKind {
    FileActionKind::Mkfile {
        path: path.to_owned(),
        mode: 0o100_640,
        data: "new".into(),
        owner: None,
        timestamp: None,
    }
}

fn symlink(path: &str) -> FileActionKind {
    FileActionKind::Symlink {
        old_path: "../t".to_owned(),
        new_path: path.to_owned(),
        owner: None,
        timestamp: None,
    }
}

fn rm(path: &str, allow_not_found: bool, allow_wildcard: bool) -> FileActionKind {
    FileActionKind::Rm {
        path: path.to_owned(),
        allow_not_found,
        allow_wildcard,
    }
}

#[test]
fn files_are_made_and_removed() {
    if !is_root_or_skip() {
        return;
    }
    let rows: &[(&str, &str, FileActionKind, Result<&str, &str>)] = &[
        ("mkdir", "", mkdir("/d", false), Ok("d/ 750")),
        ("mkdir, there", "d/ 700", mkdir("/d", false), Ok("d/ 700")),
        (
            "mkdir, parents there",
            "a/",
            mkdir("/a/b/c", true),
            Ok("a/ 755\na/b/ 750\na/b/c/ 750"),
        ),
        (
            "mkdir, no parent",
            "",
            mkdir("/a/b", false),
            Err("mkdir /a/b: no such file or directory"),
        ),
        (
            "mkdir, over a file",
            "d = 1",
            mkdir("/d", true),
            Err("mkdir /d: not a directory"),
        ),
        ("mkdir, a file is there", "d = 1", mkdir("/d", false), Ok("d = 1 644")),
        (
            "mkdir, through a link",
            "l -> /e\ne/",
            mkdir("/l/d", false),
            Ok("e/ 755\ne/d/ 750\nl -> /e"),
        ),
        ("mkdir, above the root", "", mkdir("/../../d", false), Ok("d/ 750")),
        ("mkdir, the root", "", mkdir("/", false), Ok("")),
        ("mkfile", "", mkfile("/f"), Ok("f = new 640")),
        ("mkfile, there", "f = old 600", mkfile("/f"), Ok("f = new 600")),
        (
            "mkfile, through a link",
            "l -> f\nf = old",
            mkfile("/l"),
            Ok("f = new 644\nl -> f"),
        ),
        (
            "mkfile, through a dangling link",
            "l -> f",
            mkfile("/l"),
            Ok("f = new 640\nl -> f"),
        ),
        (
            "mkfile, no parent",
            "",
            mkfile("/a/f"),
            Err("open /a/f: no such file or directory"),
        ),
        (
            "mkfile, over a directory",
            "d/",
            mkfile("/d"),
            Err("open /d: is a directory"),
        ),
        (
            "mkfile, over a fifo",
            "p |",
            mkfile("/p"),
            Err("open /p: not a regular file"),
        ),
        ("symlink", "a/", symlink("/a/l"), Ok("a/ 755\na/l -> ../t")),
        ("symlink, there", "l = 1", symlink("/l"), Err("symlink /l: file exists")),
        (
            "symlink, dangling there",
            "l -> x",
            symlink("/l"),
            Err("symlink /l: file exists"),
        ),
        (
            "symlink, no parent",
            "",
            symlink("/a/l"),
            Err("symlink /a/l: no such file or directory"),
        ),
        ("rm, file", "a = 1\nb = 2", rm("/a", false, false), Ok("b = 2 644")),
        (
            "rm, directory",
            "d/\nd/e/\nd/e/f = 1\ng = 1",
            rm("/d/", false, false),
            Ok("g = 1 644"),
        ),
        ("rm, link itself", "l -> d\nd/", rm("/l", false, false), Ok("d/ 755")),
        (
            "rm, below a link",
            "l -> d\nd/\nd/f = 1",
            rm("/l/f", false, false),
            Ok("d/ 755\nl -> d"),
        ),
        (
            "rm, missing",
            "",
            rm("/x/y", false, false),
            Err("lstat /x/y: no such file or directory"),
        ),
        ("rm, missing allowed", "a = 1", rm("/x", true, false), Ok("a = 1 644")),
        ("rm, below a file", "a = 1", rm("/a/b", true, false), Ok("a = 1 644")),
        (
            "rm, wildcard",
            "a1 = 1\na2 = 1\nb = 1",
            rm("/a*", false, true),
            Ok("b = 1 644"),
        ),
        (
            "rm, wildcard in a directory",
            "d/\nd/a/\nd/a/x = 1\nd/b = 1",
            rm("/d/*", false, true),
            Ok("d/ 755"),
        ),
        (
            "rm, wildcard without match",
            "b = 1",
            rm("/a*", false, true),
            Ok("b = 1 644"),
        ),
        (
            "rm, not a wildcard",
            "a = 1",
            rm("/?", false, false),
            Err("lstat /?: no such file or directory"),
        ),
        (
            "rm, wildcard below a link",
            "l -> d\nd/\nd/x = 1",
            rm("/l/*", false, true),
            Ok("d/ 755\nd/x = 1 644\nl -> d"),
        ),
        (
            "rm, the root",
            "a = 1\nd/\nd/x = 1",
            rm("/", false, false),
            Err("rmPath /: invalid empty path"),
        ),
    ];
    for (what, dest, kind, want) in rows {
        check(what, dest, "", kind, *want);
    }
}

#[test]
fn owner_and_time_are_set() {
    if !is_root_or_skip() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let (owner, timestamp) = (ids(3, 4), Some(9_000_000_000));
    let kinds = [
        FileActionKind::Mkdir {
            path: "/a/x".into(),
            mode: 0o755,
            make_parents: true,
            owner: owner.clone(),
            timestamp,
        },
        FileActionKind::Mkfile {
            path: "/x".into(),
            mode: 0o644,
            data: "1".into(),
            owner: owner.clone(),
            timestamp,
        },
        FileActionKind::Symlink {
            old_path: "t".into(),
            new_path: "/x".into(),
            owner,
            timestamp,
        },
    ];
    for (kind, paths) in kinds.into_iter().zip([&["a", "a/x"][..], &["x"], &["x"]]) {
        let mut bench = Bench::new("", "");
        let action = FileAction {
            input: None,
            secondary: None,
            output: Some(0),
            kind,
        };
        let layer = bench.run(vec![action]).unwrap().remove(0).pop().unwrap();
        for path in paths {
            let metadata = fs::symlink_metadata(layer.join(path)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mtime()), (3, 4, 9), "{path}");
        }
    }
}
