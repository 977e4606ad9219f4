//! The metadata of one entry, as it is sent.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cairn_proto::fsutil::{Stat, Xattr};

use super::LocalTreeError;
use crate::mode;

/// Attributes under this prefix mean nothing outside the machine they come from.
const LOCAL_XATTRS: &[u8] = b"com.apple.";
const MAX_XATTR: usize = 64 << 10;

/// Describes `path`, which is `relative` to the tree; `None` if it has vanished.
pub(super) fn describe(path: &Path, relative: &[u8], keeps_owner: bool) -> Result<Option<Entry>, LocalTreeError> {
    let failed = |source| LocalTreeError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // A socket is sent as the empty file that it amounts to elsewhere.
    let mode = mode::from_unix(metadata.mode()) & !mode::SOCKET;
    let linkname = if mode::is_symlink(mode) {
        fs::read_link(path).map_err(failed)?.into_os_string().into_vec()
    } else {
        Vec::new()
    };
    let is_device = mode & mode::DEVICE != 0;
    let (major, minor) = if is_device { device(metadata.rdev()) } else { (0, 0) };
    let stat = Stat {
        path: relative.to_owned(),
        mode,
        uid: if keeps_owner { metadata.uid() } else { 0 },
        gid: if keeps_owner { metadata.gid() } else { 0 },
        size: size(&metadata, mode, linkname.len()),
        mod_time: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        linkname,
        devmajor: major,
        devminor: minor,
        xattrs: if mode::is_symlink(mode) {
            Vec::new()
        } else {
            xattrs(path)
        },
    };
    Ok(Some(Entry {
        stat,
        inode: (metadata.dev(), metadata.ino()),
        is_linked: metadata.nlink() > 1,
    }))
}

/// An entry, and which file it is.
pub(super) struct Entry {
    pub(super) stat: Stat,
    inode: (u64, u64),
    is_linked: bool,
}

/// Recognises further names of files that were sent already.
#[derive(Default)]
pub(super) struct HardLinks {
    first: HashMap<(u64, u64), Vec<u8>>,
}

impl HardLinks {
    /// Turns a repeated file into a link to its first name.
    pub(super) fn resolve(&mut self, mut entry: Entry) -> Stat {
        if entry.is_linked && mode::is_regular(entry.stat.mode) {
            match self.first.get(&entry.inode) {
                Some(first) => entry.stat.linkname.clone_from(first),
                None => {
                    self.first.insert(entry.inode, entry.stat.path.clone());
                }
            }
        }
        entry.stat
    }
}

fn size(metadata: &Metadata, mode: u32, link_length: usize) -> i64 {
    if mode::is_symlink(mode) {
        link_length as i64
    } else if mode::is_regular(mode) {
        i64::try_from(metadata.len()).unwrap_or(i64::MAX)
    } else {
        0
    }
}

fn device(rdev: u64) -> (i64, i64) {
    (i64::from(rustix::fs::major(rdev)), i64::from(rustix::fs::minor(rdev)))
}

/// Extended attributes, as far as they can be read: many file systems have none. In the order of their names.
fn xattrs(path: &Path) -> Vec<Xattr> {
    let mut found = Vec::new();
    let mut names = [0_u8; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return found;
    };
    for name in names[..len].split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(LOCAL_XATTRS) {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
        if let Ok(len) = rustix::fs::lgetxattr(path, name, &mut value[..]) {
            value.truncate(len);
            found.push(Xattr {
                name: name.to_owned(),
                value: value.into(),
            });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found
}
