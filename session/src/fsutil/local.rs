//! A directory of this machine as a tree to send.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cairn_patterns::{PatternError, PatternSet};
use cairn_proto::fsutil::Stat;
use rustix::fs::OFlags;

use super::error::BoxError;
use super::sender::Tree;

mod entry;
mod follow;
mod walk;

/// Which entries of a directory are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// With any, only what they match is sent (`.dockerignore` rules), and the directories above it.
    pub include: Vec<String>,
    /// What they match is not sent (`.dockerignore` rules).
    pub exclude: Vec<String>,
    /// Like `include`, but symbolic links on the way to them are followed, and sent along with their targets.
    pub follow: Vec<String>,
}

/// Failure to list or read a local directory.
#[derive(Debug, thiserror::Error)]
pub enum LocalTreeError {
    /// A pattern of the selection is malformed.
    #[error("invalid pattern for files in {}: {source}", root.display())]
    Pattern {
        /// The directory.
        root: PathBuf,
        /// What is wrong.
        source: PatternError,
    },
    /// A pattern of the selection means nothing.
    #[error("failed to match {patterns}patterns: {source} for files in {}", root.display())]
    Match {
        /// The directory.
        root: PathBuf,
        /// Which patterns.
        patterns: &'static str,
        /// What is wrong.
        source: PatternError,
    },
    /// A file or directory cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Following symbolic links leads to too many places.
    #[error("too many symbolic links to follow in {}", root.display())]
    TooManyLinks {
        /// The directory.
        root: PathBuf,
    },
}

/// A directory of this machine, or a selection of what is in it.
#[derive(Debug)]
pub struct LocalTree {
    root: PathBuf,
    include: Option<PatternSet>,
    exclude: Option<PatternSet>,
    keeps_owner: bool,
}

impl LocalTree {
    /// Prepares to send `root`. Follows symbolic links for the selection, so it reads the directory and blocks.
    ///
    /// Unless `keeps_owner`, everything is sent as if it belonged to root.
    ///
    /// # Errors
    /// [`LocalTreeError`] if the selection makes no sense.
    pub fn new(root: &Path, selection: &Selection, keeps_owner: bool) -> Result<Self, LocalTreeError> {
        // Only the root itself may be a symbolic link; it is resolved once.
        let root = fs::canonicalize(root).map_err(|source| LocalTreeError::Read {
            path: root.to_owned(),
            source,
        })?;
        let compile = |patterns: &[&[u8]]| {
            if patterns.is_empty() {
                return Ok(None);
            }
            let set = PatternSet::new(patterns).map_err(|source| LocalTreeError::Pattern {
                root: root.clone(),
                source,
            })?;
            Ok(Some(set))
        };
        let mut include = bytes(&selection.include);
        let followed = if selection.follow.is_empty() {
            None
        } else {
            follow::resolve(&root, &selection.follow)?
        };
        // `None` if one of the paths is the directory itself: that leaves what is included as it was.
        if let Some(followed) = &followed {
            include.extend(followed.iter().map(Vec::as_slice));
            include = distinct(&include);
        }
        let include = compile(&include)?;
        let exclude = compile(&bytes(&selection.exclude))?;
        Ok(Self {
            root,
            include,
            exclude,
            keeps_owner,
        })
    }
}

impl Tree for LocalTree {
    fn walk(&self, emit: &mut dyn FnMut(Stat) -> bool) -> Result<(), BoxError> {
        walk::Walk::new(self).run(emit).map_err(Into::into)
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read + Send>>> {
        match open_file(&self.root.join(path)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if is_vanished(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn bytes(patterns: &[String]) -> Vec<&[u8]> {
    patterns.iter().map(String::as_bytes).collect()
}

/// Patterns without those that are right behind one for a directory around them; none, if one is the directory itself,
/// which is not a pattern for everything but means everything here.
fn distinct<'a>(patterns: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut kept = Vec::with_capacity(patterns.len());
    let mut last: &[u8] = b"";
    for &pattern in patterns {
        if pattern == b"." {
            return Vec::new();
        }
        if !pattern.strip_prefix(last).is_some_and(|rest| rest.starts_with(b"/")) {
            kept.push(pattern);
            last = pattern;
        }
    }
    kept
}

/// Opens what was a regular file when it was listed, without following or waiting if it no longer is.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Whether a path stopped being what it was a moment ago. Sockets count, since they are listed as files.
fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || matches!(
            rustix::io::Errno::from_io_error(error),
            Some(rustix::io::Errno::NXIO | rustix::io::Errno::LOOP)
        )
}
