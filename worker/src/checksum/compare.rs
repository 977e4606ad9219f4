//! What differs between two views, under one selector.
//!
//! For people, not for keys: only the first few differences are wanted, and looking for them may cost no more than a
//! bounded amount of reading. Trees say which of their directories are equal without being looked into.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cairn_solver::worker::{ChangeKind, Comparison, ContentChange, ContentSelector};

use super::select::{self, Filter, FilterState, read_error};
use super::{ChecksumCause, ChecksumError};
use crate::tree::node::{Node, NodeKind};
use crate::tree::view::{self, Located, View};

/// Files that are looked at.
const MAX_FILES: usize = 500_000;
/// Bytes of files that are read; each pair of files that differ in nothing else is.
const MAX_BYTES: u64 = 1 << 30;

/// Finds what of what `selector` names differs between `old` and `new`; at most `limit` changes, in the order of paths.
/// Blocks.
///
/// # Errors
/// If a file cannot be read, or a pattern is malformed.
pub fn compare(
    old: &dyn View,
    new: &dyn View,
    selector: &ContentSelector,
    limit: usize,
) -> Result<Comparison, ChecksumError> {
    let fail = |cause| ChecksumError {
        reference: "two results".to_owned(),
        cause,
    };
    let filter = Filter::new(&selector.include, &selector.exclude).map_err(fail)?;
    let mut search = Search {
        old,
        new,
        filter: filter.as_ref(),
        limit,
        found: Comparison::default(),
        files_left: MAX_FILES,
        bytes_left: MAX_BYTES,
    };
    let mut named: BTreeMap<PathBuf, (Option<Located>, Option<Located>)> = BTreeMap::new();
    for selected in selected(old, selector).map_err(fail)? {
        named.entry(selected.named).or_default().0 = Some(selected.at);
    }
    for selected in selected(new, selector).map_err(fail)? {
        named.entry(selected.named).or_default().1 = Some(selected.at);
    }
    for (_, (old, new)) in named {
        search.pair(old, new).map_err(fail)?;
    }
    Ok(search.found)
}

/// What a selector names; nothing, where that is not there.
fn selected(view: &dyn View, selector: &ContentSelector) -> Result<Vec<select::Selected>, ChecksumCause> {
    match select::select(view, &selector.path, selector.wildcard, selector.follow_links) {
        Err(ChecksumCause::NotFound { .. }) => Ok(Vec::new()),
        found => found,
    }
}

struct Search<'a> {
    old: &'a dyn View,
    new: &'a dyn View,
    filter: Option<&'a Filter>,
    limit: usize,
    found: Comparison,
    files_left: usize,
    bytes_left: u64,
}

/// Two files of one name, where the patterns stand with it, and whether it is what the selector names itself.
struct Pair {
    old: Option<Located>,
    new: Option<Located>,
    state: Option<FilterState>,
    is_top: bool,
}

