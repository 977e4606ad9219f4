//! Receives a client's directory and makes a tree of it, asking only for files it does not know.
//!
//! The list is compared with the tree received last for the same key as it comes in. What looks the same is taken from
//! there; the rest is fetched into the store. The objects are made at the end, when every file is in place.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::Stat;
use cairn_session::fsutil::{BoxError, Decision, ReceiveSink};
use cairn_session::mode;
use cairn_solver::llb::Differ;

use super::assembly::{Assembly, Item, Link};
use super::dir::{Body, Dir, Entry};
use super::error::TreeError;
use super::handle::Tree;
use super::identity::{FileMeta, TreeDigest};
use super::intake::Intake;
use super::node::{NodeKind, is_portable_xattr};
use super::pins::Arriving;
use super::store::TreeStore;

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

    /// The key of transfers in which most files are only listed.
    #[must_use]
    pub fn of_list(mut self) -> Self {
        self.text.push_str(":metadata");
        self
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
    files_by_path: Option<HashMap<PathBuf, u32>>,
    links: Vec<Link>,
    /// Objects of the previous tree that were looked at.
    known_objects: HashSet<TreeDigest>,
    progress: Option<Box<dyn FnMut(u64) + Send>>,
    tree: Option<Tree>,
}

struct Level {
    name: OsString,
    previous: Option<Dir>,
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
                name: OsString::new(),
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
            path: stat.path().display().to_string(),
            reason,
        };
        let name = self
            .descend(stat.path())
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
        let xattrs = stat.xattrs.iter().filter(|xattr| is_portable_xattr(xattr.name()));
        let entry = Entry {
            name: name.to_owned(),
            mode: st_mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            mtime_ns: stat.mod_time,
            xattrs: xattrs
                .map(|xattr| (xattr.name().to_owned(), xattr.value.to_vec()))
                .collect(),
            body: Body::Special(kind),
        };
        let depth = self.levels.len() - 1;
        if let Some(files) = &mut self.files_by_path
            && matches!(entry.body, Body::Special(NodeKind::File { .. }))
        {
            files.insert(stat.path().to_owned(), index);
        }
        if fetch
            && self.differ == Differ::Metadata
            && let Some(before) = before
                .as_ref()
                .filter(|before| is_unchanged(before, &entry, stat.path()))
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
    fn descend<'p>(&mut self, path: &'p Path) -> Option<&'p OsStr> {
        let mut parts = path.iter();
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
        let name = entry.name.clone();
        self.levels.push(Level { name, previous });
        Ok(())
    }

    fn link(&mut self, index: u32, stat: &Stat) -> Result<(), TreeError> {
        let files = self.files_by_path.get_or_insert_with(|| files_by_path(&self.items));
        let target = files.get(stat.linkname()).copied().filter(|target| *target < index);
        let target = target.ok_or_else(|| TreeError::Protocol {
            path: stat.path().display().to_string(),
            reason: "hard link to a file that was not sent before",
        })?;
        self.links.push(Link {
            item: index,
            target,
            path: stat.linkname().into(),
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
            target: stat.linkname().into(),
        },
        libc::S_IFIFO => NodeKind::Fifo,
        libc::S_IFSOCK => NodeKind::Socket,
        libc::S_IFCHR => device().map(|(major, minor)| NodeKind::CharDevice { major, minor })?,
        libc::S_IFBLK => device().map(|(major, minor)| NodeKind::BlockDevice { major, minor })?,
        _ => return None,
    })
}

/// Whether the regular file at `path`, now described by `now`, is the one received before.
fn is_unchanged(before: &Entry, now: &Entry, path: &Path) -> bool {
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
fn files_by_path(items: &[Item]) -> HashMap<PathBuf, u32> {
    let mut files = HashMap::new();
    let mut names: Vec<&OsStr> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        names.truncate(item.depth);
        names.push(&item.entry.name);
        if is_regular(&item.entry) {
            files.insert(names.iter().collect(), index as u32);
        }
    }
    files
}
