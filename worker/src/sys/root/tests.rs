use std::os::unix::fs::symlink;

use super::*;

struct Fixture {
    _dir: tempfile::TempDir,
    outside: PathBuf,
    root: Root,
    path: PathBuf,
}

/// A root directory beside a directory that must never be reached.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let path = dir.path().join("root");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::create_dir(&path).unwrap();
    Fixture {
        root: Root::open(&path).unwrap(),
        outside,
        path,
        _dir: dir,
    }
}

#[test]
fn clean_works_on_text_alone() {
    for (given, expected) in [
        ("", ""),
        ("/", ""),
        ("a/./b//c", "a/b/c"),
        ("/a/../../b/", "b"),
        ("..", ""),
        ("a/..", ""),
        ("./a", "a"),
    ] {
        assert_eq!(clean(given), Path::new(expected), "{given}");
    }
}

#[test]
fn links_and_dots_stay_inside() {
    let f = fixture();
    std::fs::create_dir(f.path.join("etc")).unwrap();
    std::fs::write(f.path.join("etc/passwd"), "inside").unwrap();
    symlink("/etc/passwd", f.path.join("absolute")).unwrap();
    symlink("../../../../etc/passwd", f.path.join("dots")).unwrap();
    symlink(f.outside.join("secret"), f.path.join("escape")).unwrap();
    for path in ["etc/passwd", "/etc/passwd", "../../etc/passwd", "absolute", "dots"] {
        assert_eq!(f.root.read_file_limited(path, 100).unwrap(), b"inside", "{path}");
    }
    assert_eq!(
        f.root.read_file_limited("escape", 100).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert!(f.root.lstat("escape").unwrap().is_symlink());
}

#[test]
fn magic_links_are_refused() {
    let proc = Root::open("/proc").unwrap();
    assert!(proc.resolve("self/exe").is_err());
    assert!(proc.resolve("self/root/etc").is_err());
}

#[test]
fn only_regular_files_are_read_and_only_so_far() {
    let f = fixture();
    std::fs::write(f.path.join("big"), vec![0; 11]).unwrap();
    f.root.mknod("fifo", libc::S_IFIFO | 0o644, (0, 0)).unwrap();
    assert_eq!(
        f.root.read_file_limited("big", 10).unwrap_err().kind(),
        io::ErrorKind::FileTooLarge
    );
    assert_eq!(f.root.read_file_limited("big", 11).unwrap().len(), 11);
    // Would block for ever if it were opened.
    assert_eq!(
        f.root.read_file_limited("fifo", 10).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        f.root.read_file_limited("/", 10).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
}

#[test]
fn directories_are_made_through_links_and_reported() {
    let f = fixture();
    std::fs::create_dir(f.path.join("real")).unwrap();
    symlink("/real", f.path.join("link")).unwrap();
    symlink("/made/by/link", f.path.join("dangling")).unwrap();
    let made = f.root.create_dir_all("link/a/b", 0o700).unwrap();
    assert_eq!(made, [PathBuf::from("real/a"), PathBuf::from("real/a/b")]);
    assert_eq!(f.root.lstat("real/a").unwrap().permissions(), 0o700);
    assert!(f.root.create_dir_all("link/a/b", 0o755).unwrap().is_empty());
    let made = f.root.create_dir_all("dangling/x", 0o755).unwrap();
    assert_eq!(made.last().unwrap(), Path::new("made/by/link/x"));
    assert_eq!(
        f.root.real_path("dangling/x/../y/z").unwrap(),
        Path::new("made/by/link/y/z")
    );
    std::fs::write(f.path.join("file"), "").unwrap();
    assert_eq!(
        f.root.create_dir_all("file/x", 0o755).unwrap_err().kind(),
        io::ErrorKind::NotADirectory
    );
    symlink("loop", f.path.join("loop")).unwrap();
    assert!(f.root.create_dir_all("loop/x", 0o755).is_err());
    assert!(f.root.create_dir_all("..", 0o755).unwrap().is_empty());
}

#[test]
fn cve_2026_55686_workdir_symlink_makes_nothing_outside() {
    let f = fixture();
    symlink(&f.outside, f.path.join("work")).unwrap();
    f.root.create_dir_all("work/dir", 0o755).unwrap();
    assert!(!f.outside.join("dir").exists());
    assert!(f.root.stat("work/dir").unwrap().is_dir());
}

#[test]
fn cve_2021_32760_chmod_and_chown_do_not_follow_links() {
    let f = fixture();
    std::fs::write(f.path.join("target"), "").unwrap();
    f.root.chmod("target", 0o600).unwrap();
    symlink("target", f.path.join("link")).unwrap();
    assert!(f.root.chmod("link", 0o777).is_err());
    let (dir, name) = f.root.resolve_parent("link").unwrap();
    assert!(at::chmod(&dir, &name, 0o777).is_err());
    assert_eq!(f.root.stat("target").unwrap().permissions(), 0o600);
    at::set_times(&dir, &name, None, Some(Time { secs: 5, nanos: 6 })).unwrap();
    assert_eq!(f.root.lstat("link").unwrap().mtime, Time { secs: 5, nanos: 6 });
    assert_ne!(f.root.stat("target").unwrap().mtime.secs, 5);
    f.root
        .set_times("link", None, Some(Time { secs: -5, nanos: 7 }))
        .unwrap();
    assert_eq!(f.root.lstat("link").unwrap().mtime, Time { secs: -5, nanos: 7 });
}

#[test]
fn removal_does_not_follow_links_and_takes_any_depth() {
    let f = fixture();
    let mut deep = f.root.open_dir_fd("").unwrap();
    for _ in 0..3000 {
        at::mkdir(&deep, "d".as_ref(), 0o755).unwrap();
        symlink_at(&f.outside, &deep);
        deep = at::open_dir(&deep, "d".as_ref()).unwrap();
    }
    drop(deep);
    f.root.remove_all("d").unwrap();
    f.root.remove_all("d").unwrap();
    f.root.remove_all("l").unwrap();
    assert!(f.root.read_dir("").unwrap().is_empty());
    assert!(f.outside.join("secret").exists());
    assert!(f.root.remove_all("..").is_err());
    assert!(f.root.remove_all("/").is_err());
}

fn symlink_at(target: &Path, dir: &OwnedFd) {
    at::symlink(dir, "l".as_ref(), target.as_os_str()).unwrap();
}

#[test]
fn removal_stops_at_other_mounts() {
    if !crate::sys::is_root_or_skip() {
        return;
    }
    let f = fixture();
    f.root.create_dir_all("a/b", 0o755).unwrap();
    let outside = Root::open(&f.outside).unwrap();
    let guard = super::super::mounts::clone_tree(&outside)
        .unwrap()
        .attach_path(&f.path.join("a/b"))
        .unwrap();
    assert!(f.root.remove_all("a").is_err());
    guard.unmount().unwrap();
    assert!(f.outside.join("secret").exists());
    f.root.remove_all("a").unwrap();
}

#[test]
fn extended_attributes_round_trip() {
    let f = fixture();
    std::fs::write(f.path.join("file"), "").unwrap();
    let key: &OsStr = "user.test".as_ref();
    if let Err(error) = f.root.set_xattr("file", key, b"value") {
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        return;
    }
    assert_eq!(f.root.xattr("file", key).unwrap().unwrap(), b"value");
    let long = vec![7u8; 1000];
    let (dir, name) = f.root.resolve_parent("file").unwrap();
    at::set_xattr(&dir, &name, "user.long".as_ref(), &long).unwrap();
    let all = at::xattrs(&dir, &name).unwrap();
    assert_eq!(all.get(OsStr::new("user.long")).unwrap(), &long);
    assert_eq!(f.root.xattrs("file").unwrap(), all);
    at::remove_xattr(&dir, &name, key).unwrap();
    assert_eq!(f.root.xattr("file", key).unwrap(), None);
}

#[test]
fn names_are_one_component() {
    for name in ["", ".", "..", "a/b", "/"] {
        assert!(at::check_name(name.as_ref()).is_err(), "{name:?}");
    }
    at::check_name("...".as_ref()).unwrap();
}

#[test]
fn ids_that_mean_leave_as_is_are_refused() {
    let f = fixture();
    std::fs::write(f.path.join("file"), "").unwrap();
    assert!(f.root.chown("file", u32::MAX, 0).is_err());
}
