//! Roots and trees that try to reach the host. Named after what went wrong elsewhere.

use super::*;

/// A bench in a directory with a file beside its roots that must stay as it is.
fn guarded(dest: &str, source: &str) -> Bench {
    let bench = Bench::new(dest, source);
    fs::write(bench.path("host"), "untouched").unwrap();
    bench
}

fn assert_untouched(bench: &Bench) {
    assert_eq!(fs::read_to_string(bench.path("host")).unwrap(), "untouched");
}

#[test]
fn rm_does_not_leave_the_root() {
    if !is_root_or_skip() {
        return;
    }
    for path in [
        "../host",
        "/../host",
        "d/../../host",
        "up/host",
        "abs/host",
        "/up/../../host",
    ] {
        let mut bench = guarded("d/\nup -> ..\nabs -> /\nhost = inside", "");
        let kind = FileActionKind::Rm {
            path: path.to_owned(),
            allow_not_found: false,
            allow_wildcard: true,
        };
        let seen = bench.one(kind).unwrap();
        assert!(!seen.contains("inside"), "{path}");
        assert_untouched(&bench);
    }
}

#[test]
fn cve_2026_55686_directories_are_not_made_outside() {
    if !is_root_or_skip() {
        return;
    }
    for link in ["../..", "/", "/proc/self/cwd", "/proc/1/root"] {
        let mut bench = guarded(&format!("l -> {link}"), "");
        let kind = FileActionKind::Mkdir {
            path: "/l/escaped".to_owned(),
            mode: 0o755,
            make_parents: true,
            owner: None,
            timestamp: None,
        };
        let seen = bench.one(kind).unwrap();
        assert!(seen.contains("escaped/ 755"), "{link}: {seen}");
        assert!(!bench.path("escaped").exists());
        assert!(!Path::new("/escaped").exists());
    }
}

#[test]
fn cve_2024_1753_sources_are_read_inside_their_root() {
    if !is_root_or_skip() {
        return;
    }
    for (source, src) in [
        ("l -> ../host", "l"),
        ("l -> ..", "l/host"),
        ("l -> /etc", "l/passwd"),
        ("l -> /", "l/etc/*"),
    ] {
        let mut bench = guarded("", source);
        let kind = FileActionKind::Copy(dockerfile_copy(src, "/d/"));
        match bench.one(kind) {
            Ok(seen) => assert_eq!(seen, "", "{src}"),
            Err(text) => assert!(text.ends_with("no such file or directory"), "{text}"),
        }
    }
}

#[test]
fn writes_through_links_stay_inside() {
    if !is_root_or_skip() {
        return;
    }
    for as_mounted in [false, true] {
        for link in ["../host", "/../host", "../../../../../../host"] {
            let mut bench = guarded(&format!("l -> {link}"), "f = evil");
            bench.force_mount = as_mounted;
            let seen = bench.one(FileActionKind::Copy(dockerfile_copy("f", "/l"))).unwrap();
            assert!(seen.contains("host = evil"), "{seen}");
            assert_untouched(&bench);
        }
    }
}

#[test]
fn cve_2021_32760_a_link_keeps_its_targets_mode() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = guarded("", "s/\ns/l -> ../../host");
    let before = fs::metadata(bench.path("host")).unwrap().permissions();
    let action = CopyAction {
        mode: Some(0o4777),
        owner: ids(1, 1),
        ..dockerfile_copy("s", "/d")
    };
    assert_eq!(
        bench.one(FileActionKind::Copy(action)).unwrap(),
        "d/ 777 : 1 1\nd/l -> ../../host : 1 1"
    );
    assert_eq!(fs::metadata(bench.path("host")).unwrap().permissions(), before);
}

#[test]
fn loops_of_links_are_errors() {
    if !is_root_or_skip() {
        return;
    }
    let source = "a -> b\nb -> a";
    let want = Err("open /a: too many levels of symbolic links");
    check(
        "source",
        "",
        source,
        &FileActionKind::Copy(dockerfile_copy("a", "/d")),
        want,
    );
    let want = Err("mkdir /a: too many levels of symbolic links");
    check(
        "destination",
        source,
        "f = 1",
        &FileActionKind::Copy(dockerfile_copy("f", "/a/")),
        want,
    );
}

#[test]
fn fifos_and_devices_are_never_opened() {
    if !is_root_or_skip() {
        return;
    }
    let add = CopyAction {
        attempt_unpack: true,
        ..dockerfile_copy("p", "/d/")
    };
    check(
        "a fifo is made again",
        "",
        "p |",
        &FileActionKind::Copy(add),
        Ok("d/ 755\nd/p | 644"),
    );
}

#[test]
fn deep_directories_need_neither_stack_nor_descriptors() {
    if !is_root_or_skip() {
        return;
    }
    let mut bench = Bench::new("", "");
    let deep = "d/".repeat(600);
    Root::open(bench.path("in1"))
        .unwrap()
        .create_dir_all(Path::new(&deep), 0o755)
        .unwrap();
    let action = FileAction {
        input: None,
        secondary: Some(ActionInput::Vertex(1)),
        output: Some(0),
        kind: FileActionKind::Copy(dockerfile_copy("/d", "/")),
    };
    let layer = bench.run(vec![action]).unwrap().remove(0).pop().unwrap();
    assert!(Root::open(&layer).unwrap().stat(&deep[2..]).is_ok());
    for root in [layer, bench.path("in1")] {
        Root::open(&root).unwrap().remove_all("d").unwrap();
    }
}
