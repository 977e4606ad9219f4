//! Looking at the layers below the one that is unpacked.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::whiteout::{OverlayXattrs, is_overlay_xattr};
use crate::sys::{Metadata, Root, at};

/// Layer directories, topmost first, seen as the overlay they will be.
pub(super) struct Lowers<'a> {
    roots: &'a [&'a Root],
}

/// What one layer says about a path.
enum Verdict {
    Shows(Metadata),
    /// Nothing here, and nothing below counts.
    Hides,
    Silent,
}

impl<'a> Lowers<'a> {
    pub(super) const fn new(roots: &'a [&'a Root]) -> Self {
        Self { roots }
    }

    /// The layer whose file or directory shows at `path`, a path without symbolic links.
    pub(super) fn find(&self, path: &Path) -> Option<(&'a Root, Metadata)> {
        for &root in self.roots {
            match verdict(root, path) {
                Verdict::Shows(metadata) => return Some((root, metadata)),
                Verdict::Hides => return None,
                Verdict::Silent => {}
            }
        }
        None
    }

    /// Copies the file at `path` of `lower` into `dir`, so that it can be linked.
    pub(super) fn copy_up(&self, lower: &Root, path: &Path, metadata: &Metadata, dir: impl AsFd) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        if metadata.is_symlink() {
            at::symlink(&dir, name, &lower.read_link(path)?)?;
        } else if metadata.is_file() {
            let (mut source, _) = lower.open_regular(path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut target = std::fs::File::from(at::open(&dir, name, flags, 0o600)?);
            io::copy(&mut source, &mut target)?;
        } else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        at::chown(&dir, name, metadata.uid, metadata.gid)?;
        if !metadata.is_symlink() {
            at::chmod(&dir, name, metadata.permissions())?;
        }
        for (key, value) in lower.xattrs(path)? {
            if !is_overlay_xattr(key.as_bytes()) {
                at::set_xattr(&dir, name, &key, &value)?;
            }
        }
        at::set_times(&dir, name, None, Some(metadata.mtime))
    }
}

fn verdict(root: &Root, path: &Path) -> Verdict {
    let mut shown = None;
    let mut hides = false;
    // From the layer's root down: anything but a directory on the way ends the search in all layers.
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    for step in ancestors {
        match root.lstat(step) {
            Ok(metadata) if metadata.is_whiteout() => return Verdict::Hides,
            Ok(metadata) if step == path => shown = Some(metadata),
            Ok(metadata) if metadata.is_dir() => hides |= is_opaque(root, step),
            Ok(_) => return Verdict::Hides,
            Err(_) => break,
        }
    }
    match shown {
        Some(metadata) => Verdict::Shows(metadata),
        None if hides => Verdict::Hides,
        None => Verdict::Silent,
    }
}

pub(super) fn is_opaque(root: &Root, path: &Path) -> bool {
    [OverlayXattrs::Trusted, OverlayXattrs::User]
        .iter()
        .any(|kind| matches!(root.xattr(path, kind.opaque()), Ok(Some(value)) if value == b"y"))
}

/// Gives the directory at `path` the owner, mode and attributes it has in `lower`.
pub(super) fn copy_directory_metadata(root: &Root, path: &Path, lower: &Root, metadata: &Metadata) -> io::Result<()> {
    root.chown(path, metadata.uid, metadata.gid)?;
    root.chmod(path, metadata.permissions())?;
    for (key, value) in lower.xattrs(path)? {
        let key: &OsStr = &key;
        if !is_overlay_xattr(key.as_bytes()) {
            root.set_xattr(path, key, &value)?;
        }
    }
    Ok(())
}