impl Search<'_> {
    /// Compares two files and all that is below them.
    fn pair(&mut self, old: Option<Located>, new: Option<Located>) -> Result<(), ChecksumCause> {
        let mut pending = vec![Pair {
            old,
            new,
            state: self.filter.map(Filter::top),
            is_top: true,
        }];
        while let Some(pair) = pending.pop() {
            if self.found.changes.len() >= self.limit || self.files_left == 0 {
                self.found.has_more = true;
                return Ok(());
            }
            self.files_left -= 1;
            if self.is_known_equal(&pair) {
                continue;
            }
            let counts = pair.is_top || pair.state.as_ref().is_none_or(FilterState::counts);
            if counts {
                self.look(&pair)?;
            }
            self.enter(&pair, counts, &mut pending)?;
        }
        Ok(())
    }

    fn is_known_equal(&self, pair: &Pair) -> bool {
        let (Some(old), Some(new)) = (&pair.old, &pair.new) else {
            return false;
        };
        let (old, new) = (self.old.known_content(&old.node), self.new.known_content(&new.node));
        old.is_some() && old == new
    }

    /// Notes how the two themselves differ.
    fn look(&mut self, pair: &Pair) -> Result<(), ChecksumCause> {
        let kind = match (&pair.old, &pair.new) {
            (None, None) => return Ok(()),
            (Some(_), None) => Some(ChangeKind::Removed),
            (None, Some(_)) => Some(ChangeKind::Added),
            (Some(old), Some(new)) => self.change(old, new)?,
        };
        if let (Some(kind), Some(at)) = (kind, pair.new.as_ref().or(pair.old.as_ref())) {
            let path = if at.path.as_os_str().is_empty() {
                "/".to_owned()
            } else {
                at.path.display().to_string()
            };
            self.found.changes.push(ContentChange { path, kind });
        }
        Ok(())
    }

    /// Goes into a directory; not into one that is told as a whole.
    fn enter(&self, pair: &Pair, counts: bool, pending: &mut Vec<Pair>) -> Result<(), ChecksumCause> {
        let is_dir = |at: &Option<Located>| at.as_ref().is_some_and(|at| at.node.is_dir());
        let is_told = counts && !(is_dir(&pair.old) && is_dir(&pair.new));
        let is_hidden = pair.state.as_ref().is_some_and(|state| !state.may_count_below());
        if is_told || is_hidden || !(is_dir(&pair.old) || is_dir(&pair.new)) {
            return Ok(());
        }
        let old = children(self.old, pair.old.as_ref())?;
        let new = children(self.new, pair.new.as_ref())?;
        let first = pending.len();
        for (old, new) in merged(old, new) {
            let name = old.as_ref().or(new.as_ref()).and_then(|at| at.path.file_name());
            let state = match (self.filter, &pair.state, name) {
                (Some(filter), Some(state), Some(name)) => Some(filter.enter(state, name)?),
                _ => None,
            };
            pending.push(Pair {
                old,
                new,
                state,
                is_top: false,
            });
        }
        // The last is taken first.
        pending[first..].reverse();
        Ok(())
    }

    fn change(&mut self, old: &Located, new: &Located) -> Result<Option<ChangeKind>, ChecksumCause> {
        let (before, now) = (&old.node, &new.node);
        if std::mem::discriminant(&before.kind) != std::mem::discriminant(&now.kind) {
            return Ok(Some(ChangeKind::Type));
        }
        if let (NodeKind::Symlink { target: before }, NodeKind::Symlink { target: now }) = (&before.kind, &now.kind)
            && before != now
        {
            return Ok(Some(ChangeKind::Target {
                old: before.display().to_string(),
                new: now.display().to_string(),
            }));
        }
        if before.is_file() && self.bytes_differ(old, new)? {
            return Ok(Some(ChangeKind::Bytes));
        }
        self.metadata(old, new)
    }

    fn metadata(&self, old: &Located, new: &Located) -> Result<Option<ChangeKind>, ChecksumCause> {
        let (before, now): (&Node, &Node) = (&old.node, &new.node);
        // Links have no permissions of their own.
        if before.mode != now.mode && !before.is_symlink() {
            return Ok(Some(ChangeKind::Mode {
                old: before.mode,
                new: now.mode,
            }));
        }
        let (owner, new_owner) = ((before.uid, before.gid), (now.uid, now.gid));
        if owner != new_owner {
            return Ok(Some(ChangeKind::Owner {
                old: owner,
                new: new_owner,
            }));
        }
        let has_xattrs = before.is_dir() || before.is_file();
        if has_xattrs {
            let read = |view: &dyn View, at: &Located| view.xattrs(at).map_err(|error| read_error(&at.path, error));
            return Ok((read(self.old, old)? != read(self.new, new)?).then_some(ChangeKind::Attributes));
        }
        let is_device = matches!(before.kind, NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. });
        Ok((is_device && before.kind != now.kind).then_some(ChangeKind::Attributes))
    }

    fn bytes_differ(&mut self, old: &Located, new: &Located) -> Result<bool, ChecksumCause> {
        let size = new.node.size();
        if old.node.size() != size {
            return Ok(true);
        }
        if self.old.stored(&old.node).is_none() || self.new.stored(&new.node).is_none() {
            let Some(left) = self.bytes_left.checked_sub(size) else {
                self.found.has_more = true;
                return Ok(false);
            };
            self.bytes_left = left;
        }
        let hash = |view: &dyn View, at: &Located| view.bytes_hash(at).map_err(|error| read_error(&at.path, error));
        Ok(hash(self.old, old)? != hash(self.new, new)?)
    }
}

fn children(view: &dyn View, dir: Option<&Located>) -> Result<Vec<Located>, ChecksumCause> {
    match dir.filter(|dir| dir.node.is_dir()) {
        Some(dir) => view::children(view, dir).map_err(|error| read_error(&dir.path, error)),
        None => Ok(Vec::new()),
    }
}

/// Puts files of the same name side by side. Both lists are in the order of names.
fn merged(old: Vec<Located>, new: Vec<Located>) -> Vec<(Option<Located>, Option<Located>)> {
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    let name = |at: &Located| {
        at.path
            .file_name()
            .map(Path::new)
            .map(Path::to_owned)
            .unwrap_or_default()
    };
    let mut pairs = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => name(old).as_os_str().cmp(name(new).as_os_str()),
        };
        pairs.push(match order {
            Ordering::Less => (old.next(), None),
            Ordering::Greater => (None, new.next()),
            Ordering::Equal => (old.next(), new.next()),
        });
    }
}
