//! Taking out of a layer what is the same below.
//!
//! An overlay copies a file up before it knows whether anything of it will change, and a file replaced by its equal is
//! in the upper directory, too. None of that is a change: what is the same in the layers below is removed. Only the
//! layer's own directory is walked, and below it only where there is a directory of the same name in both. Files of
//! several names are left alone: without its old name, a new link to an unchanged file would become another file.
//!
//! Of a directory, only the time may be another, because something in it came and went, or somebody set it. Results show
//! that, but it is no change that belongs into the layer of an image: the directory is kept, and marked.
//!
//! A directory that was removed and made again hides the one below it. Instead, what was in that one is marked as
//! deleted, one by one: laid over something else, as differences and merges do, the layer takes away what it has seen
//! and nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};

use crate::archive::TIME_ALONE;
use crate::layer::compare::{are_alike, have_same_content};
use crate::sys::{FileKind, Metadata, Root, at};

/// Tells what a file was copied up from.
const ORIGIN: &str = "trusted.overlay.origin";
/// Marks a directory that hides the one below.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Removes from `upper`, the directory of a layer that is mounted nowhere, what is the same in `lower`, the layers below
/// as one. Directories keep their times. Says whether some are left that have nothing but another time.
pub(super) fn trim(upper: &Root, lower: &Root) -> io::Result<bool> {
    let mut current = Pair {
        upper: upper.as_fd().try_clone_to_owned()?,
        lower: lower.as_fd().try_clone_to_owned()?,
    };
    // Nobody else changes either tree, so ".." leads back, and the depth costs no descriptors.
    let mut levels = vec![current.visit(OsString::new())?];
    let mut has_marked = false;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            current = current.child(&name)?;
            levels.push(current.visit(name)?);
            continue;
        }
        let Some(done) = levels.pop() else { break };
        if done.changed {
            at::set_times_fd(&current.upper, Some(done.before.atime), Some(done.before.mtime))?;
        }
        if let Some(around) = levels.last_mut() {
            let parent = current.parent()?;
            if done.holds_changes || !parent.are_same_dir(&done.name)? {
                around.holds_changes = true;
            } else if done.holds_marked || !parent.have_same_time(&done.name)? {
                at::set_xattr(&parent.upper, &done.name, TIME_ALONE.as_ref(), b"y")?;
                around.holds_marked = true;
                has_marked = true;
            } else {
                at::rmdir(&parent.upper, &done.name)?;
                around.changed = true;
            }
            current = parent;
        }
    }
    Ok(has_marked)
}

/// A directory of the layer whose entries were looked at.
struct Level {
    name: OsString,
    before: Metadata,
    /// Whether something was removed from it.
    changed: bool,
    /// Whether something in it belongs into the layer.
    holds_changes: bool,
    /// Whether a directory in it has another time, or holds one that has.
    holds_marked: bool,
    /// Directories in it that are to be looked into.
    pending: Vec<OsString>,
}

/// The same directory in both.
struct Pair {
    upper: OwnedFd,
    lower: OwnedFd,
}

