//! The rules of copying, a row each.

use super::*;

/// What is shown, destination, source, copy, outcome.
type Row<'a> = (&'a str, &'a str, &'a str, CopyAction, Result<&'a str, &'a str>);

fn copies(rows: &[Row<'_>]) {
    if !is_root_or_skip() {
        return;
    }
    for (what, dest, source, action, want) in rows {
        check(what, dest, source, &FileActionKind::Copy(action.clone()), *want);
    }
}

#[test]
fn where_a_file_goes() {
    let row = dockerfile_copy;
    copies(&[
        ("new name", "", "a = 1", row("a", "/b"), Ok("b = 1 644")),
        (
            "into a directory that is there",
            "d/",
            "a = 1",
            row("/a", "/d"),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "into a directory by its slash",
            "",
            "a = 1",
            row("a", "/d/"),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "into a directory by its dot",
            "",
            "a = 1",
            row("a", "/d/."),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        ("into the root", "", "a = 1", row("a", "/"), Ok("a = 1 644")),
        (
            "parents are made",
            "",
            "a = 1",
            row("a", "/x/y/b"),
            Ok("x/ 755\nx/y/ 755\nx/y/b = 1 644"),
        ),
        (
            "parents keep their look",
            "x/ 700\nx : 7 8",
            "a = 1",
            row("a", "/x/b"),
            Ok("x/ 700 : 7 8\nx/b = 1 644"),
        ),
        (
            "replaces a file",
            "b = old 600",
            "a = 1",
            row("a", "/b"),
            Ok("b = 1 644"),
        ),
        (
            "replaces what a link leads to",
            "b -> c\nc = old",
            "a = 1",
            row("a", "/b"),
            Ok("b -> c\nc = 1 644"),
        ),
        (
            "replaces a link in a directory",
            "d/\nd/a -> ../c\nc = old",
            "a = 1",
            row("a", "/d/"),
            Ok("c = old 644\nd/ 755\nd/a = 1 644"),
        ),
        (
            "through a link to a directory",
            "l -> d\nd/",
            "a = 1",
            row("a", "/l/"),
            Ok("d/ 755\nd/a = 1 644\nl -> d"),
        ),
        (
            "through a link, without slash",
            "l -> /d\nd/",
            "a = 1",
            row("a", "/l"),
            Ok("d/ 755\nd/a = 1 644\nl -> /d"),
        ),
        (
            "dangling link",
            "l -> /tmp/zz",
            "a = 1",
            row("a", "/l"),
            Ok("l -> /tmp/zz\ntmp/ 755\ntmp/zz = 1 644"),
        ),
        (
            "parent is a file",
            "f = 1",
            "a = 1",
            row("a", "/f/b"),
            Err("mkdir /f: not a directory"),
        ),
        (
            "directory is a file",
            "f = 1",
            "a = 1",
            row("a", "/f/"),
            Err("mkdir /f: not a directory"),
        ),
        (
            "over a directory",
            "d/\nd/a/",
            "a = 1",
            row("a", "/d/"),
            Err("cannot replace to directory /d/a with file"),
        ),
        (
            "missing",
            "",
            "",
            row("x", "/"),
            Err("lstat /x: no such file or directory"),
        ),
        (
            "missing, below a file",
            "",
            "a = 1",
            row("a/x", "/"),
            Err("lstat /a/x: no such file or directory"),
        ),
    ]);
}

#[test]
fn where_a_directory_goes() {
    let contents = dockerfile_copy;
    let itself = |src: &str, dest: &str| CopyAction {
        dir_copy_contents: false,
        ..dockerfile_copy(src, dest)
    };
    let source = "s/ 700\ns/a = 1\ns/t/ 711\ns/t/b = 2";
    copies(&[
        (
            "contents, new",
            "",
            source,
            contents("s", "/d"),
            Ok("d/ 755\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644"),
        ),
        (
            "contents, there",
            "d/ 750",
            source,
            contents("s", "/d"),
            Ok("d/ 750\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644"),
        ),
        (
            "contents, to the root",
            "",
            source,
            contents("s/", "/"),
            Ok("a = 1 644\nt/ 711\nt/b = 2 644"),
        ),
        (
            "everything",
            "",
            "a = 1\nt/",
            contents("/", "/d/"),
            Ok("d/ 755\nd/a = 1 644\nd/t/ 755"),
        ),
        (
            "itself, new",
            "",
            source,
            itself("s", "/d"),
            Ok("d/ 700\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644"),
        ),
        (
            "itself, there",
            "d/",
            source,
            itself("s", "/d"),
            Ok("d/ 755\nd/s/ 700\nd/s/a = 1 644\nd/s/t/ 711\nd/s/t/b = 2 644"),
        ),
        (
            "itself, by slash",
            "",
            "s/\ns/a = 1",
            itself("s", "/d/"),
            Ok("d/ 755\nd/s/ 755\nd/s/a = 1 644"),
        ),
        (
            "merged",
            "d/\nd/t/ 700\nd/t/c = 3\nd/a -> t",
            source,
            contents("s", "/d"),
            Ok("d/ 755\nd/a = 1 644\nd/t/ 711\nd/t/b = 2 644\nd/t/c = 3 644"),
        ),
        (
            "onto a file",
            "d = x",
            source,
            contents("s", "/d"),
            Err("cannot copy to non-directory: /d"),
        ),
        (
            "a directory onto a file",
            "d/\nd/t = x",
            source,
            contents("s", "/d"),
            Err("cannot copy to non-directory: /d/t"),
        ),
        (
            "a directory onto a link",
            "d/\nd/t -> /e\ne/",
            source,
            contents("s", "/d"),
            Err("cannot copy to non-directory: /d/t"),
        ),
        (
            "a file onto a directory",
            "d/\nd/a/",
            source,
            contents("s", "/d"),
            Err("cannot replace to directory /d/a with file"),
        ),
    ]);
}

#[test]
fn replacing_other_types() {
    let row = |src: &str, dest: &str| CopyAction {
        always_replace: true,
        ..dockerfile_copy(src, dest)
    };
    copies(&[
        (
            "file over directory",
            "d/\nd/a/\nd/a/x = 1",
            "a = 1",
            row("a", "/d/"),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "directory over file",
            "d/\nd/t = x",
            "s/\ns/t/\ns/t/b = 2",
            row("s", "/d"),
            Ok("d/ 755\nd/t/ 755\nd/t/b = 2 644"),
        ),
        (
            "directory over link",
            "d/\nd/t -> /e\ne/",
            "s/\ns/t/\ns/t/b = 2",
            row("s", "/d"),
            Ok("d/ 755\nd/t/ 755\nd/t/b = 2 644\ne/ 755"),
        ),
    ]);
}

#[test]
fn which_files_are_meant() {
    let row = dockerfile_copy;
    let strict = |src: &str| CopyAction {
        allow_empty_wildcard: false,
        ..dockerfile_copy(src, "/d/")
    };
    let literal = |src: &str| CopyAction {
        allow_wildcard: false,
        ..dockerfile_copy(src, "/d/")
    };
    let unfollowed = |src: &str| CopyAction {
        follow_symlink: false,
        ..dockerfile_copy(src, "/d/")
    };
    let source =
        "a.txt = 1\nb.txt = 2\n.txt = 3\ns/\ns/x/\ns/x/z = 4\ns/y = 5\nl -> a.txt\nls -> s\n[c] = 6\nbad -> no";
    copies(&[
        (
            "star",
            "",
            source,
            row("*.txt", "/d/"),
            Ok("d/ 755\nd/.txt = 3 644\nd/a.txt = 1 644\nd/b.txt = 2 644"),
        ),
        (
            "question mark, class",
            "",
            source,
            row("/[^b].tx?", "/d/"),
            Ok("d/ 755\nd/a.txt = 1 644"),
        ),
        (
            "directories contribute their contents",
            "",
            source,
            row("s/*", "/d/"),
            Ok("d/ 755\nd/y = 5 644\nd/z = 4 644"),
        ),
        ("two levels", "", source, row("**/z", "/d/"), Ok("")),
        (
            "three levels",
            "",
            source,
            row("**/*/z", "/d/"),
            Ok("d/ 755\nd/z = 4 644"),
        ),
        ("last one wins", "", source, row("?.txt", "/d"), Ok("d = 2 644")),
        ("no match, nothing happens", "", source, row("q*", "/d/"), Ok("")),
        ("no match, error", "", source, strict("q*"), Err("q* not found")),
        (
            "escaped wildcard",
            "",
            source,
            row("[[]c]", "/d/"),
            Ok("d/ 755\nd/[c] = 6 644"),
        ),
        (
            "no wildcards allowed",
            "",
            source,
            literal("[c]"),
            Ok("d/ 755\nd/[c] = 6 644"),
        ),
        (
            "no wildcards allowed, missing",
            "",
            source,
            literal("*.txt"),
            Err("lstat /*.txt: no such file or directory"),
        ),
        (
            "link is followed, keeps its name",
            "",
            source,
            row("l", "/d/"),
            Ok("d/ 755\nd/l = 1 644"),
        ),
        (
            "link to a directory is followed",
            "",
            source,
            row("ls", "/d"),
            Ok("d/ 755\nd/x/ 755\nd/x/z = 4 644\nd/y = 5 644"),
        ),
        (
            "link is not followed",
            "",
            source,
            unfollowed("l"),
            Ok("d/ 755\nd/l -> a.txt"),
        ),
        (
            "link on the way is followed",
            "",
            source,
            unfollowed("ls/y"),
            Ok("d/ 755\nd/y = 5 644"),
        ),
        (
            "wildcard below a link",
            "",
            source,
            row("ls/y*", "/d/"),
            Ok("d/ 755\nd/y = 5 644"),
        ),
        ("wildcards do not enter links", "", source, row("l?/y", "/d/"), Ok("")),
        (
            "links inside are copied",
            "",
            "s/\ns/l -> /etc",
            row("s", "/d/"),
            Ok("d/ 755\nd/l -> /etc"),
        ),
        (
            "dangling link",
            "",
            source,
            row("bad", "/d/"),
            Err("lstat /bad: no such file or directory"),
        ),
        (
            "malformed",
            "",
            source,
            row("[]a", "/d/"),
            Err("invalid path pattern: [[]a]: syntax error in pattern"),
        ),
    ]);
}

#[test]
fn patterns_choose_what_is_copied() {
    let list = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let only = |include: &[&str], exclude: &[&str]| CopyAction {
        include: list(include),
        exclude: list(exclude),
        ..dockerfile_copy("/s", "/d/")
    };
    let needs = |required: &[&str]| CopyAction {
        required_paths: list(required),
        ..only(&["**"], &[])
    };
    let source = "s/\ns/a.txt = 1\ns/t/ 711\ns/t/b.txt = 2\ns/t/c = 3\ns/u/ 700\ns/u/v/\ns/l -> t\nf.txt = 4";
    let file = CopyAction {
        exclude: list(&["*"]),
        ..dockerfile_copy("f.txt", "/d/")
    };
    copies(&[
        (
            "included, parents with their look",
            "",
            source,
            only(&["**/b.txt"], &[]),
            Ok("d/ 755\nd/t/ 711\nd/t/b.txt = 2 644"),
        ),
        (
            "a directory with all that is in it",
            "",
            source,
            only(&["u"], &[]),
            Ok("d/ 755\nd/u/ 700\nd/u/v/ 755"),
        ),
        ("nothing", "", source, only(&["q"], &[]), Ok("d/ 755")),
        (
            "top level only",
            "",
            source,
            only(&[], &["*.txt", "u", "l"]),
            Ok("d/ 755\nd/t/ 711\nd/t/b.txt = 2 644\nd/t/c = 3 644"),
        ),
        (
            "everywhere",
            "",
            source,
            only(&[], &["**/*.txt", "u", "l"]),
            Ok("d/ 755\nd/t/ 711\nd/t/c = 3 644"),
        ),
        (
            "with an exception",
            "",
            source,
            only(&[], &["*", "!t/c"]),
            Ok("d/ 755\nd/t/ 711\nd/t/c = 3 644"),
        ),
        (
            "both",
            "",
            source,
            only(&["t", "a.txt"], &["t/c"]),
            Ok("d/ 755\nd/a.txt = 1 644\nd/t/ 711\nd/t/b.txt = 2 644"),
        ),
        (
            "directories stay, if empty",
            "",
            source,
            only(&[], &["t/*", "u/*", "a.txt", "l"]),
            Ok("d/ 755\nd/t/ 711\nd/u/ 700"),
        ),
        (
            "a file itself is not left out",
            "",
            source,
            file,
            Ok("d/ 755\nd/f.txt = 4 644"),
        ),
        (
            "malformed",
            "",
            source,
            only(&[], &["["]),
            Err("invalid excludepatterns: [[]: syntax error in pattern"),
        ),
        (
            "required and there",
            "",
            "s/\ns/a = 1",
            needs(&["a"]),
            Ok("d/ 755\nd/a = 1 644"),
        ),
        (
            "required and missing",
            "",
            source,
            needs(&["t/x"]),
            Err("\"/s/t/x\": not found"),
        ),
        (
            "required below a link",
            "",
            source,
            needs(&["l/c"]),
            Err("\"/s/l/c\": not found"),
        ),
        (
            "required is the source itself",
            "",
            source,
            needs(&["/"]),
            Err("\"/s\": not found"),
        ),
    ]);
}

#[test]
fn what_copies_look_like() {
    let base = || dockerfile_copy("s", "/n/d");
    // A change of owner drops the set-id bit.
    let source = "s/ 700\ns/f = 1 4755\ns/l -> f\ns/t/ 1777\ns/p |\ns/f : 5 6";
    copies(&[
        (
            "as the source",
            "",
            source,
            base(),
            Ok("n/ 755\nn/d/ 755\nn/d/f = 1 755 : 5 6\nn/d/l -> f\nn/d/p | 644\nn/d/t/ 1777"),
        ),
        (
            "owner",
            "",
            "s/\ns/f = 1 4755\ns/l -> f\ns/t/",
            CopyAction {
                owner: ids(7, 8),
                ..base()
            },
            Ok("n/ 755 : 7 8\nn/d/ 755 : 7 8\nn/d/f = 1 4755 : 7 8\nn/d/l -> f : 7 8\nn/d/t/ 755 : 7 8"),
        ),
        (
            "octal mode",
            "",
            source,
            CopyAction {
                mode: Some(0o1711),
                ..base()
            },
            Ok("n/ 711\nn/d/ 711\nn/d/f = 1 1711 : 5 6\nn/d/l -> f\nn/d/p | 1711\nn/d/t/ 1711"),
        ),
        (
            "symbolic mode wins",
            "",
            "s/\ns/f = 1 600\ns/t/ 700",
            CopyAction {
                mode: Some(0),
                mode_str: "go=rX".into(),
                ..base()
            },
            Ok("n/ 755\nn/d/ 755\nn/d/f = 1 644\nn/d/t/ 755"),
        ),
        (
            "octal text",
            "",
            "s/\ns/f = 1 600",
            CopyAction {
                mode_str: "0751".into(),
                ..base()
            },
            Ok("n/ 751\nn/d/ 751\nn/d/f = 1 751"),
        ),
        (
            "malformed mode",
            "",
            source,
            CopyAction {
                mode_str: "u+y".into(),
                ..base()
            },
            Err("invalid syntax"),
        ),
        (
            "several equal files",
            "",
            "s/\ns/a = 1\ns/b = 1\ns/c == s/a",
            base(),
            Ok("n/ 755\nn/d/ 755\nn/d/a = 1 644\nn/d/b = 1 644\nn/d/c = 1 644"),
        ),
        (
            "no parents",
            "",
            "s/",
            CopyAction {
                create_dest_path: false,
                ..base()
            },
            Err("failed to stat /n/d: no such file or directory"),
        ),
        (
            "no parents needed",
            "n/",
            "s/",
            CopyAction {
                create_dest_path: false,
                ..base()
            },
            Ok("n/ 755\nn/d/ 755"),
        ),
    ]);
}

#[test]
fn owners_by_name() {
    let with = |owner| CopyAction {
        owner,
        ..dockerfile_copy("f", "/f")
    };
    let dest = "etc/\netc/passwd = u:x:5:6::/:\netc/group = g:x:9:";
    let seen =
        |owner: &str| format!("etc/ 755\netc/group = g:x:9: 644\netc/passwd = u:x:5:6::/: 644\nf = 1 644{owner}");
    let name = |index| UserSpec::Name {
        name: "u".to_owned(),
        input: index,
    };
    let rows = [
        ("user brings its group", names(Some("u"), None), " : 5 6"),
        ("group replaces it", names(Some("u"), Some("g")), " : 5 9"),
        ("group alone", names(None, Some("g")), " : 0 9"),
        ("unknown group", names(Some("u"), Some("q")), " : 5 6"),
        ("unknown user", names(Some("q"), None), ""),
        (
            "number brings its group",
            Some(Chown {
                user: Some(UserSpec::Id(3)),
                group: None,
            }),
            " : 3 3",
        ),
    ];
    for (what, owner, want) in rows {
        copies(&[(what, dest, "f = 1", with(owner), Ok(&seen(want)))]);
    }
    let nowhere = with(Some(Chown {
        user: Some(name(None)),
        group: None,
    }));
    copies(&[(
        "no root to look in",
        dest,
        "f = 1",
        nowhere,
        Err("invalid user index: -1"),
    )]);
}

#[test]
fn archives_are_extracted() {
    let add = |src: &str, dest: &str| CopyAction {
        attempt_unpack: true,
        ..dockerfile_copy(src, dest)
    };
    let source = "t = TAR:x\nn = none\ns/\ns/t = TAR:x";
    copies(&[
        (
            "into a new directory",
            "",
            source,
            add("t", "/d"),
            Ok("d/ 755\nd/x = extracted 644"),
        ),
        (
            "owner",
            "",
            source,
            CopyAction {
                owner: ids(4, 5),
                ..add("t", "/d")
            },
            Ok("d/ 755 : 4 5\nd/x = extracted 644 : 4 5"),
        ),
        ("no archive", "", source, add("n", "/d"), Ok("d = none 644")),
        (
            "not inside directories",
            "",
            source,
            add("s", "/d"),
            Ok("d/ 755\nd/t = TAR:x 644"),
        ),
        (
            "wildcards",
            "",
            source,
            add("[nt]", "/d/"),
            Ok("d/ 755\nd/n = none 644\nd/x = extracted 644"),
        ),
        (
            "not asked for",
            "",
            source,
            dockerfile_copy("t", "/d"),
            Ok("d = TAR:x 644"),
        ),
        (
            "onto a file",
            "d = 1",
            source,
            add("t", "/d"),
            Err("mkdir /d: not a directory"),
        ),
    ]);
}

#[test]
fn times_are_kept() {
    if !is_root_or_skip() {
        return;
    }
    let second = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::symlink_metadata(path).unwrap().mtime()
    };
    for as_tree in [false, true] {
        let source = "s/\ns/f = 1\ns/l -> f\ns/t/\ns/t/g = 2";
        let mut bench = Bench::new("d/\nd/t/\ne/\ne/x/", source);
        if as_tree {
            bench = bench.with_tree();
        }
        Root::open(bench.path("in0"))
            .unwrap()
            .set_times("d", None, Some(crate::sys::Time { secs: 77, nanos: 0 }))
            .unwrap();
        let mut copy = |action: CopyAction| {
            let action = FileAction {
                input: Some(ActionInput::Vertex(0)),
                secondary: Some(ActionInput::Vertex(1)),
                output: Some(0),
                kind: FileActionKind::Copy(action),
            };
            bench.run(vec![action]).unwrap().remove(0).pop().unwrap()
        };
        let layer = copy(dockerfile_copy("s", "/d"));
        assert_eq!(second(&layer.join("d")), 77, "the top directory was there");
        for path in ["d/f", "d/l", "d/t", "d/t/g"] {
            assert_eq!(second(&layer.join(path)), 1_700_000_000, "{path}");
        }
        let layer = copy(dockerfile_copy("s/f", "/e/x/f"));
        assert_eq!(second(&layer.join("e")), 1_700_000_000, "nothing in it changed");
        assert!(second(&layer.join("e/x")) > 1_700_000_000, "something in it changed");
        let layer = copy(CopyAction {
            timestamp: Some(5_000_000_000),
            ..dockerfile_copy("s", "/n/m")
        });
        for path in ["n", "n/m", "n/m/f", "n/m/l", "n/m/t", "n/m/t/g"] {
            assert_eq!(second(&layer.join(path)), 5, "{path}");
        }
    }
}

#[test]
fn hard_links_and_attributes_are_kept() {
    if !is_root_or_skip() {
        return;
    }
    for as_tree in [false, true] {
        let mut bench = Bench::new("", "s/\ns/a = 1\ns/t/\ns/t/b == s/a\ns/c = 1");
        Root::open(bench.path("in1"))
            .unwrap()
            .set_xattr("s/c", "user.k".as_ref(), b"v")
            .unwrap();
        if as_tree {
            bench = bench.with_tree();
        }
        let action = FileAction {
            input: None,
            secondary: Some(ActionInput::Vertex(1)),
            output: Some(0),
            kind: FileActionKind::Copy(dockerfile_copy("s", "/")),
        };
        let layer = bench.run(vec![action]).unwrap().remove(0).pop().unwrap();
        assert_eq!(inode(&layer.join("a")).0, inode(&layer.join("t/b")).0);
        assert_ne!(inode(&layer.join("a")).0, inode(&layer.join("c")).0);
        let value = Root::open(&layer).unwrap().xattr("c", "user.k".as_ref()).unwrap();
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
    }
}

#[test]
fn plain_copies_take_paths_as_they_are() {
    copies(&[
        ("file", "", "a = 1", plain_copy("/a", "/b"), Ok("b = 1 644")),
        (
            "directory",
            "",
            "s/ 700\ns/a = 1",
            plain_copy("/s", "/b"),
            Ok("b/ 700\nb/a = 1 644"),
        ),
        ("link", "", "l -> a", plain_copy("/l", "/b"), Ok("b -> a")),
        (
            "parent",
            "",
            "a = 1",
            plain_copy("/a", "/x/b"),
            Err("failed to stat /x/b: no such file or directory"),
        ),
    ]);
}
