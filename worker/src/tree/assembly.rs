//! Makes a tree of everything a transfer brought.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::dir::{self, Body, Dir, Entry, FileBody};
use super::error::TreeError;
use super::files::Stored;
use super::handle::Tree;
use super::identity::TreeDigest;
use super::node::NodeKind;
use super::pins::Arriving;
use super::receive::SourceKey;
use super::store::{NewTree, TreeStore};

/// An entry of the list, in the order of the list.
pub(super) struct Item {
    /// Number of directories above it, the root not counted.
    pub(super) depth: usize,
    /// Holds `Body::Special` of a file or directory until that is known.
    pub(super) entry: Arc<Entry>,
}

/// A further name of a file.
pub(super) struct Link {
    pub(super) item: u32,
    pub(super) target: u32,
    pub(super) path: Arc<Path>,
}

/// Everything received, to be made into objects.
pub(super) struct Assembly {
    pub(super) items: Vec<Item>,
    pub(super) links: Vec<Link>,
    /// Objects that are there already.
    pub(super) known_objects: HashSet<TreeDigest>,
    pub(super) stored: Vec<(u32, Stored)>,
}

impl Assembly {
    /// Makes the objects and records the tree.
    pub(super) fn record(mut self, store: &TreeStore, key: &SourceKey, arriving: &Arriving) -> Result<Tree, TreeError> {
        self.fill_in_files();
        self.fill_in_links();
        let new = self.fold()?;
        new.objects.keys().for_each(|digest| arriving.register(digest.0));
        let tree = store.pinned(new.digest);
        store.record(key, &new)?;
        Ok(tree)
    }

    fn fill_in_files(&mut self) {
        for (index, stored) in std::mem::take(&mut self.stored) {
            Arc::make_mut(&mut self.items[index as usize].entry).body = Body::File(FileBody {
                key: stored.key,
                bytes: stored.bytes,
                size: stored.size,
                group: None,
            });
        }
    }

    /// Gives all names of one file the same body, and takes groups away that are none any more.
    fn fill_in_links(&mut self) {
        let mut linked = HashSet::new();
        for Link { item, target, path } in std::mem::take(&mut self.links) {
            let target_entry = Arc::make_mut(&mut self.items[target as usize].entry);
            let first = match &mut target_entry.body {
                Body::File(file) => file,
                // The target came with nothing to fetch: a link to a link whose own target is missing.
                Body::Dir { .. } | Body::Special(_) => continue,
            };
            if !linked.contains(&target) {
                first.group = Some(path);
            }
            let (mode, uid, gid, mtime_ns) = (
                target_entry.mode,
                target_entry.uid,
                target_entry.gid,
                target_entry.mtime_ns,
            );
            let (body, xattrs) = (target_entry.body.clone(), target_entry.xattrs.clone());
            let entry = Arc::make_mut(&mut self.items[item as usize].entry);
            *entry = Entry {
                name: entry.name.clone(),
                mode,
                uid,
                gid,
                mtime_ns,
                xattrs,
                body,
            };
            linked.extend([target, item]);
        }
        for (index, item) in self.items.iter_mut().enumerate() {
            if matches!(&item.entry.body, Body::File(file) if file.group.is_some())
                && !linked.contains(&(index as u32))
                && let Body::File(file) = &mut Arc::make_mut(&mut item.entry).body
            {
                file.group = None;
            }
        }
    }

    /// Makes the directory objects, innermost first.
    fn fold(self) -> Result<NewTree, TreeError> {
        let mut folding = Folding {
            open: Vec::new(),
            objects: BTreeMap::new(),
            known: self.known_objects,
        };
        let (mut files, mut bytes) = (0, 0);
        let mut entries = Vec::new();
        for item in self.items {
            while folding.open.len() > item.depth {
                folding.close(&mut entries);
            }
            match &item.entry.body {
                Body::Special(NodeKind::Dir) => {
                    folding.open.push((item.entry, std::mem::take(&mut entries)));
                    continue;
                }
                Body::File(file) => {
                    files += 1;
                    bytes += file.size;
                }
                Body::Special(NodeKind::File { .. }) => {
                    let path = item.entry.name.to_string_lossy().into_owned();
                    return Err(TreeError::Protocol {
                        path,
                        reason: "file without content",
                    });
                }
                Body::Dir { .. } | Body::Special(_) => {}
            }
            entries.push(item.entry);
        }
        while !folding.open.is_empty() {
            folding.close(&mut entries);
        }
        // A list of all files comes before them, whatever it is called.
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let digest = folding.add(&Dir { entries });
        Ok(NewTree {
            digest,
            objects: folding.objects,
            files,
            bytes,
        })
    }
}

struct Folding {
    /// Directories that are not complete, each with the entries of the one around it so far.
    open: Vec<(Arc<Entry>, Vec<Arc<Entry>>)>,
    objects: BTreeMap<TreeDigest, Vec<u8>>,
    known: HashSet<TreeDigest>,
}

impl Folding {
    /// Completes the innermost directory; `entries` becomes those of the one around it.
    fn close(&mut self, entries: &mut Vec<Arc<Entry>>) {
        let Some((mut entry, around)) = self.open.pop() else {
            return;
        };
        let dir = Dir {
            entries: std::mem::replace(entries, around),
        };
        let node = entry.node();
        let content = dir.content(&node, &entry.xattrs);
        drop(node);
        let digest = self.add(&dir);
        Arc::make_mut(&mut entry).body = Body::Dir { digest, content };
        entries.push(entry);
    }

    fn add(&mut self, dir: &Dir) -> TreeDigest {
        let object = dir.encode();
        let digest = dir::digest(&object);
        if !self.known.contains(&digest) {
            self.objects.insert(digest, object);
        }
        digest
    }
}