impl Pair {
    fn child(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self {
            upper: at::open_dir(&self.upper, name)?,
            lower: at::open_dir(&self.lower, name)?,
        })
    }

    fn parent(&self) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = |dir: &OwnedFd| rustix::fs::openat(dir, "..", flags, Mode::empty());
        Ok(Self {
            upper: up(&self.upper)?,
            lower: up(&self.lower)?,
        })
    }

    /// Removes what is the same, apart from directories.
    fn visit(&self, name: OsString) -> io::Result<Level> {
        let mut level = Level {
            name,
            before: Metadata::of(&self.upper)?,
            changed: false,
            holds_changes: false,
            holds_marked: false,
            pending: Vec::new(),
        };
        for entry in at::read_dir(&self.upper)? {
            let name = entry.name;
            let below = match at::stat(&self.lower, &name) {
                Ok(below) => Some(below),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let ours = at::stat(&self.upper, &name)?;
            let is_needless = match below {
                None if ours.is_dir() => {
                    self.hide_nothing(&name)?;
                    level.holds_changes = true;
                    continue;
                }
                None => ours.is_whiteout(),
                Some(below) if ours.is_dir() && below.is_dir() => {
                    if at::xattr(&self.upper, &name, OPAQUE.as_ref())?.as_deref() == Some(b"y") {
                        self.uncover(&name)?;
                    }
                    level.pending.push(name);
                    continue;
                }
                Some(_) if ours.is_dir() => {
                    self.hide_nothing(&name)?;
                    level.holds_changes = true;
                    continue;
                }
                // All names of a file are in this directory.
                Some(below) => !ours.is_whiteout() && ours.nlink == 1 && self.are_same(&name, &ours, &below)?,
            };
            if is_needless {
                at::unlink(&self.upper, &name)?;
                level.changed = true;
            } else {
                level.holds_changes = true;
            }
        }
        Ok(level)
    }

    /// Lets a directory that hides the one below be laid over it, with marks of deletion for what is only there.
    fn uncover(&self, name: &OsStr) -> io::Result<()> {
        let inside = self.child(name)?;
        let before = Metadata::of(&inside.upper)?;
        for entry in at::read_dir(&inside.lower)? {
            let name = entry.name.as_os_str();
            match at::stat(&inside.upper, name) {
                // It was hidden with the one around it, and is looked into next.
                Ok(ours) if ours.is_dir() && at::stat(&inside.lower, name)?.is_dir() => {
                    at::set_xattr(&inside.upper, name, OPAQUE.as_ref(), b"y")?;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    at::mknod(&inside.upper, name, libc::S_IFCHR, (0, 0))?;
                }
                Err(error) => return Err(error),
            }
        }
        at::set_times_fd(&inside.upper, Some(before.atime), Some(before.mtime))?;
        at::remove_xattr(&self.upper, name, OPAQUE.as_ref())
    }

    /// Takes the mark from a directory that has none below it: overlay also marks those that were moved, or that
    /// replace a file.
    fn hide_nothing(&self, name: &OsStr) -> io::Result<()> {
        match at::xattr(&self.upper, name, OPAQUE.as_ref())? {
            Some(_) => at::remove_xattr(&self.upper, name, OPAQUE.as_ref()),
            None => Ok(()),
        }
    }

    fn are_same_dir(&self, name: &OsStr) -> io::Result<bool> {
        let ours = at::stat(&self.upper, name)?;
        let below = at::stat(&self.lower, name)?;
        Ok(are_alike(&ours, &below) && self.attributes_are_same(name)?)
    }

    fn have_same_time(&self, name: &OsStr) -> io::Result<bool> {
        Ok(at::stat(&self.upper, name)?.mtime == at::stat(&self.lower, name)?.mtime)
    }

    /// Whether something that is no directory is the same in both.
    fn are_same(&self, name: &OsStr, ours: &Metadata, below: &Metadata) -> io::Result<bool> {
        if !are_alike(ours, below) || ours.mtime != below.mtime || !self.attributes_are_same(name)? {
            return Ok(false);
        }
        match ours.kind() {
            FileKind::File => Ok(ours.size == below.size && self.contents_are_same(name, ours)?),
            FileKind::Symlink => Ok(at::read_link(&self.upper, name)? == at::read_link(&self.lower, name)?),
            FileKind::CharDevice | FileKind::BlockDevice => Ok(ours.rdev == below.rdev),
            FileKind::Dir | FileKind::Fifo | FileKind::Socket => Ok(true),
        }
    }

    fn attributes_are_same(&self, name: &OsStr) -> io::Result<bool> {
        Ok(attributes(&self.upper, name)? == attributes(&self.lower, name)?)
    }

    /// Reads neither file if ours is a copy of the one below and its time, which is the same, is that of a clock:
    /// writing to it would have changed that. Whole seconds are what somebody has set.
    fn contents_are_same(&self, name: &OsStr, ours: &Metadata) -> io::Result<bool> {
        let is_untouched = || Ok::<_, io::Error>(at::xattr(&self.upper, name, ORIGIN.as_ref())?.is_some());
        if ours.size == 0 || (ours.mtime.nanos != 0 && is_untouched()?) {
            return Ok(true);
        }
        let open = |dir| at::open(dir, name, OFlags::RDONLY, 0).map(File::from);
        have_same_content(open(&self.upper)?, open(&self.lower)?)
    }
}

/// Attributes that belong to the file, not to an overlay.
fn attributes(dir: &OwnedFd, name: &OsStr) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut all = at::xattrs(dir, name)?;
    all.retain(|key, _| !key.as_bytes().starts_with(super::OVERLAY_XATTRS));
    Ok(all)
}

#[cfg(test)]
mod tests;
