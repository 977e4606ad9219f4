//! Receives a client's directory and makes a tree of it, asking only for files it does not know.
//!
//! The list is compared with the tree received last for the same key as it comes in. What looks the same is taken from
//! there; the rest is fetched into the store. The objects are made at the end, when every file is in place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::Stat;
use cairn_session::fsutil::{BoxError, Decision, ReceiveSink};
use cairn_session::mode;
use cairn_solver::llb::Differ;

use super::dir::{self, Body, Dir, Entry, FileBody};
use super::error::TreeError;
use super::files::Stored;
use super::identity::{FileMeta, TreeDigest};
use super::intake::Intake;
use super::node::{NodeKind, is_portable_xattr};
use super::pins::Arriving;
use super::store::{NewTree, Tree, TreeStore};

/// Under which key earlier transfers of a directory are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey {
    name: String,
    text: String,
}

impl SourceKey {
    /// `name` is the directory's name, `hint` the source's shared key hint, `shared` the session's shared key.
    pub fn new(name: &str, hint: &str, shared: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: format!("{}:{name}:{}:{hint}:{shared}", name.len(), hint.len()),
        }
    }

    /// Name of the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// One transfer into the store. Give it to `cairn_session::fsutil::receive`, then take the tree out.
///
/// Nothing of a transfer that is dropped half way becomes visible.
pub struct Receiver {
    store: TreeStore,
    key: SourceKey,
    differ: Differ,
    /// Kept open until the new tree is recorded: it holds the files that are taken over.
    previous: Option<Tree>,
    arriving: Arc<Arriving>,
    intake: Option<Intake>,
    items: Vec<Item>,
    /// The directories down to the current one; the root comes first.
    levels: Vec<Level>,
    /// By path, the regular files so far; kept only from the first hard link on.
    files_by_path: Option<HashMap<String, u32>>,
    links: Vec<Link>,
    /// Objects of the previous tree that were looked at.
    known_objects: HashSet<TreeDigest>,
    progress: Option<Box<dyn FnMut(u64) + Send>>,
    tree: Option<Tree>,
}

/// An entry of the list, in the order of the list.
struct Item {
    /// Number of directories above it, the root not counted.
    depth: usize,
    /// Holds `Body::Special` of a file or directory until that is known.
    entry: Arc<Entry>,
}

struct Level {
    name: String,
    previous: Option<Dir>,
}

/// A further name of a file.
struct Link {
    item: u32,
    target: u32,
    path: Arc<str>,
}

impl TreeStore {
    /// Prepares a transfer. `progress` is told of the bytes so far. Blocks.
    pub fn receive(
        &self,
        key: SourceKey,
        differ: Differ,
        progress: Option<Box<dyn FnMut(u64) + Send>>,
    ) -> Result<Receiver, TreeError> {
        let previous = match differ {
            Differ::Metadata => self.latest(&key)?,
            Differ::None => None,
        };
        let top = previous.as_ref().map(Tree::top).transpose()?;
        let arriving = Arc::new(Arriving::new(Arc::clone(&self.0.pins)));
        Ok(Receiver {
            store: self.clone(),
            key,
            differ,
            known_objects: previous.iter().map(Tree::digest).collect(),
            previous,
            arriving,
            intake: None,
            items: Vec::new(),
            levels: vec![Level {
                name: String::new(),
                previous: top,
            }],
            files_by_path: None,
            links: Vec::new(),
            progress,
            tree: None,
        })
    }
}

impl ReceiveSink for Receiver {
    async fn entry(&mut self, index: u32, stat: Stat) -> Result<Decision, BoxError> {
        Ok(self.take(index, stat)?)
    }

    async fn data(&mut self, index: u32, chunk: Bytes) -> Result<(), BoxError> {
        Ok(self.intake().piece(index, chunk).await?)
    }

    async fn end_of_file(&mut self, index: u32) -> Result<(), BoxError> {
        let entry = self.items.get(index as usize).map(|item| &item.entry);
        let meta = entry.map(|entry| file_meta(entry)).ok_or_else(|| unknown(index))?;
        Ok(self.intake().end(index, meta).await?)
    }

