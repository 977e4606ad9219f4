//! What is known about one file without opening it, wherever it lies.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::dir::Entry;

/// Extended attributes by name, in the order of names.
pub type Xattrs = BTreeMap<OsString, Vec<u8>>;

/// Permission bits, set-id bits and the sticky bit: all of `st_mode` that is not the type.
pub const PERMISSIONS: u32 = 0o7777;

/// A file's type, metadata and where it was found.
#[derive(Clone, Debug)]
pub struct Node {
    /// Type, and what comes with it.
    pub kind: NodeKind,
    /// The bits of [`PERMISSIONS`].
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in ns since the epoch.
    pub mtime_ns: i64,
    /// Where it was found.
    pub origin: Origin,
}

/// The type of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it holds, verbatim.
        target: OsString,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where a node was found.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In a file system.
    Inode {
        /// Device.
        dev: u64,
        /// Inode number.
        ino: u64,
        /// Number of names it has.
        links: u64,
    },
    /// In a tree.
    Tree(Arc<Entry>),
    /// The root of a tree, which clients do not describe.
    TreeRoot,
}

impl Node {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == NodeKind::Dir
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, NodeKind::File { .. })
    }

    /// Whether this is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        matches!(self.kind, NodeKind::Symlink { .. })
    }

    /// Bytes of a regular file; 0 for everything else.
    pub fn size(&self) -> u64 {
        match self.kind {
            NodeKind::File { size } => size,
            _ => 0,
        }
    }

    /// `st_mode`: type and permission bits.
    pub fn st_mode(&self) -> u32 {
        let kind = match self.kind {
            NodeKind::Dir => libc::S_IFDIR,
            NodeKind::File { .. } => libc::S_IFREG,
            NodeKind::Symlink { .. } => libc::S_IFLNK,
            NodeKind::CharDevice { .. } => libc::S_IFCHR,
            NodeKind::BlockDevice { .. } => libc::S_IFBLK,
            NodeKind::Fifo => libc::S_IFIFO,
            NodeKind::Socket => libc::S_IFSOCK,
        };
        kind | self.mode
    }
}

/// Whether an extended attribute belongs to a file's content rather than to the host it lies on.
///
/// Labels of security modules, integrity hashes and overlay bookkeeping are made by the host anew.
pub fn is_portable_xattr(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    name == "security.capability"
        || (bytes.starts_with(b"user.") && !bytes.starts_with(b"user.overlay."))
        || name == "system.posix_acl_access"
        || name == "system.posix_acl_default"
}
