//! An open tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::dir::{self, Body, Dir, FileBody};
use super::error::TreeError;
use super::files::FileStore;
use super::identity::{ContentHash, TreeDigest};
use super::node::{Node, NodeKind, Origin, Xattrs};
use super::store::TreeStore;
use super::view::{Located, View};

/// A tree, kept from collection for as long as a clone of this lives.
#[derive(Clone, Debug)]
pub struct Tree(Arc<Pinned>);

#[derive(Debug)]
struct Pinned {
    store: TreeStore,
    digest: TreeDigest,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.store.0.pins.unpin(&self.digest);
    }
}

impl Tree {
    /// Opens a tree that is known to be there.
    pub(super) fn pin(store: TreeStore, digest: TreeDigest) -> Self {
        store.0.pins.pin(digest);
        Self(Arc::new(Pinned { store, digest }))
    }

    /// Names the tree, times included.
    pub fn digest(&self) -> TreeDigest {
        self.0.digest
    }

    /// The store it is in.
    pub fn store(&self) -> &TreeStore {
        &self.0.store
    }

    /// The root directory.
    pub fn top(&self) -> Result<Dir, TreeError> {
        self.0.store.object(self.0.digest)
    }

    /// What a build can see of it: everything but times.
    pub fn content(&self) -> Result<ContentHash, TreeError> {
        Ok(self.top()?.content(&top_node(), &Xattrs::new()))
    }

    pub(super) fn dir(&self, node: &Node) -> Result<Dir, TreeError> {
        match &node.origin {
            Origin::Tree(entry) => match &entry.body {
                Body::Dir { digest, .. } => self.0.store.object(*digest),
                Body::File(_) | Body::Special(_) => Ok(Dir::default()),
            },
            Origin::TreeRoot | Origin::Inode { .. } => self.top(),
        }
    }
}

/// The root of every tree, which clients do not describe.
pub(super) fn top_node() -> Node {
    Node {
        kind: NodeKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        origin: Origin::TreeRoot,
    }
}

impl View for Tree {
    fn root(&self) -> io::Result<Node> {
        Ok(top_node())
    }

    fn child(&self, dir: &Located, name: &OsStr) -> io::Result<Option<Node>> {
        Ok(self.dir(&dir.node)?.get(name.as_encoded_bytes()).map(dir::Entry::node))
    }

    fn list(&self, dir: &Located) -> io::Result<Vec<(OsString, Node)>> {
        let entries = self.dir(&dir.node)?.entries;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.name.clone(), entry.node()))
            .collect())
    }

    fn xattrs(&self, at: &Located) -> io::Result<Xattrs> {
        Ok(match &at.node.origin {
            Origin::Tree(entry) => entry.xattrs.clone(),
            Origin::TreeRoot | Origin::Inode { .. } => Xattrs::new(),
        })
    }

    fn open(&self, at: &Located) -> io::Result<File> {
        self.0.store.0.files.read(&file_body(&at.node)?.key)
    }

    fn bytes_hash(&self, at: &Located) -> io::Result<[u8; 32]> {
        Ok(file_body(&at.node)?.bytes)
    }

    fn known_content(&self, node: &Node) -> Option<ContentHash> {
        match &node.origin {
            Origin::Tree(entry) => Some(entry.content()),
            Origin::TreeRoot => self.content().ok(),
            Origin::Inode { .. } => None,
        }
    }

    fn stored<'a>(&'a self, node: &'a Node) -> Option<(&'a FileStore, &'a FileBody)> {
        Some((&self.0.store.0.files, file_body(node).ok()?))
    }
}

fn file_body(node: &Node) -> io::Result<&FileBody> {
    match &node.origin {
        Origin::Tree(entry) => match &entry.body {
            Body::File(file) => Ok(file),
            Body::Dir { .. } => Err(rustix::io::Errno::ISDIR.into()),
            Body::Special(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        },
        Origin::TreeRoot | Origin::Inode { .. } => Err(rustix::io::Errno::ISDIR.into()),
    }
}
