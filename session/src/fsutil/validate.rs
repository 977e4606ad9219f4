//! What a list of entries must satisfy before anything is done with it.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::PathBuf;

use cairn_proto::fsutil::{Stat, Xattr};
use cairn_proto::names::path;

use super::error::TransferError;
use super::limits::TransferLimits;
use crate::mode;

const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
const MAX_XATTRS: usize = 256;
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 64 << 10;

/// Checks entries one by one, in the order in which they arrive.
pub(crate) struct Validator {
    max_entries: u32,
    entries: u32,
    /// The directories down to the current one, each with the last name seen in it; the root comes first.
    parents: Vec<Parent>,
    /// Hashes of the paths that hard links may point to. Only hashes, because there may be millions; the hash
    /// is seeded at random, and a false match fails when the link is made.
    files: HashSet<u64>,
    hasher: RandomState,
}

struct Parent {
    path: Vec<u8>,
    last: Vec<u8>,
}

impl Validator {
    pub(crate) fn new(limits: &TransferLimits) -> Self {
        Self {
            max_entries: limits.max_entries,
            entries: 0,
            parents: vec![Parent {
                path: Vec::new(),
                last: Vec::new(),
            }],
            files: HashSet::new(),
            hasher: RandomState::new(),
        }
    }

    /// Number of entries accepted so far.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// Accepts an entry and returns its id.
    pub(crate) fn accept(&mut self, stat: &Stat) -> Result<u32, TransferError> {
        if self.entries >= self.max_entries {
            return Err(TransferError::TooManyEntries(self.max_entries));
        }
        check_path(&stat.path)?;
        check_metadata(stat)?;
        self.check_order(stat)?;
        self.check_link(stat)?;
        self.entries += 1;
        Ok(self.entries - 1)
    }

    fn check_order(&mut self, stat: &Stat) -> Result<(), TransferError> {
        let (dir, name) = split(&stat.path);
        while self.parents.len() > 1 && self.parents.last().is_some_and(|parent| parent.path != dir) {
            self.parents.pop();
        }
        let parent = self.parents.last_mut().expect("the root is never removed");
        if parent.path != dir || parent.last.as_slice() >= name {
            let last = if parent.last.is_empty() {
                path(&parent.path).to_owned()
            } else {
                path(&parent.path).join(path(&parent.last))
            };
            return Err(TransferError::OutOfOrder {
                path: stat.path().to_owned(),
                last,
            });
        }
        name.clone_into(&mut parent.last);
        if mode::is_dir(stat.mode) {
            self.parents.push(Parent {
                path: stat.path.clone(),
                last: Vec::new(),
            });
        }
        Ok(())
    }

    fn check_link(&mut self, stat: &Stat) -> Result<(), TransferError> {
        let is_hard_link = mode::is_regular(stat.mode) && !stat.linkname.is_empty();
        if is_hard_link && !self.files.contains(&self.hasher.hash_one(stat.linkname.as_slice())) {
            return Err(TransferError::MissingLinkTarget {
                path: stat.path().to_owned(),
                target: stat.linkname().to_owned(),
            });
        }
        if !is_hard_link && !mode::is_dir(stat.mode) {
            self.files.insert(self.hasher.hash_one(stat.path.as_slice()));
        }
        Ok(())
    }
}

/// The directory that an entry is in, and its name there.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Names are any bytes but those that lead elsewhere.
fn check_path(path: &[u8]) -> Result<(), TransferError> {
    let invalid = |reason| {
        Err(TransferError::InvalidPath {
            path: shorten(path),
            reason,
        })
    };
    if path.is_empty() || path.len() > MAX_PATH || path.contains(&0) {
        return invalid("unclean path");
    }
    if path.starts_with(b"/") {
        return invalid("absolute path");
    }
    if path == b".." || path.starts_with(b"../") {
        return invalid("escape check");
    }
    if path
        .split(|&byte| byte == b'/')
        .any(|name| matches!(name, b"" | b"." | b"..") || name.len() > MAX_NAME)
    {
        return invalid("unclean path");
    }
    Ok(())
}

fn check_metadata(stat: &Stat) -> Result<(), TransferError> {
    let invalid = |reason| {
        Err(TransferError::InvalidEntry {
            path: stat.path().to_owned(),
            reason,
        })
    };
    if mode::to_unix(stat.mode).is_none() {
        return invalid("mode names no kind of file");
    }
    if stat.size < 0 || stat.devmajor < 0 || stat.devminor < 0 {
        return invalid("negative number");
    }
    if stat.linkname.len() > MAX_PATH || stat.linkname.contains(&0) {
        return invalid("link target is no path");
    }
    if mode::is_symlink(stat.mode) && stat.linkname.is_empty() {
        return invalid("symbolic link without target");
    }
    let oversized = |Xattr { name, value }: &Xattr| {
        name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) || value.len() > MAX_XATTR_VALUE
    };
    if stat.xattrs.len() > MAX_XATTRS || stat.xattrs.iter().any(oversized) {
        return invalid("extended attributes exceed their limits");
    }
    Ok(())
}

