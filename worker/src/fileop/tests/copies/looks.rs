//! What copies look like: owners, modes, times, links and attributes.

use super::*;

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
            "sticky directories on the way, where Go has that bit",
            "",
            "s/\ns/f = 1",
            CopyAction {
                mode: Some(1 << 20 | 0o711),
                ..base()
            },
            Ok("n/ 1711\nn/d/ 1711\nn/d/f = 1 711"),
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
            Ok("n/ 755\nn/d/ 755\nn/d/f = 1 751"),
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
        for path in ["d", "d/f", "d/l", "d/t", "d/t/g"] {
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
