//! Directory objects: what a tree is made of, and how they are written down.
//!
//! A directory object lists its entries in the order of their names, with everything needed to make them again; a
//! subdirectory is named by the digest of its own object. The digest of an object is the blake3 of its bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::codec::{Malformed, Reader, Writer};
use super::identity::{self, ContentHash, FileKey, TreeDigest};
use super::node::{Node, NodeKind, Origin, Xattrs};

/// First byte of every object; another one means another format.
const VERSION: u8 = 1;

/// A directory.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    /// In the order of the names' bytes.
    pub entries: Vec<Arc<Entry>>,
}

/// A name in a directory, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One path element.
    pub name: OsString,
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
    /// The rest.
    pub body: Body,
}

/// What an entry stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A directory with its own object.
    Dir {
        /// The object.
        digest: TreeDigest,
        /// Content hash of everything below, and of the directory itself.
        content: ContentHash,
    },
    /// A regular file in the store.
    File(FileBody),
    /// Anything that is whole with its metadata: links, devices, pipes, sockets.
    Special(NodeKind),
}

/// A regular file in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBody {
    /// Where it is.
    pub key: FileKey,
    /// blake3 of its bytes.
    pub bytes: [u8; 32],
    /// How many there are.
    pub size: u64,
    /// Files of one tree with the same group are names of one file. It is the path of the first of them.
    pub group: Option<Arc<Path>>,
}

impl Entry {
    /// The entry as a node.
    pub fn node(self: &Arc<Self>) -> Node {
        Node {
            kind: match &self.body {
                Body::Dir { .. } => NodeKind::Dir,
                Body::File(file) => NodeKind::File { size: file.size },
                Body::Special(kind) => kind.clone(),
            },
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime_ns: self.mtime_ns,
            origin: Origin::Tree(Arc::clone(self)),
        }
    }

    /// The content hash of the entry and everything below it.
    pub fn content(self: &Arc<Self>) -> ContentHash {
        match &self.body {
            Body::Dir { content, .. } => *content,
            Body::File(file) => identity::leaf(&self.node(), &self.xattrs, Some(&file.bytes)),
            Body::Special(_) => identity::leaf(&self.node(), &self.xattrs, None),
        }
    }
}

impl Dir {
    /// The entry of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Entry>> {
        let found = self.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name));
        found.ok().map(|at| &self.entries[at])
    }

    /// The content hash of a directory with these entries that itself looks like `node`.
    pub(crate) fn content(&self, node: &Node, xattrs: &Xattrs) -> ContentHash {
        let entries = self.entries.iter();
        identity::directory(node, xattrs, entries.map(|e| (e.name.as_bytes(), e.content())))
    }

    /// The object's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.byte(VERSION);
        out.number(self.entries.len() as u64);
        for entry in &self.entries {
            encode_entry(&mut out, entry);
        }
        out.into_bytes()
    }

    /// Reads an object's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        if input.byte()? != VERSION {
            return Err(Malformed);
        }
        let count = input.number()?;
        let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / 8));
        for _ in 0..count {
            entries.push(Arc::new(decode_entry(&mut input)?));
        }
        input.end()?;
        Ok(Self { entries })
    }
}

/// The digest of an object's bytes.
pub(crate) fn digest(object: &[u8]) -> TreeDigest {
    TreeDigest(*blake3::hash(object).as_bytes())
}

fn encode_entry(out: &mut Writer, entry: &Entry) {
    out.bytes(entry.name.as_bytes());
    out.number(entry.mode.into());
    out.number(entry.uid.into());
    out.number(entry.gid.into());
    out.signed(entry.mtime_ns);
    out.number(entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        out.bytes(name.as_bytes());
        out.bytes(value);
    }
    match &entry.body {
        Body::Dir { digest, content } => {
            out.byte(b'd');
            out.hash(&digest.0);
            out.hash(&content.0);
        }
        Body::File(file) => {
            out.byte(if file.group.is_some() { b'h' } else { b'f' });
            out.hash(&file.key.0);
            out.hash(&file.bytes);
            out.number(file.size);
            if let Some(group) = &file.group {
                out.bytes(group.as_os_str().as_bytes());
            }
        }
        Body::Special(kind) => encode_special(out, kind),
    }
}

fn encode_special(out: &mut Writer, kind: &NodeKind) {
    match kind {
        NodeKind::Symlink { target } => {
            out.byte(b'l');
            out.bytes(target.as_bytes());
        }
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            let is_block = matches!(kind, NodeKind::BlockDevice { .. });
            out.byte(if is_block { b'b' } else { b'c' });
            out.number((*major).into());
            out.number((*minor).into());
        }
        NodeKind::Fifo => out.byte(b'p'),
        NodeKind::Socket | NodeKind::Dir | NodeKind::File { .. } => out.byte(b's'),
    }
}

fn decode_entry(input: &mut Reader<'_>) -> Result<Entry, Malformed> {
    let name = input.name()?.to_owned();
    let (mode, uid, gid) = (input.number32()?, input.number32()?, input.number32()?);
    let mtime_ns = input.signed()?;
    let mut xattrs = Xattrs::new();
    for _ in 0..input.number()? {
        let name = input.name()?.to_owned();
        xattrs.insert(name, input.bytes()?.to_vec());
    }
    let body = match input.byte()? {
        b'd' => Body::Dir {
            digest: TreeDigest(input.hash()?),
            content: ContentHash(input.hash()?),
        },
        tag @ (b'f' | b'h') => Body::File(FileBody {
            key: FileKey(input.hash()?),
            bytes: input.hash()?,
            size: input.number()?,
            group: match tag {
                b'h' => Some(Path::new(input.name()?).into()),
                _ => None,
            },
        }),
        b'l' => Body::Special(NodeKind::Symlink {
            target: input.name()?.to_owned(),
        }),
        b'c' => Body::Special(NodeKind::CharDevice {
            major: input.number32()?,
            minor: input.number32()?,
        }),
        b'b' => Body::Special(NodeKind::BlockDevice {
            major: input.number32()?,
            minor: input.number32()?,
        }),
        b'p' => Body::Special(NodeKind::Fifo),
        b's' => Body::Special(NodeKind::Socket),
        _ => return Err(Malformed),
    };
    Ok(Entry {
        name,
        mode,
        uid,
        gid,
        mtime_ns,
        xattrs,
        body,
    })
}
