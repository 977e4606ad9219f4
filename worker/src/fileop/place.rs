//! Makes single files in a destination: links to stored files, copies, and everything else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::dest::{Dest, Writable};
use super::error::FileOpError;
use super::mode::ModeChange;
use super::owner::Owner;
use crate::sys::{Metadata, Time, at};
use crate::tree::node::{Node, NodeKind, Xattrs};
use crate::tree::view::node_of;
use crate::tree::{Located, View};

/// Up to here a file is read and written; above it, the kernel copies.
const SMALL: u64 = 64 << 10;
/// The kernel copies so much at a time, so that somebody who does not wait any more is noticed.
const PIECE: u64 = 64 << 20;
/// A file that is not there yet.
pub(super) const NEW_FILE: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL);

/// What copies look like, where that is not as the source.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) owner: Option<Owner>,
    pub(super) mode: Option<ModeChange>,
    pub(super) mtime: Option<Time>,
}

impl Look {
    fn owner_of(&self, node: &Node) -> Owner {
        self.owner.unwrap_or((node.uid, node.gid))
    }

    fn mode_of(&self, node: &Node) -> u32 {
        self.mode
            .as_ref()
            .map_or(node.mode, |mode| mode.apply(node.mode, node.is_dir()))
    }

    pub(super) fn mtime_of(&self, node: &Node) -> Time {
        self.mtime.unwrap_or_else(|| Time::from_nanos(node.mtime_ns))
    }

    /// Whether a copy of `node` looks exactly as it does.
    fn leaves(&self, node: &Node) -> bool {
        self.owner_of(node) == (node.uid, node.gid)
            && self.mode_of(node) == node.mode
            && self.mtime.is_none_or(|time| time.as_nanos() == node.mtime_ns)
    }
}

/// Makes the regular file `name` in `dir`, which is free, from `source`. `path` is its path in the destination.
pub(super) fn file(
    dest: &mut Dest<'_>,
    (dir, name, path): (&Writable, &OsStr, &Path),
    view: &dyn View,
    source: &Located,
    look: &Look,
    is_cancelled: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut refused = false;
    if let (Some(links), Some((store, body))) = (dest.links.as_deref_mut(), view.stored(&source.node))
        && look.leaves(&source.node)
        && links.is_free(&body.key)
    {
        match store.link(&body.key, &dir.upper, name) {
            Ok(()) => {
                links.add(body.key, path.to_owned());
                return Ok(());
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EMLINK) => {}
                // Another file system, or one without links: no use to try again.
                Some(libc::EXDEV | libc::EPERM | libc::EOPNOTSUPP) => refused = true,
                _ => return Err(error),
            },
        }
    }
    if refused {
        dest.links = None;
    }
    let mut copy = File::from(at::open(&dir.upper, name, NEW_FILE, 0o600)?);
    copy_bytes(view.open(source)?, &mut copy, source.node.size(), is_cancelled)?;
    dress_fd(&copy, &source.node, &view.xattrs(source)?, look)
}

/// Makes something that is neither directory nor regular file.
pub(super) fn special(dir: &Writable, name: &OsStr, node: &Node, look: &Look) -> io::Result<()> {
    let rdev = match &node.kind {
        NodeKind::Symlink { target } => {
            at::symlink(&dir.upper, name, target)?;
            let (uid, gid) = look.owner_of(node);
            at::chown(&dir.upper, name, uid, gid)?;
            let mtime = Some(look.mtime_of(node));
            return at::set_times(&dir.upper, name, mtime, mtime);
        }
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => (*major, *minor),
        NodeKind::Fifo | NodeKind::Socket => (0, 0),
        NodeKind::Dir | NodeKind::File { .. } => return Err(io::ErrorKind::InvalidInput.into()),
    };
    at::mknod(&dir.upper, name, node.st_mode(), rdev)?;
    let (uid, gid) = look.owner_of(node);
    at::chown(&dir.upper, name, uid, gid)?;
    at::chmod(&dir.upper, name, look.mode_of(node))?;
    let mtime = Some(look.mtime_of(node));
    at::set_times(&dir.upper, name, mtime, mtime)
}

/// Gives an open file or directory the look of a copy of `node`.
pub(super) fn dress_fd(fd: impl AsFd, node: &Node, xattrs: &Xattrs, look: &Look) -> io::Result<()> {
    let (uid, gid) = look.owner_of(node);
    at::chown_fd(&fd, uid, gid)?;
    // After the owner, whose change drops set-id bits and capabilities.
    at::chmod_fd(&fd, look.mode_of(node))?;
    for (attribute, value) in xattrs {
        if let Err(error) = at::set_xattr_fd(&fd, attribute, value) {
            tracing::debug!(attribute = %attribute.display(), %error, "extended attribute not copied");
        }
    }
    let mtime = Some(look.mtime_of(node));
    at::set_times_fd(&fd, mtime, mtime)
}

fn copy_bytes(mut from: File, to: &mut File, size: u64, is_cancelled: &dyn Fn() -> bool) -> io::Result<()> {
    if size <= SMALL {
        let mut bytes = Vec::with_capacity(size as usize + 1);
        from.read_to_end(&mut bytes)?;
        return to.write_all(&bytes);
    }
    // Between two files this is copy_file_range, which shares the blocks where the file system can.
    while io::copy(&mut (&mut from).take(PIECE), to)? > 0 {
        if is_cancelled() {
            return Err(rustix::io::Errno::CANCELED.into());
        }
    }
    Ok(())
}

/// Replaces links to stored files, each with all its names, by copies, before somebody may modify files in place.
pub(super) fn detach(dest: &Dest<'_>, links: Vec<Vec<PathBuf>>) -> Result<(), FileOpError> {
    for names in links {
        let mut first: Option<PathBuf> = None;
        for path in names {
            let done = detach_one(dest, &path, first.as_deref());
            if done.map_err(FileOpError::path("copy", &path))? {
                first.get_or_insert(path);
            }
        }
    }
    Ok(())
}

/// Replaces the link at `path` by a further name of `first`, or by a copy if there is no first; false if the link is
/// not there any more.
fn detach_one(dest: &Dest<'_>, path: &Path, first: Option<&Path>) -> io::Result<bool> {
    let (dir, name) = match dest.parent_of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        parent => parent?,
    };
    // A file that has only this name was made since.
    let Some(existing) = dir
        .get(&name)?
        .filter(|at| at.metadata.is_file() && at.metadata.nlink > 1)
    else {
        return Ok(false);
    };
    let around = Metadata::of(&dir.upper)?;
    let old = File::from(at::open(&dir.upper, &name, OFlags::RDONLY, 0)?);
    at::unlink(&dir.upper, &name)?;
    match first {
        Some(first) => {
            let (first_dir, first_name) = dest.parent_of(first)?;
            at::hard_link(&first_dir.upper, &first_name, &dir.upper, &name)?;
        }
        None => {
            let node = node_of(&existing.metadata, OsString::new());
            let xattrs = at::xattrs_fd(&old)?;
            let mut copy = File::from(at::open(&dir.upper, &name, NEW_FILE, 0o600)?);
            copy_bytes(old, &mut copy, node.size(), &|| false)?;
            dress_fd(&copy, &node, &xattrs, &Look::default())?;
        }
    }
    at::set_times_fd(&dir.upper, None, Some(around.mtime))?;
    Ok(true)
}
