//! Sends files to a client's directory: a mounted root or a tree as what the session's sender reads.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use cairn_proto::fsutil::{Stat, Xattr};
use cairn_session::fsutil::{BoxError, Tree};
use cairn_session::mode;
use jiff::Timestamp;

use super::dir::Body;
use super::error::TreeError;
use super::node::{Node, NodeKind, Origin};
use super::view::{self, Links, Located, View};
use crate::sys::root::move_link;

/// Mode of directories that are made to hold a result.
const DIR_MODE: u32 = libc::S_IFDIR | 0o755;
/// Mode of files that are added to a result.
const FILE_MODE: u32 = libc::S_IFREG | 0o600;

/// Results to send into one directory of a client.
#[derive(Default)]
pub struct ViewSender {
    /// By the name of the directory each goes to; empty for the target itself.
    parts: BTreeMap<OsString, Part>,
    /// Modification time of everything, in nanoseconds; `None` leaves them as they are.
    date: Option<i64>,
}

#[derive(Default)]
struct Part {
    view: Option<Arc<dyn View>>,
    /// Additional files at the top, by name. They replace those of the view.
    files: BTreeMap<OsString, Added>,
}

/// A file that is added to a result.
struct Added {
    data: Bytes,
    mtime_ns: i64,
}

impl Added {
    fn stat(&self, path: Vec<u8>) -> Stat {
        let mut stat = stat(path, FILE_MODE, self.data.len() as u64);
        stat.mod_time = self.mtime_ns;
        stat
    }
}

impl ViewSender {
    /// Sends `view` to the target itself.
    pub fn new(view: Arc<dyn View>) -> Self {
        Self::default().with_view("", view)
    }

    /// Sends `view` to the directory `dir` of the target, such as `linux_amd64`; empty for the target itself.
    #[must_use]
    pub fn with_view(mut self, dir: &str, view: Arc<dyn View>) -> Self {
        self.parts.entry(dir.into()).or_default().view = Some(view);
        self
    }

    /// Adds a file `name` to `dir`.
    #[must_use]
    pub fn with_file(mut self, dir: &str, name: &str, data: Bytes) -> Self {
        self.parts.entry(dir.into()).or_default().files.insert(
            name.into(),
            Added {
                data,
                mtime_ns: nanoseconds(Timestamp::now()),
            },
        );
        self
    }

    /// Gives everything the same modification time.
    #[must_use]
    pub fn dated(mut self, date: Timestamp) -> Self {
        self.date = Some(nanoseconds(date));
        self
    }

    /// The part that holds `path`, and the rest of the path. A path in no part's directory is in the target itself.
    fn part_of<'p>(&self, path: &'p Path) -> Option<(&Part, &'p Path)> {
        let mut names = path.iter();
        let dir = names.next().filter(|_| names.clone().next().is_some());
        let inner = dir.and_then(|dir| Some((self.parts.get(dir)?, names.as_path())));
        inner.or_else(|| Some((self.parts.get(OsStr::new(""))?, path)))
    }
}

