//! What selectors name, and that trees and roots agree.

use std::fs;
use std::path::Path;

use cairn_solver::Digest;
use cairn_solver::worker::ContentSelector;
use proptest::prelude::*;

use super::*;
use crate::sys::{Root, is_root_or_skip};
use crate::tree::testing::{build, receive};
use crate::tree::{Tree, TreeStore};

struct Fixture {
    dir: tempfile::TempDir,
    tree: Tree,
}

impl Fixture {
    fn new(spec: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        build(&dir.path().join("files"), spec);
        let store = TreeStore::open(&dir.path().join("store")).unwrap();
        let (tree, _) = receive(&store, &dir.path().join("files"), "context");
        Self { dir, tree }
    }

    fn root(&self) -> Root {
        Root::open(self.dir.path().join("files")).unwrap()
    }

    /// Of tree and root, which have to agree.
    fn digest(&self, selector: &ContentSelector) -> Result<Digest, String> {
        let text = |result: Result<Digest, ChecksumError>| result.map_err(|error| error.to_string());
        let of_tree = text(digest(&self.tree, "r", selector));
        let of_root = text(digest(&self.root(), "r", selector));
        assert_eq!(of_tree, of_root, "{selector:?}");
        of_tree
    }
}

fn at(path: &str) -> ContentSelector {
    ContentSelector {
        path: path.to_owned(),
        ..ContentSelector::default()
    }
}

fn wild(path: &str) -> ContentSelector {
    ContentSelector {
        wildcard: true,
        follow_links: true,
        ..at(path)
    }
}

fn follow(path: &str) -> ContentSelector {
    ContentSelector {
        follow_links: true,
        ..at(path)
    }
}

fn filter(path: &str, include: &[&str], exclude: &[&str]) -> ContentSelector {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    ContentSelector {
        include: owned(include),
        exclude: owned(exclude),
        ..at(path)
    }
}

const EXAMPLE: &str = "
    a.txt = one
    b.txt = one
    d/
    d/e.txt = two
    d/f = three
    d/g/
    d/g/h.txt = four
    link -> d
    to -> a.txt
    out -> ../../../a.txt
    dangling -> nowhere
    p |
    su = x 4755
";

#[test]
fn equal_selections_have_equal_digests() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let equal = [
        (at(""), at("/")),
        (at("a.txt"), at("/x/../a.txt")),
        (at("a.txt"), at("../../a.txt")),
        (at("a.txt"), at("b.txt")),
        (at("d"), at("/d/")),
        (at("d"), follow("link")),
        (at("a.txt"), follow("to")),
        (at("a.txt"), follow("out")),
        (at("link/e.txt"), at("d/e.txt")),
        (wild("d/e.txt"), wild("/d/./e.txt")),
        (wild("link/e*"), wild("link/e.tx[t]")),
        (filter("a.txt", &[], &["*"]), at("a.txt")),
        (filter("d", &["**/*.txt"], &[]), filter("d", &["e.txt", "g/h.txt"], &[])),
        (filter("d", &["**/*.txt"], &[]), filter("d", &[], &["f"])),
        (filter("d", &[], &["f"]), filter("d", &[], &["**", "!e.txt", "!g"])),
        (filter("d", &["g"], &["g/h.txt"]), filter("d", &["g"], &["**/h.*"])),
    ];
    for (one, other) in equal {
        assert_eq!(
            fixture.digest(&one).unwrap(),
            fixture.digest(&other).unwrap(),
            "{one:?}, {other:?}"
        );
    }
}

#[test]
fn different_selections_have_different_digests() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let selectors = [
        at("/"),
        at("a.txt"),
        at("d"),
        at("d/f"),
        at("link"),
        at("to"),
        at("dangling"),
        at("p"),
        at("su"),
        wild("*.txt"),
        wild("a.*"),
        wild("b.*"),
        wild("d/*"),
        wild("d/*/*"),
        filter("d", &["**/*.txt"], &[]),
        filter("d", &["g"], &[]),
        filter("d", &[], &["g"]),
        filter("d", &[], &["**/*.txt"]),
        filter("/", &["d"], &[]),
    ];
    let mut digests: Vec<_> = selectors
        .iter()
        .map(|selector| fixture.digest(selector).unwrap())
        .collect();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), selectors.len());
}

#[test]
fn what_is_not_there_is_named() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new(EXAMPLE);
    let rows = [
        (at("x"), "\"/x\": not found"),
        (at("/d/../x/y/"), "\"/x/y\": not found"),
        (at("a.txt/y"), "\"/a.txt/y\": not found"),
        (follow("dangling"), "\"/dangling\": not found"),
        (wild("q*"), "\"/q*\": not found"),
        (wild("dang*"), "\"/dangling\": not found"),
        (wild("x/*"), "\"/x\": not found"),
        (wild("[]a"), "invalid path pattern: [[]a]: syntax error in pattern"),
        (
            filter("d", &["["], &[]),
            "invalid includepatterns: [[]: syntax error in pattern",
        ),
        (
            filter("d", &[], &["["]),
            "invalid excludepatterns: [[]: syntax error in pattern",
        ),
    ];
    for (selector, want) in rows {
        let error = fixture.digest(&selector).unwrap_err();
        assert_eq!(error, format!("failed to calculate checksum of ref r: {want}"));
    }
    let empty = ContentSelector {
        allow_empty: true,
        ..wild("q*")
    };
    assert!(fixture.digest(&empty).is_ok());
    let scratch = digest_scratch("r", &at("/x")).unwrap_err();
    assert!(scratch.is_not_found());
    assert!(digest_scratch("r", &at("/")).is_ok());
}

