//! How much disk a directory takes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::sys::{Metadata, at};

/// Bytes allocated for everything below `dir`; a file with several names in it counts once.
///
/// Uses one descriptor at a time, whatever the depth, so `dir` must not be changed meanwhile.
pub(super) fn disk_usage(dir: impl AsFd) -> io::Result<u64> {
    let mut linked = HashSet::new();
    let mut total = 0;
    // Directories still to visit, per level.
    let mut levels: Vec<Vec<OsString>> = Vec::new();
    let mut current: OwnedFd = dir.as_fd().try_clone_to_owned()?;
    levels.push(visit(&current, &mut linked, &mut total)?);
    while let Some(level) = levels.last_mut() {
        if let Some(child) = level.pop() {
            current = at::open_dir(&current, &child)?;
            let children = visit(&current, &mut linked, &mut total)?;
            levels.push(children);
        } else {
            levels.pop();
            if !levels.is_empty() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                current = rustix::fs::openat(&current, "..", flags, Mode::empty())?;
            }
        }
    }
    Ok(total)
}

/// Counts the children of a directory; returns those that are directories.
fn visit(dir: &OwnedFd, linked: &mut HashSet<u64>, total: &mut u64) -> io::Result<Vec<OsString>> {
    let mut below = Vec::new();
    for entry in at::read_dir(dir)? {
        let metadata: Metadata = at::stat(dir, &entry.name)?;
        if metadata.is_dir() {
            below.push(entry.name);
        } else if metadata.nlink > 1 && !linked.insert(metadata.ino) {
            continue;
        }
        *total += metadata.blocks * 512;
    }
    Ok(below)
}
