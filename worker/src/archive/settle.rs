//! Making an unpacked layer fit the layers below it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::ArchiveError;
use super::lower::{Lowers, copy_directory_metadata, is_opaque};
use crate::sys::Root;

/// Whether a layer that was unpacked without those below it is as if unpacked with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is.
    Fits,
    /// A symbolic link below leads elsewhere with what lies in one of its directories.
    UnpackAgain,
}

/// Gives the directories that a layer only implies the owner, mode, attributes and time they have below. `lowers` are
/// the layer directories below, topmost first; `implied` is what [`super::Applied::implied`] said of `root`.
///
/// # Errors
/// [`ArchiveError::File`]; directories before the one it names are settled then.
pub fn settle(root: &Root, implied: &BTreeSet<PathBuf>, lowers: &[&Root]) -> Result<Settled, ArchiveError> {
    let lowers = Lowers::new(lowers);
    for path in implied {
        // A later entry may have taken its place.
        let is_there = root.lstat(path).is_ok_and(|metadata| metadata.is_dir());
        let is_hidden = || path.ancestors().skip(1).any(|dir: &Path| is_opaque(root, dir));
        if !is_there || is_hidden() {
            continue;
        }
        match lowers.find(path) {
            Some((_, metadata)) if metadata.is_symlink() => return Ok(Settled::UnpackAgain),
            Some((lower, metadata)) if metadata.is_dir() => copy_directory_metadata(root, path, lower, &metadata)
                .and_then(|()| root.set_times(path, None, Some(metadata.mtime)))
                .map_err(ArchiveError::file("copy the metadata of", path.as_os_str().as_bytes()))?,
            _ => {}
        }
    }
    Ok(Settled::Fits)
}