#[test]
fn what_was_probably_meant_is_named() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new("main.c = x\nsrc/\nsrc/lib.rs = x\nsrc/bin/\nlinked -> src\nab = x\nlost -> nowhere");
    for (path, want) in [
        ("mian.c", "\"/mian.c\": not found (did you mean /main.c?)"),
        ("/scr/lib.rs", "\"/scr/lib.rs\": not found (did you mean /src/lib.rs?)"),
        (
            "linked/lib.sr",
            "\"/linked/lib.sr\": not found (did you mean /linked/lib.rs?)",
        ),
        ("scr/other", "\"/scr/other\": not found"),
        ("main.c/x", "\"/main.c/x\": not found"),
        ("ac", "\"/ac\": not found"),
        ("lost", "\"/lost\": not found"),
        ("lots", "\"/lots\": not found"),
        ("quite other", "\"/quite other\": not found"),
    ] {
        let error = fixture.digest(&follow(path)).unwrap_err();
        assert_eq!(error, format!("failed to calculate checksum of ref r: {want}"));
    }
}

#[test]
fn everything_but_times_counts() {
    if !is_root_or_skip() {
        return;
    }
    let fixture = Fixture::new("d/\nd/f = one\nd/l -> f");
    let root = fixture.root();
    let now = || digest(&root, "r", &at("/")).unwrap();
    let before = now();
    let time = Some(crate::sys::Time { secs: 1, nanos: 2 });
    for path in ["d/f", "d/l", "d", ""] {
        root.set_times(path, time, time).unwrap();
    }
    assert_eq!(now(), before, "times");
    let mut seen = vec![before];
    let mut changed = |what: &str| {
        let digest = now();
        assert!(!seen.contains(&digest), "{what}");
        seen.push(digest);
    };
    root.chmod("d/f", 0o640).unwrap();
    changed("permissions");
    root.chown("d/f", 5, 0).unwrap();
    changed("user");
    root.chown("d/l", 0, 5).unwrap();
    changed("group of a link");
    root.set_xattr("d/f", "user.x".as_ref(), b"1").unwrap();
    changed("extended attribute of a file");
    root.set_xattr("d", "user.x".as_ref(), b"1").unwrap();
    changed("extended attribute of a directory");
    root.chmod("d", 0o1777).unwrap();
    changed("permissions of a directory");
    fs::write(fixture.dir.path().join("files/d/f"), "two").unwrap();
    changed("bytes");
    root.rename("d/f", "d/g").unwrap();
    changed("name");
    root.unlink("d/l").unwrap();
    root.symlink("g", "d/l").unwrap();
    changed("link target");
    root.mknod("n", libc::S_IFCHR | 0o600, (1, 3)).unwrap();
    changed("device");
    root.unlink("n").unwrap();
    root.mknod("n", libc::S_IFCHR | 0o600, (1, 5)).unwrap();
    changed("device number");
}

#[test]
fn cve_2026_44517_links_in_a_context_stay_inside() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "host").unwrap();
    let fixture = Fixture::new("up -> ../../secret\nabs -> /etc/passwd\nmagic -> /proc/self/root\nloop -> loop");
    for path in ["up", "abs", "magic", "magic/etc"] {
        assert!(
            fixture.digest(&follow(path)).unwrap_err().ends_with("not found"),
            "{path}"
        );
    }
    assert!(fixture.digest(&follow("loop")).is_err());
}

#[test]
fn deep_directories_need_no_stack() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let deep: String = "d/".repeat(600);
    let root = Root::open(dir.path()).unwrap();
    root.create_dir_all(Path::new(&deep), 0o755).unwrap();
    digest(&root, "r", &at("/")).unwrap();
    root.remove_all("d").unwrap();
}

/// One line of a directory description.
fn line() -> impl Strategy<Value = (Vec<u8>, u8, u16)> {
    (proptest::collection::vec(0..4u8, 1..4), 0..4u8, 0..0o7777u16)
}

