//! A mounted root as a view.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::{Located, View};
use crate::sys::{FileKind, Metadata, Root, at};
use crate::tree::node::{Node, NodeKind, Origin, Xattrs, is_portable_xattr};

/// Files from here on are hashed on all processors.
const PARALLEL_FROM: u64 = 1 << 20;
const BUFFER: usize = 64 << 10;

impl View for Root {
    fn root(&self) -> io::Result<Node> {
        Ok(node_of(&Metadata::of(self)?, OsString::new()))
    }

    fn child(&self, dir: &Located, name: &OsStr) -> io::Result<Option<Node>> {
        // A name that is a file somewhere above is not there, whatever the kernel calls it.
        match self.open_dir_fd(&dir.path).and_then(|fd| stat_child(&fd, name)) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Located) -> io::Result<Vec<(OsString, Node)>> {
        let fd = self.open_dir_fd(&dir.path)?;
        let mut entries = Vec::new();
        for entry in at::read_dir(&fd)? {
            match stat_child(&fd, &entry.name) {
                Ok(node) => entries.push((entry.name, node)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        Ok(entries)
    }

    fn xattrs(&self, at: &Located) -> io::Result<Xattrs> {
        let mut all = Self::xattrs(self, &at.path)?;
        all.retain(|name, _| is_portable_xattr(name));
        Ok(all)
    }

    fn open(&self, at: &Located) -> io::Result<File> {
        Ok(self.open_regular(&at.path)?.0)
    }

    fn bytes_hash(&self, at: &Located) -> io::Result<[u8; 32]> {
        let mut file = View::open(self, at)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![
            0;
            if at.node.size() < PARALLEL_FROM {
                BUFFER
            } else {
                1 << 20
            }
        ];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(*hasher.finalize().as_bytes()),
                Ok(read) if at.node.size() < PARALLEL_FROM => drop(hasher.update(&buffer[..read])),
                Ok(read) => drop(hasher.update_rayon(&buffer[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn stat_child(dir: impl AsFd, name: &OsStr) -> io::Result<Node> {
    let metadata = at::stat(&dir, name)?;
    let target = if metadata.is_symlink() {
        at::read_link(dir, name)?
    } else {
        OsString::new()
    };
    Ok(node_of(&metadata, target))
}

/// A node from what the kernel says; `target` counts for symbolic links only.
pub(crate) fn node_of(metadata: &Metadata, target: OsString) -> Node {
    let (major, minor) = metadata.rdev;
    Node {
        kind: match metadata.kind() {
            FileKind::File => NodeKind::File { size: metadata.size },
            FileKind::Dir => NodeKind::Dir,
            FileKind::Symlink => NodeKind::Symlink { target },
            FileKind::CharDevice => NodeKind::CharDevice { major, minor },
            FileKind::BlockDevice => NodeKind::BlockDevice { major, minor },
            FileKind::Fifo => NodeKind::Fifo,
            FileKind::Socket => NodeKind::Socket,
        },
        mode: metadata.permissions(),
        uid: metadata.uid,
        gid: metadata.gid,
        mtime_ns: metadata.mtime.as_nanos(),
        origin: Origin::Inode {
            dev: rustix::fs::makedev(metadata.dev.0, metadata.dev.1),
            ino: metadata.ino,
            links: metadata.nlink.into(),
        },
    }
}
