//! The two identities of files and directories.
//!
//! *Content* says what a build step can see of a file apart from its times: name, type, permissions, owner, link
//! target, extended attributes and bytes. Keys are made of it, so a `touch` changes nothing. *Storage* adds the
//! modification time, because a stored file is handed out as it is.
//!
//! Content hashes are the same whether the file is in a tree or under a mounted root.

use std::fmt;

use super::node::{Node, NodeKind, Xattrs};

/// blake3 of what a step can see of a file or directory, without times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

/// Names a file in a [`super::FileStore`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey(pub [u8; 32]);

/// Names a directory object, and a whole tree by its root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeDigest(pub [u8; 32]);

macro_rules! hex_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    )*};
}
hex_text!(ContentHash, FileKey, TreeDigest);

impl TreeDigest {
    /// Parses the form that [`fmt::Display`] gives: 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// Feeds length-prefixed parts to a hash, so that no two lists of parts look alike.
pub(crate) struct Parts(blake3::Hasher);

impl Parts {
    pub(crate) fn new(domain: &str) -> Self {
        let mut parts = Self(blake3::Hasher::new());
        parts.bytes(domain.as_bytes());
        parts
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    fn owner_and_xattrs(&mut self, mode: u32, uid: u32, gid: u32, xattrs: &Xattrs) -> &mut Self {
        self.number(mode.into())
            .number(uid.into())
            .number(gid.into())
            .number(xattrs.len() as u64);
        for (name, value) in xattrs {
            self.bytes(name.as_encoded_bytes()).bytes(value);
        }
        self
    }
}

/// The content hash of something that is no directory. `bytes` is the hash of a regular file's bytes.
pub(crate) fn leaf(node: &Node, xattrs: &Xattrs, bytes: Option<&[u8; 32]>) -> ContentHash {
    let mut parts = Parts::new(match node.kind {
        NodeKind::Dir => "dir",
        NodeKind::File { .. } => "file",
        NodeKind::Symlink { .. } => "symlink",
        NodeKind::CharDevice { .. } => "char",
        NodeKind::BlockDevice { .. } => "block",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
    });
    parts.owner_and_xattrs(mode_that_counts(node), node.uid, node.gid, xattrs);
    match &node.kind {
        NodeKind::File { size } => {
            parts.number(*size);
        }
        NodeKind::Symlink { target } => {
            parts.bytes(target.as_encoded_bytes());
        }
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            parts.number((*major).into()).number((*minor).into());
        }
        NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => {}
    }
    if let Some(bytes) = bytes {
        parts.bytes(bytes);
    }
    ContentHash(parts.finish())
}

/// The content hash of a directory: its own metadata and its entries in the order of their names.
pub(crate) fn directory<'a>(
    node: &Node,
    xattrs: &Xattrs,
    entries: impl Iterator<Item = (&'a [u8], ContentHash)>,
) -> ContentHash {
    let mut parts = Parts::new("directory");
    parts.bytes(&leaf(node, xattrs, None).0);
    for (name, hash) in entries {
        parts.bytes(name).bytes(&hash.0);
    }
    ContentHash(parts.finish())
}

/// The storage key of a regular file, from its metadata and the hash of its bytes.
pub(crate) fn file_key(meta: &FileMeta, bytes: &[u8; 32]) -> FileKey {
    let mut parts = Parts::new("stored file");
    parts
        .owner_and_xattrs(meta.mode, meta.uid, meta.gid, &meta.xattrs)
        .number(meta.mtime_ns.cast_unsigned())
        .bytes(bytes);
    FileKey(parts.finish())
}

/// The metadata that a stored file carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileMeta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in ns since the epoch.
    pub mtime_ns: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The permission bits of a symbolic link mean nothing and differ between systems.
fn mode_that_counts(node: &Node) -> u32 {
    if node.is_symlink() { 0o777 } else { node.mode }
}
