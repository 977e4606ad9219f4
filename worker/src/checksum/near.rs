//! What was probably meant by a path that is not there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::tree::view::{self, Links, Located, View};

/// Largest directory that is searched for names.
const MAX_ENTRIES: usize = 10_000;

/// A path that is there and differs from `wanted` in one name, and in that by little. Nothing that goes wrong in looking
/// for it matters.
pub(super) fn path(view: &dyn View, wanted: &Path) -> Option<PathBuf> {
    let (parent, missing, rest) = split(view, wanted)?;
    let missing = missing.to_str().filter(|name| is_telling(name))?;
    let entries = view.list(&parent).ok().filter(|entries| entries.len() <= MAX_ENTRIES)?;
    let names = entries.iter().filter_map(|(name, _)| name.to_str());
    // Control characters would spoil what is printed.
    let names = names.filter(|name| is_telling(name) && !name.chars().any(char::is_control));
    let meant = cairn_patterns::nearest(missing, names)?;
    let meant = wanted_with(wanted, &rest, meant);
    view::find(view, &meant, Links::Follow).ok()?.map(|_| meant)
}

/// Whether a name is long enough to be recognised when it is misspelt.
fn is_telling(name: &str) -> bool {
    name.chars().count() > 2
}

/// The directory in which the first name is missing, that name, and what follows it in `wanted`.
fn split(view: &dyn View, wanted: &Path) -> Option<(Located, OsString, PathBuf)> {
    let mut parent = wanted.parent()?;
    loop {
        match view::find(view, parent, Links::Follow).ok()? {
            Some(found) if found.node.is_dir() => {
                let mut below = wanted.strip_prefix(parent).ok()?.iter();
                let missing = below.next()?.to_owned();
                return Some((found, missing, below.collect()));
            }
            // What is no directory has nothing that could be meant.
            Some(_) => return None,
            None => parent = parent.parent()?,
        }
    }
}

/// `wanted` with the name in front of `rest` replaced.
fn wanted_with(wanted: &Path, rest: &Path, name: &str) -> PathBuf {
    let kept = wanted.iter().count() - rest.iter().count() - 1;
    let mut path: PathBuf = wanted.iter().take(kept).collect();
    path.push(name);
    path.extend(rest);
    path
}