/// Makes files at random; what does not fit is left out.
fn scatter(root: &Path, lines: &[(Vec<u8>, u8, u16)]) {
    let handle = Root::open(root).unwrap();
    for (path, kind, mode) in lines {
        let names: Vec<String> = path
            .iter()
            .map(|n| ["a", "b.txt", "c-d", "ü"][*n as usize].to_owned())
            .collect();
        let path = names.join("/");
        let (dirs, _) = path.rsplit_once('/').unwrap_or(("", &path));
        if handle.create_dir_all(dirs, 0o755).is_err() || handle.lstat(&path).is_ok() {
            continue;
        }
        let mode = u32::from(*mode);
        let made = match kind {
            0 => handle.create_dir(&path, mode | 0o700),
            1 => handle.symlink("a/c-d", &path),
            2 => handle.mknod(&path, libc::S_IFIFO | mode, (0, 0)),
            _ => handle.mknod(&path, libc::S_IFREG | mode, (0, 0)),
        };
        if made.is_ok() && *kind > 2 {
            fs::write(root.join(&path), path.repeat(mode as usize % 50)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_tree_and_a_root_with_the_same_files_agree(lines in proptest::collection::vec(line(), 0..24)) {
        if !is_root_or_skip() {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        fs::create_dir(&files).unwrap();
        scatter(&files, &lines);
        let store = TreeStore::open(&dir.path().join("store")).unwrap();
        let (tree, _) = receive(&store, &files, "context");
        let root = Root::open(&files).unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let laid_out = Root::open(&out).unwrap();
        crate::fileop::lay_out(&tree, &laid_out, &|| false).unwrap();
        let selectors = [
            at("/"), at("a"), follow("a"), wild("*"), wild("a/*"), wild("*/*.txt"),
            filter("/", &["**/*.txt"], &[]), filter("/", &[], &["*/a", "!a/a/*"]), filter("a", &["a", "b*"], &["**/c-d"]),
        ];
        for selector in selectors {
            let text = |result: Result<Digest, ChecksumError>| result.map_err(|error| error.to_string());
            let want = text(digest(&tree, "r", &selector));
            prop_assert_eq!(&text(digest(&root, "r", &selector)), &want, "{:?}", &selector);
            prop_assert_eq!(&text(digest(&laid_out, "r", &selector)), &want, "{:?}", &selector);
        }
    }
}

/// How two fixtures differ, between trees, between roots, and across.
fn compared(old: &Fixture, new: &Fixture, selector: &ContentSelector) -> Vec<String> {
    let told = |old: &dyn View, new: &dyn View| {
        let found = compare(old, new, selector, 10).unwrap();
        let changes: Vec<String> = found.changes.iter().map(ToString::to_string).collect();
        assert!(!found.has_more);
        changes
    };
    let of_trees = told(&old.tree, &new.tree);
    assert_eq!(of_trees, told(&old.root(), &new.root()));
    assert_eq!(of_trees, told(&old.tree, &new.root()));
    of_trees
}

#[test]
fn what_differs_is_named_file_by_file() {
    if !is_root_or_skip() {
        return;
    }
    let old = Fixture::new("a = 1\nd/\nd/gone = x\nd/same = s\nd/run.sh = r 644\nd/type = t\nl -> a\nsub/\nsub/x = 1");
    let new =
        Fixture::new("a = 2\nd/\nd/new/\nd/new/in = x\nd/same = s\nd/run.sh = r 755\nd/type/\nl -> d\nsub/\nsub/x = 1");
    let all = [
        "`a` changed",
        "`d/gone` removed",
        "`d/new` added",
        "mode of `d/run.sh` 644 → 755",
        "type of `d/type` changed",
        "target of `l` a → d",
    ];
    assert_eq!(compared(&old, &new, &at("/")), all);
    assert_eq!(compared(&old, &new, &at("sub")), [""; 0]);
    assert_eq!(compared(&old, &new, &at("d/gone")), ["`d/gone` removed"]);
    assert_eq!(compared(&old, &new, &wild("d/r*")), ["mode of `d/run.sh` 644 → 755"]);
    assert_eq!(compared(&old, &new, &follow("l")), ["type of `d` changed"]);
    assert_eq!(
        compared(&old, &new, &filter("", &["d/*.sh"], &[])),
        ["mode of `d/run.sh` 644 → 755"]
    );
    assert_eq!(
        compared(&old, &new, &filter("d", &[], &["*", "!gone"])),
        ["`d/gone` removed"]
    );
    assert_eq!(compared(&old, &old, &at("/")), [""; 0]);
    let bounded = compare(&old.tree, &new.tree, &at("/"), 2).unwrap();
    assert!(bounded.changes.len() == 2 && bounded.has_more);
    let scratch = compare(&crate::tree::view::Empty, &new.tree, &at("d"), 9).unwrap();
    assert_eq!(scratch.changes[0].to_string(), "`d` added");
}

#[test]
fn targets_of_links_count_where_links_may_lead_to_archives() {
    let digest_of = |spec: &str, link_targets: bool| {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), spec);
        let root = Root::open(dir.path()).unwrap();
        let selector = ContentSelector {
            link_targets,
            ..at("l")
        };
        digest(&root, "r", &selector).unwrap()
    };
    let (one, two, none) = ("l -> d/t\nd/\nd/t = 1", "l -> d/t\nd/\nd/t = 2", "l -> d/t");
    assert_eq!(digest_of(one, false), digest_of(two, false));
    assert_eq!(digest_of(one, false), digest_of(none, false));
    assert_ne!(digest_of(one, true), digest_of(two, true));
    assert_eq!(digest_of(none, true), digest_of(none, false));
}