    async fn complete(&mut self) -> Result<(), BoxError> {
        let stored = match self.intake.take() {
            Some(intake) => intake.finish().await?,
            None => Vec::new(),
        };
        let assembly = Assembly {
            items: std::mem::take(&mut self.items),
            links: std::mem::take(&mut self.links),
            known_objects: std::mem::take(&mut self.known_objects),
            stored,
        };
        let (store, key, arriving) = (self.store.clone(), self.key.clone(), Arc::clone(&self.arriving));
        let made = tokio::task::spawn_blocking(move || assembly.record(&store, &key, &arriving)).await;
        self.tree = Some(made.map_err(|_| TreeError::Stopped)??);
        // The new tree now holds what was taken over.
        drop(self.previous.take());
        Ok(())
    }

    fn progress(&mut self, total_bytes: u64) {
        if let Some(progress) = &mut self.progress {
            progress(total_bytes);
        }
    }
}

impl Receiver {
    /// The tree that was received; `None` if the transfer did not complete.
    pub fn into_tree(self) -> Option<Tree> {
        self.tree
    }

    fn intake(&mut self) -> &mut Intake {
        self.intake
            .get_or_insert_with(|| Intake::start(&self.store, &self.arriving))
    }

    // Reads an object of the previous tree once per directory, from the database's cache: not worth a thread switch.
    fn take(&mut self, index: u32, stat: Stat) -> Result<Decision, TreeError> {
        if index as usize != self.items.len() {
            return Err(unknown(index));
        }
        let invalid = |reason| TreeError::Protocol {
            path: stat.path.clone(),
            reason,
        };
        let name = self
            .descend(&stat.path)
            .ok_or_else(|| invalid("not in the current directory"))?;
        let st_mode = mode::to_unix(stat.mode).ok_or_else(|| invalid("unknown type of file"))?;
        let kind = kind_of(st_mode, &stat).ok_or_else(|| invalid("unknown type of file"))?;
        let level = self.levels.last().expect("the root stays");
        let before = level
            .previous
            .as_ref()
            .and_then(|dir| dir.get(name.as_bytes()))
            .cloned();
        let is_link = matches!(kind, NodeKind::File { .. }) && !stat.linkname.is_empty();
        let fetch = matches!(kind, NodeKind::File { .. }) && !is_link;
        let xattrs = stat.xattrs.iter().filter(|(name, _)| is_portable_xattr(name));
        let entry = Entry {
            name: OsString::from(name),
            mode: st_mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            mtime_ns: stat.mod_time,
            xattrs: xattrs.map(|(name, value)| (name.clone(), value.to_vec())).collect(),
            body: Body::Special(kind),
        };
        let depth = self.levels.len() - 1;
        if let Some(files) = &mut self.files_by_path
            && matches!(entry.body, Body::Special(NodeKind::File { .. }))
        {
            files.insert(stat.path.clone(), index);
        }
        if fetch
            && self.differ == Differ::Metadata
            && let Some(before) = before
                .as_ref()
                .filter(|before| is_unchanged(before, &entry, &stat.path))
        {
            self.items.push(Item {
                depth,
                entry: Arc::clone(before),
            });
            return Ok(Decision::Skip);
        }
        if entry.body == Body::Special(NodeKind::Dir) {
            self.open_level(&entry, before.as_deref())?;
        }
        self.items.push(Item {
            depth,
            entry: Arc::new(entry),
        });
        if is_link {
            self.link(index, &stat)?;
        }
        Ok(if fetch { Decision::Fetch } else { Decision::Skip })
    }

