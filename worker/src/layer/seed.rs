//! Copying trees: whole ones, for the initial content of cache directories and for layers of their own, and single files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::archive::{OverlayXattrs, TIME_ALONE};
use crate::sys::{FileKind, Metadata, Root};

/// Attributes that belong to overlay, not to the files.
const OVERLAY_XATTRS: &str = "trusted.overlay.";

/// What a tree is, and so what its copy says of the layers below it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CopiedAs {
    /// Files: what overlay has noted about them is left out.
    Files,
    /// The directory of a layer: it hides below it what the original hides. Left out are directories of which only the
    /// time is another than below.
    Layer,
}

/// Copies everything in `from` into the empty `to`, with owners, permissions, times, extended attributes and hard
/// links.
pub(super) fn copy_tree(from: &Root, to: &Root, copied_as: CopiedAs) -> io::Result<()> {
    let mut linked: HashMap<(u64, (u32, u32)), PathBuf> = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    // Their times are set last, as filling a directory changes them.
    let mut dirs = Vec::new();
    while let Some(dir) = pending.pop() {
        let metadata = from.stat(&dir)?;
        for entry in from.read_dir(&dir)? {
            let path = dir.join(&entry.name);
            let metadata = from.lstat(&path)?;
            if metadata.is_dir() {
                if copied_as == CopiedAs::Layer && from.xattr(&path, TIME_ALONE.as_ref())?.is_some() {
                    continue;
                }
                to.create_dir(&path, metadata.permissions())?;
                pending.push(path);
                continue;
            }
            if metadata.nlink > 1 {
                if let Some(first) = linked.get(&(metadata.ino, metadata.dev)) {
                    to.hard_link(first, &path)?;
                    continue;
                }
                linked.insert((metadata.ino, metadata.dev), path.clone());
            }
            copy_file(from, to, &path, &metadata)?;
            copy_attributes(from, to, &path, &metadata)?;
            to.set_times(&path, Some(metadata.atime), Some(metadata.mtime))?;
        }
        copy_attributes(from, to, &dir, &metadata)?;
        if copied_as == CopiedAs::Layer {
            copy_opacity(from, to, &dir)?;
        }
        dirs.push((dir, metadata));
    }
    for (dir, metadata) in dirs.iter().rev() {
        to.set_times(dir, Some(metadata.atime), Some(metadata.mtime))?;
    }
    Ok(())
}

/// Makes `path` in `to` as it is in `from`, without its attributes.
pub(super) fn copy_file(from: &Root, to: &Root, path: &Path, metadata: &Metadata) -> io::Result<()> {
    match metadata.kind() {
        FileKind::File => {
            let (mut source, _) = from.open_regular(path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mut target = to.open_file(path, flags, 0o600)?;
            io::copy(&mut source, &mut target)?;
            Ok(())
        }
        FileKind::Symlink => to.symlink(from.read_link(path)?, path),
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => {
            to.mknod(path, metadata.mode, metadata.rdev)
        }
        FileKind::Dir => to.create_dir(path, metadata.permissions()),
    }
}

/// Gives `path` in `to` the attributes that it has in `from`, but for its times.
pub(super) fn copy_attributes(from: &Root, to: &Root, path: &Path, metadata: &Metadata) -> io::Result<()> {
    to.chown(path, metadata.uid, metadata.gid)?;
    if !metadata.is_symlink() {
        // After the owner, whose change takes set-id bits away.
        to.chmod(path, metadata.permissions())?;
    }
    for (key, value) in from.xattrs(path)? {
        if !starts_with(&key, OVERLAY_XATTRS) {
            to.set_xattr(path, &key, &value)?;
        }
    }
    Ok(())
}

fn copy_opacity(from: &Root, to: &Root, dir: &Path) -> io::Result<()> {
    for kind in [OverlayXattrs::Trusted, OverlayXattrs::User] {
        if let Some(value) = from.xattr(dir, kind.opaque())? {
            to.set_xattr(dir, kind.opaque(), &value)?;
        }
    }
    Ok(())
}

fn starts_with(key: &OsStr, prefix: &str) -> bool {
    key.as_encoded_bytes().starts_with(prefix.as_bytes())
}