/// Keeps error texts readable whatever was sent.
fn shorten(bytes: &[u8]) -> PathBuf {
    path(&bytes[..bytes.len().min(256)]).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Stat {
        Stat {
            path: path.into(),
            mode: 0o644,
            ..Default::default()
        }
    }

    fn bytes(path: &[u8]) -> Stat {
        Stat {
            path: path.into(),
            ..file("")
        }
    }

    fn dir(path: &str) -> Stat {
        Stat {
            path: path.into(),
            mode: mode::DIR | 0o755,
            ..Default::default()
        }
    }

    fn link(path: &str, target: &str) -> Stat {
        Stat {
            linkname: target.into(),
            ..file(path)
        }
    }

    fn check(stats: &[Stat]) -> Result<(), String> {
        let mut validator = Validator::new(&TransferLimits {
            max_entries: 10,
            ..Default::default()
        });
        stats
            .iter()
            .try_for_each(|stat| validator.accept(stat).map(drop))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn accepts_proper_lists() {
        check(&[]).unwrap();
        check(&[
            dir("a"),
            file("a/b"),
            dir("a/c"),
            file("a/c/d"),
            file("a.txt"),
            link("b", "a/b"),
        ])
        .unwrap();
        check(&[file("..a"), file("a..")]).unwrap();
        check(&[
            Stat {
                path: b"d\xff".into(),
                ..dir("")
            },
            bytes(b"d\xff/\xe9"),
            Stat {
                linkname: b"d\xff/\xe9".into(),
                ..bytes(b"d\xff/\xea")
            },
            Stat {
                xattrs: vec![Xattr {
                    name: b"user.\xe9".into(),
                    ..Xattr::default()
                }],
                ..bytes(b"\xff")
            },
        ])
        .unwrap();
    }

    #[test]
    fn refuses_hostile_lists() {
        let long = "x/".repeat(2048) + "xx";
        let rows: Vec<(&str, Vec<Stat>)> = vec![
            ("unclean path", vec![file("")]),
            ("unclean path", vec![file(".")]),
            ("unclean path", vec![dir("a"), file("a/../b")]),
            ("unclean path", vec![file("a/")]),
            ("unclean path", vec![dir("a"), file("a//b")]),
            ("unclean path", vec![file("a\0b")]),
            ("unclean path", vec![dir("a"), bytes(b"a/../\xe9")]),
            ("unclean path", vec![bytes(b"\xe9\0")]),
            ("unclean path", vec![bytes(b"\xe9/")]),
            (r#"unclean path: "\xE9/.""#, vec![bytes(b"\xe9/.")]),
            ("absolute path", vec![bytes(b"/\xe9")]),
            ("escape check", vec![bytes(b"../\xe9")]),
            (
                r#"changes out of order: "\xE9" "\xFF""#,
                vec![bytes(b"\xff"), bytes(b"\xe9")],
            ),
            (
                r#"out of order: "\xE9/a" "\xE9""#,
                vec![bytes(b"\xe9"), bytes(b"\xe9/a")],
            ),
            (
                "attributes",
                vec![Stat {
                    xattrs: vec![Xattr::default()],
                    ..file("a")
                }],
            ),
            ("unclean path", vec![file(&long)]),
            ("absolute path", vec![file("/etc/passwd")]),
            ("escape check", vec![file("..")]),
            ("escape check", vec![file("../a")]),
            (r#"changes out of order: "a" "b""#, vec![file("b"), file("a")]),
            (r#"changes out of order: "a" "a""#, vec![file("a"), file("a")]),
            (
                r#"changes out of order: "a/b" "a.txt""#,
                vec![dir("a"), file("a.txt"), file("a/b")],
            ),
            (r#"changes out of order: "a/b" "a""#, vec![file("a"), file("a/b")]),
            (r#"changes out of order: "a/b" """#, vec![file("a/b")]),
            ("hard link", vec![link("a", "b")]),
            ("hard link", vec![dir("a"), link("b", "a")]),
            (
                "no kind",
                vec![Stat {
                    mode: mode::DIR | mode::SYMLINK,
                    ..file("a")
                }],
            ),
            ("negative", vec![Stat { size: -1, ..file("a") }]),
            (
                "without target",
                vec![Stat {
                    mode: mode::SYMLINK,
                    ..file("a")
                }],
            ),
            ("at most 10", (0..11).map(|n| file(&format!("{n:02}"))).collect()),
        ];
        for (expected, stats) in rows {
            let error = check(&stats).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
