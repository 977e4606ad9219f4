//! A copy of a directory is the directory.

use proptest::prelude::*;

use super::*;

fn lines() -> impl Strategy<Value = Vec<(Vec<u8>, u8, u16, u32)>> {
    let line = (proptest::collection::vec(0..4u8, 1..4), 0..6u8, 0..0o7777u16, 0..3u32);
    proptest::collection::vec(line, 0..24)
}

/// Makes files at random; what does not fit is left out.
fn scatter(path: &Path, lines: &[(Vec<u8>, u8, u16, u32)]) {
    let root = Root::open(path).unwrap();
    let mut files: Vec<String> = Vec::new();
    for (names, kind, mode, owner) in lines {
        let names: Vec<&str> = names.iter().map(|n| ["a", "b.txt", "c-d", "ü"][*n as usize]).collect();
        let file = names.join("/");
        let parent = names[..names.len() - 1].join("/");
        if root.create_dir_all(&parent, 0o755).is_err() || root.lstat(&file).is_ok() {
            continue;
        }
        let mode = u32::from(*mode);
        let made = match (kind, files.last()) {
            (0, _) => root.create_dir(&file, mode),
            (1, _) => root.symlink("a/c-d", &file),
            (2, _) => root.mknod(&file, libc::S_IFIFO | mode, (0, 0)),
            (3, _) => root.mknod(&file, libc::S_IFCHR | mode, (1, 3)),
            (4, Some(first)) => root.hard_link(first, &file),
            _ => root.mknod(&file, libc::S_IFREG | mode, (0, 0)),
        };
        if made.is_err() {
            continue;
        }
        if *kind > 4 {
            fs::write(path.join(&file), file.repeat(mode as usize % 50)).unwrap();
            files.push(file.clone());
        }
        root.chown(&file, *owner, *owner).unwrap();
        root.set_times(
            &file,
            None,
            Some(crate::sys::Time {
                secs: 1_000 + i64::from(mode),
                nanos: mode,
            }),
        )
        .unwrap();
    }
}

/// Names with everything that a copy keeps, hard links included.
fn whole(path: &Path) -> Vec<String> {
    let root = Root::open(path).unwrap();
    let mut inodes: Vec<u64> = Vec::new();
    listing(path)
        .lines()
        .map(|line| {
            let name = line.split([' ']).next().unwrap().trim_end_matches('/');
            let metadata = root.lstat(name).unwrap();
            let first = inodes
                .iter()
                .position(|ino| *ino == metadata.ino)
                .unwrap_or(inodes.len());
            inodes.push(metadata.ino);
            format!("{line} {:?} {:?} {first}", metadata.mtime, metadata.rdev)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_copy_equals_its_source(lines in lines(), base in lines(), as_tree: bool, force_mount: bool) {
        if !is_root_or_skip() {
            return Ok(());
        }
        let mut bench = Bench::new("", "");
        scatter(&bench.path("in0"), &base);
        scatter(&bench.path("in1"), &lines);
        if as_tree {
            bench = bench.with_tree();
        }
        bench.force_mount = force_mount;
        // To where nothing is.
        let copied = bench.one(FileActionKind::Copy(dockerfile_copy("/", "/new/"))).unwrap();
        let inner: Vec<&str> = copied.lines().filter_map(|line| line.strip_prefix("new/")).filter(|l| !l.starts_with(' ')).collect();
        let want = listing(&bench.path("in1"));
        prop_assert_eq!(inner.join("\n"), want);
        let outputs = bench.run(vec![FileAction {
            input: None,
            secondary: Some(ActionInput::Vertex(1)),
            output: Some(0),
            kind: FileActionKind::Copy(dockerfile_copy("/", "/")),
        }]).unwrap();
        prop_assert_eq!(whole(&outputs[0][0]), whole(&bench.path("in1")));
    }

    #[test]
    fn writing_directly_and_through_a_mount_agree(lines in lines(), base in lines(), always_replace: bool) {
        if !is_root_or_skip() {
            return Ok(());
        }
        let seen = [false, true].map(|force_mount| {
            let mut bench = Bench::new("", "");
            scatter(&bench.path("in0"), &base);
            scatter(&bench.path("in1"), &lines);
            bench.force_mount = force_mount;
            bench.one(FileActionKind::Copy(CopyAction { always_replace, ..dockerfile_copy("/", "/a") }))
        });
        prop_assert_eq!(&seen[0], &seen[1]);
    }
}