    /// Makes the directory that `path` lies in the current one; returns the path's last element.
    fn descend<'p>(&mut self, path: &'p str) -> Option<&'p str> {
        let mut parts = path.split('/');
        let name = parts.next_back()?;
        let mut depth = 0;
        for part in parts {
            depth += 1;
            if self.levels.get(depth).is_none_or(|level| level.name != part) {
                return None;
            }
        }
        self.levels.truncate(depth + 1);
        Some(name)
    }

    fn open_level(&mut self, entry: &Entry, before: Option<&Entry>) -> Result<(), TreeError> {
        let previous = match before.map(|before| &before.body) {
            Some(Body::Dir { digest, .. }) => {
                self.known_objects.insert(*digest);
                Some(self.store.object(*digest)?)
            }
            _ => None,
        };
        let name = entry.name.to_string_lossy().into_owned();
        self.levels.push(Level { name, previous });
        Ok(())
    }

    fn link(&mut self, index: u32, stat: &Stat) -> Result<(), TreeError> {
        let files = self.files_by_path.get_or_insert_with(|| files_by_path(&self.items));
        let target = files.get(&stat.linkname).copied().filter(|target| *target < index);
        let target = target.ok_or_else(|| TreeError::Protocol {
            path: stat.path.clone(),
            reason: "hard link to a file that was not sent before",
        })?;
        self.links.push(Link {
            item: index,
            target,
            path: stat.linkname.as_str().into(),
        });
        Ok(())
    }
}

fn unknown(index: u32) -> TreeError {
    TreeError::Protocol {
        path: format!("file id {index}"),
        reason: "unexpected file id",
    }
}

fn kind_of(st_mode: u32, stat: &Stat) -> Option<NodeKind> {
    let device = || Some((u32::try_from(stat.devmajor).ok()?, u32::try_from(stat.devminor).ok()?));
    Some(match st_mode & libc::S_IFMT {
        libc::S_IFREG => NodeKind::File {
            size: u64::try_from(stat.size).ok()?,
        },
        libc::S_IFDIR => NodeKind::Dir,
        libc::S_IFLNK => NodeKind::Symlink {
            target: OsString::from(&stat.linkname),
        },
        libc::S_IFIFO => NodeKind::Fifo,
        libc::S_IFSOCK => NodeKind::Socket,
        libc::S_IFCHR => device().map(|(major, minor)| NodeKind::CharDevice { major, minor })?,
        libc::S_IFBLK => device().map(|(major, minor)| NodeKind::BlockDevice { major, minor })?,
        _ => return None,
    })
}

/// Whether the regular file at `path`, now described by `now`, is the one received before.
fn is_unchanged(before: &Entry, now: &Entry, path: &str) -> bool {
    let (Body::File(file), Body::Special(NodeKind::File { size })) = (&before.body, &now.body) else {
        return false;
    };
    let was_link = file.group.as_deref().is_some_and(|first| first != path);
    !was_link
        && file.size == *size
        && (before.mode, before.uid, before.gid, before.mtime_ns) == (now.mode, now.uid, now.gid, now.mtime_ns)
        && before.xattrs == now.xattrs
}

fn file_meta(entry: &Entry) -> FileMeta {
    FileMeta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_ns: entry.mtime_ns,
        xattrs: entry.xattrs.clone(),
    }
}

fn is_regular(entry: &Entry) -> bool {
    matches!(entry.body, Body::File(_) | Body::Special(NodeKind::File { .. }))
}

/// The paths of the regular files in a list.
fn files_by_path(items: &[Item]) -> HashMap<String, u32> {
    let mut files = HashMap::new();
    let mut names: Vec<String> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        names.truncate(item.depth);
        names.push(item.entry.name.to_string_lossy().into_owned());
        if is_regular(&item.entry) {
            files.insert(names.join("/"), index as u32);
        }
    }
    files
}

/// Everything received, to be made into objects.
struct Assembly {
    items: Vec<Item>,
    links: Vec<Link>,
    known_objects: HashSet<TreeDigest>,
    stored: Vec<(u32, Stored)>,
}

impl Assembly {
    fn record(mut self, store: &TreeStore, key: &SourceKey, arriving: &Arriving) -> Result<Tree, TreeError> {
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
