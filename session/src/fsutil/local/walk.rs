//! Lists a local directory in transfer order, without recursion and without holding more than one path's
//! directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::vec;

use cairn_patterns::{DirState, PatternError, PatternSet};
use cairn_proto::fsutil::Stat;
use cairn_proto::names;

use super::entry::{self, Entry, HardLinks};
use super::{LocalTree, LocalTreeError};

pub(super) struct Walk<'a> {
    tree: &'a LocalTree,
    /// The directories down to the current one; the root comes first.
    dirs: Vec<Dir>,
    links: HardLinks,
}

struct Dir {
    /// Relative to the root, which is the empty path.
    path: Vec<u8>,
    names: vec::IntoIter<(OsString, bool)>,
    include: Option<DirState>,
    exclude: Option<DirState>,
    /// Not sent yet: only will be if something in it is.
    pending: Option<Entry>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(tree: &'a LocalTree) -> Self {
        Self {
            tree,
            dirs: Vec::new(),
            links: HardLinks::default(),
        }
    }

    pub(super) fn run(mut self, emit: &mut dyn FnMut(Stat) -> bool) -> Result<(), LocalTreeError> {
        let tree = self.tree;
        self.dirs.push(Dir {
            path: Vec::new(),
            names: list(&tree.root)?.into_iter(),
            include: tree.include.as_ref().map(PatternSet::root),
            exclude: tree.exclude.as_ref().map(PatternSet::root),
            pending: None,
        });
        while let Some(dir) = self.dirs.last_mut() {
            match dir.names.next() {
                None => {
                    self.dirs.pop();
                }
                Some((name, is_dir)) => {
                    if !self.visit(&name, is_dir, emit)? {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Handles one entry of the current directory; false if the receiver wants no more.
    fn visit(
        &mut self,
        name: &OsStr,
        is_dir: bool,
        emit: &mut dyn FnMut(Stat) -> bool,
    ) -> Result<bool, LocalTreeError> {
        let tree = self.tree;
        let parent = self.dirs.last().expect("called with a current directory");
        let path = below(&parent.path, name);
        let full = tree.root.join(names::path(&path));

        let unusable = |patterns| {
            move |source| LocalTreeError::Match {
                root: tree.root.clone(),
                patterns,
                source,
            }
        };
        let include = enter(tree.include.as_ref(), parent.include.as_ref(), name).map_err(unusable("include"))?;
        let may_include = include
            .as_ref()
            .is_none_or(|state| state.is_match() || state.may_match_below());
        if is_dir && !may_include {
            return Ok(true);
        }
        let exclude = enter(tree.exclude.as_ref(), parent.exclude.as_ref(), name).map_err(unusable("exclude"))?;
        let is_excluded = exclude.as_ref().is_some_and(DirState::is_match);
        let is_chosen = include.as_ref().is_none_or(DirState::is_match) && !is_excluded;
        let is_entered = is_dir && (!is_excluded || exclude.as_ref().is_some_and(DirState::may_exempt_below));
        if !is_chosen && !is_entered {
            return Ok(true);
        }
        let Some(entry) = entry::describe(&full, &path, tree.keeps_owner)? else {
            return Ok(true);
        };
        let pending = if is_chosen {
            if !self.emit_with_parents(entry, emit) {
                return Ok(false);
            }
            None
        } else {
            Some(entry)
        };
        if is_entered {
            self.dirs.push(Dir {
                path,
                names: list(&full)?.into_iter(),
                include,
                exclude,
                pending,
            });
        }
        Ok(true)
    }

    fn emit_with_parents(&mut self, entry: Entry, emit: &mut dyn FnMut(Stat) -> bool) -> bool {
        for dir in &mut self.dirs {
            if let Some(pending) = dir.pending.take()
                && !emit(self.links.resolve(pending))
            {
                return false;
            }
        }
        emit(self.links.resolve(entry))
    }
}

fn enter(set: Option<&PatternSet>, parent: Option<&DirState>, name: &OsStr) -> Result<Option<DirState>, PatternError> {
    let entered = set.zip(parent).map(|(set, parent)| set.enter(parent, name.as_bytes()));
    entered.transpose()
}

/// The path of an entry of the directory `dir`.
fn below(dir: &[u8], name: &OsStr) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend(name.as_bytes());
    path
}

/// Names in a directory, sorted, with whether each is a directory itself. One that vanished is empty.
fn list(path: &Path) -> Result<Vec<(OsString, bool)>, LocalTreeError> {
    let failed = |source| LocalTreeError::Read {
        path: path.to_owned(),
        source,
    };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let with_kind = |entry: DirEntry| Ok((entry.file_name(), entry.file_type()?.is_dir()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.and_then(with_kind))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    names.sort_unstable();
    Ok(names)
}