impl Tree for ViewSender {
    fn walk(&self, emit: &mut dyn FnMut(Stat) -> bool) -> Result<(), BoxError> {
        // The target's own entries and the parts' directories are siblings, and siblings go in order.
        let mut tops: BTreeMap<OsString, Top<'_>> = BTreeMap::new();
        if let Some(part) = self.parts.get(OsStr::new("")) {
            tops = entries_of(part)?;
        }
        for (dir, part) in self.parts.iter().filter(|(dir, _)| !dir.is_empty()) {
            tops.insert(dir.clone(), Top::Part(part));
        }
        let mut dated = |mut stat: Stat| {
            stat.mod_time = self.date.unwrap_or(stat.mod_time);
            emit(stat)
        };
        let mut walk = Walk {
            emit: &mut dated,
            links: HashMap::new(),
        };
        for (name, top) in tops {
            if !walk.top(&name, top)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read + Send>>> {
        let Some((part, rest)) = self.part_of(path) else {
            return Ok(None);
        };
        if let Some(added) = part.files.get(rest.as_os_str()) {
            return Ok(Some(Box::new(added.data.clone().reader())));
        }
        let Some(view) = part.view.as_deref() else {
            return Ok(None);
        };
        match view::find(view, rest, Links::Keep)? {
            Some(found) if found.node.is_file() => Ok(Some(Box::new(view.open(&found)?))),
            // Sockets are announced as empty files.
            Some(_) | None => Ok(None),
        }
    }
}

/// Something at the top of a part.
enum Top<'a> {
    Part(&'a Part),
    Added(&'a Added),
    View(&'a dyn View, Located),
}

fn entries_of(part: &Part) -> Result<BTreeMap<OsString, Top<'_>>, TreeError> {
    let mut tops = BTreeMap::new();
    if let Some(view) = part.view.as_deref() {
        let failed = |source| TreeError::Read {
            path: "/".to_owned(),
            source,
        };
        let top = Located {
            path: Default::default(),
            node: view.root().map_err(failed)?,
        };
        for child in view::children(view, &top).map_err(failed)? {
            tops.insert(child.path.clone().into_os_string(), Top::View(view, child));
        }
    }
    tops.extend(part.files.iter().map(|(name, added)| (name.clone(), Top::Added(added))));
    Ok(tops)
}

struct Walk<'e> {
    emit: &'e mut dyn FnMut(Stat) -> bool,
    /// First path of each file of the current result that has several.
    links: HashMap<FileId, Vec<u8>>,
}

#[derive(PartialEq, Eq, Hash)]
enum FileId {
    Inode(u64, u64),
    Group(Arc<Path>),
}

impl Walk<'_> {
    /// Sends what is at the top of the target under `name`; false once nobody listens.
    fn top(&mut self, name: &OsStr, top: Top<'_>) -> Result<bool, TreeError> {
        match top {
            Top::Added(added) => Ok((self.emit)(added.stat(name.as_bytes().to_owned()))),
            Top::View(view, at) => self.view(view, b"", at),
            Top::Part(part) => {
                if !(self.emit)(stat(name.as_bytes().to_owned(), DIR_MODE, 0)) {
                    return Ok(false);
                }
                let prefix = [name.as_bytes(), b"/"].concat();
                // Links do not lead from one result to another, nor back to those of the target itself.
                let outer = std::mem::take(&mut self.links);
                for (inner, top) in entries_of(part)? {
                    let go_on = match top {
                        Top::View(view, at) => self.view(view, &prefix, at)?,
                        Top::Added(added) => (self.emit)(added.stat([&prefix, inner.as_bytes()].concat())),
                        Top::Part(_) => true,
                    };
                    if !go_on {
                        return Ok(false);
                    }
                }
                self.links = outer;
                Ok(true)
            }
        }
    }

    /// Sends `start` and everything below it.
    fn view(&mut self, view: &dyn View, prefix: &[u8], start: Located) -> Result<bool, TreeError> {
        let mut pending = vec![start];
        while let Some(at) = pending.pop() {
            let failed = |source| TreeError::Read {
                path: format!("/{}", at.path.display()),
                source,
            };
            let stat = self.describe(view, &at, prefix).map_err(failed)?;
            if !(self.emit)(stat) {
                return Ok(false);
            }
            if at.node.is_dir() {
                pending.extend(view::children(view, &at).map_err(failed)?.into_iter().rev());
            }
        }
        Ok(true)
    }

    fn describe(&mut self, view: &dyn View, at: &Located, prefix: &[u8]) -> io::Result<Stat> {
        let node = &at.node;
        let path = [prefix, at.path.as_os_str().as_bytes()].concat();
        let mut stat = stat(path, node.st_mode(), node.size());
        (stat.uid, stat.gid, stat.mod_time) = (node.uid, node.gid, node.mtime_ns);
        match &node.kind {
            NodeKind::Symlink { target } => {
                stat.linkname = move_link(prefix, target).into_vec();
                stat.size = stat.linkname.len() as i64;
            }
            NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                (stat.devmajor, stat.devminor) = ((*major).into(), (*minor).into());
            }
            // As other senders do: the protocol has no sockets.
            NodeKind::Socket => stat.mode &= !mode::SOCKET,
            NodeKind::File { .. } => {
                if let Some(id) = file_id(node) {
                    match self.links.entry(id) {
                        Entry::Occupied(first) => stat.linkname.clone_from(first.get()),
                        Entry::Vacant(free) => drop(free.insert(stat.path.clone())),
                    }
                }
            }
            NodeKind::Dir | NodeKind::Fifo => {}
        }
        if node.is_file() || node.is_dir() {
            let xattrs = view.xattrs(at)?.into_iter().map(|(name, value)| Xattr {
                name: name.into_vec(),
                value: value.into(),
            });
            stat.xattrs = xattrs.collect();
        }
        Ok(stat)
    }
}

/// What tells whether two names stand for one file; `None` if there is only this name.
fn file_id(node: &Node) -> Option<FileId> {
    match &node.origin {
        Origin::Inode { dev, ino, links } => (*links > 1).then_some(FileId::Inode(*dev, *ino)),
        Origin::Tree(entry) => match &entry.body {
            Body::File(file) => file.group.clone().map(FileId::Group),
            Body::Dir { .. } | Body::Special(_) => None,
        },
        Origin::TreeRoot => None,
    }
}

fn stat(path: Vec<u8>, st_mode: u32, size: u64) -> Stat {
    Stat {
        path,
        mode: mode::from_unix(st_mode),
        size: size.try_into().unwrap_or(i64::MAX),
        ..Stat::default()
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
