//! Files to read, in one way, whether they are in a tree or under a mounted root.
//!
//! [`View`] is what checksums and copies read from. [`resolve`] walks a path in anything that can look up a name in a
//! directory ([`Lookup`]); symbolic links are followed by this code and never lead outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cairn_solver::worker::FileStat;

use super::dir::FileBody;
use super::files::FileStore;
use super::identity::ContentHash;
use super::node::{Node, NodeKind, Xattrs};

mod root;

pub(crate) use root::node_of;

/// Symbolic links followed in one path; the kernel's limit.
const MAX_LINKS: usize = 40;

/// A file in a view, by its path without symbolic links, relative to the view's root.
#[derive(Clone, Debug)]
pub struct Located {
    /// Empty for the root.
    pub path: PathBuf,
    /// What is there.
    pub node: Node,
}

/// Files that can be read. Paths handed to it are ones it gave out, so they hold no symbolic links.
pub trait View: Send + Sync {
    /// The root directory.
    fn root(&self) -> io::Result<Node>;

    /// The entry `name` of a directory.
    fn child(&self, dir: &Located, name: &OsStr) -> io::Result<Option<Node>>;

    /// The entries of a directory in the order of their names' bytes.
    fn list(&self, dir: &Located) -> io::Result<Vec<(OsString, Node)>>;

    /// The extended attributes that belong to the content; see [`super::node::is_portable_xattr`].
    fn xattrs(&self, at: &Located) -> io::Result<Xattrs>;

    /// Opens a regular file.
    fn open(&self, at: &Located) -> io::Result<File>;

    /// blake3 of a regular file's bytes.
    fn bytes_hash(&self, at: &Located) -> io::Result<[u8; 32]>;

    /// The content hash of a file and everything below, where that is known without looking.
    fn known_content(&self, _node: &Node) -> Option<ContentHash> {
        None
    }

    /// The stored file that a regular file is, if it is one.
    fn stored<'a>(&'a self, _node: &'a Node) -> Option<(&'a FileStore, &'a FileBody)> {
        None
    }
}

/// Whether a symbolic link at the end of a path is followed. Those before it always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// It is.
    Follow,
    /// It is what the path stands for.
    Keep,
}

/// Finds what `path` leads to; `None` if that is not there.
pub fn find(view: &dyn View, path: &Path, links: Links) -> io::Result<Option<Located>> {
    let walked = match resolve(&view, path, links) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        walked => walked?,
    };
    Ok(walked.found.map(|node| Located {
        path: walked.path,
        node,
    }))
}

/// A file's metadata as frontends see it.
pub fn file_stat(view: &dyn View, at: &Located) -> io::Result<FileStat> {
    let node = &at.node;
    let has_xattrs = node.is_dir() || node.is_file();
    let (link_target, device) = match &node.kind {
        NodeKind::Symlink { target } => (target.clone(), (0, 0)),
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            (OsString::new(), (*major, *minor))
        }
        _ => (OsString::new(), (0, 0)),
    };
    Ok(FileStat {
        path: at.path.file_name().unwrap_or_default().to_owned(),
        mode: node.st_mode(),
        uid: node.uid,
        gid: node.gid,
        size: match &node.kind {
            // As the system tells it.
            NodeKind::Symlink { target } => u64::try_from(target.len()).unwrap_or(u64::MAX),
            _ => node.size(),
        },
        mtime_ns: node.mtime_ns,
        link_target,
        device,
        xattrs: if has_xattrs { view.xattrs(at)? } else { Xattrs::new() },
    })
}

/// The children of a directory in a view, located.
pub fn children(view: &dyn View, dir: &Located) -> io::Result<Vec<Located>> {
    let children = view.list(dir)?;
    let located = children.into_iter().map(|(name, node)| Located {
        path: dir.path.join(name),
        node,
    });
    Ok(located.collect())
}

/// Something names can be looked up in, directory by directory.
pub(crate) trait Lookup {
    /// An open directory.
    type Dir;
    /// The root directory, and what it looks like.
    fn top(&self) -> io::Result<(Self::Dir, Node)>;
    /// The entry `name` of `dir`.
    fn child(&self, dir: &Self::Dir, name: &OsStr) -> io::Result<Option<Node>>;
    /// The directory `name` of `dir`, which is `node`.
    fn enter(&self, dir: &Self::Dir, name: &OsStr, node: &Node) -> io::Result<Self::Dir>;
}

impl Lookup for &dyn View {
    type Dir = Located;

    fn top(&self) -> io::Result<(Located, Node)> {
        let node = View::root(*self)?;
        let path = PathBuf::new();
        Ok((
            Located {
                path,
                node: node.clone(),
            },
            node,
        ))
    }

    fn child(&self, dir: &Located, name: &OsStr) -> io::Result<Option<Node>> {
        View::child(*self, dir, name)
    }

    fn enter(&self, dir: &Located, name: &OsStr, node: &Node) -> io::Result<Located> {
        Ok(Located {
            path: dir.path.join(name),
            node: node.clone(),
        })
    }
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    /// The path without symbolic links, including components that are not there.
    pub(crate) path: PathBuf,
    /// What is there.
    pub(crate) found: Option<Node>,
}

/// Walks `path`. Components that are missing are kept, those after them are taken as names.
///
/// # Errors
/// `NotADirectory` if the path goes through a file; `FilesystemLoop` after too many links.
pub(crate) fn resolve<L: Lookup>(lookup: &L, path: &Path, links: Links) -> io::Result<Walked> {
    let (top, top_node) = lookup.top()?;
    // The directories on the way down, each with the name it has in the one before.
    let mut dirs: Vec<(OsString, L::Dir, Node)> = vec![(OsString::new(), top, top_node)];
    let mut missing: Vec<OsString> = Vec::new();
    let mut pending: VecDeque<OsString> = components(path).collect();
    let mut followed = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            if missing.pop().is_none() && dirs.len() > 1 {
                dirs.pop();
            }
            continue;
        }
        let (_, dir, _) = dirs.last().expect("the root is never popped");
        let found = if missing.is_empty() {
            lookup.child(dir, &name)?
        } else {
            None
        };
        let Some(node) = found else {
            missing.push(name);
            continue;
        };
        match &node.kind {
            NodeKind::Symlink { target } if links == Links::Follow || !pending.is_empty() => {
                followed += 1;
                if followed > MAX_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = Path::new(target);
                if target.is_absolute() {
                    dirs.truncate(1);
                }
                for part in components(target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(part);
                }
            }
            NodeKind::Dir => {
                let entered = lookup.enter(dir, &name, &node)?;
                dirs.push((name, entered, node));
            }
            _ if pending.is_empty() => {
                let mut path = join(&dirs, &[]);
                path.push(name);
                return Ok(Walked {
                    path,
                    found: Some(node),
                });
            }
            _ => return Err(rustix::io::Errno::NOTDIR.into()),
        }
    }
    let path = join(&dirs, &missing);
    let found = dirs.pop().map(|(_, _, node)| node);
    Ok(Walked {
        path,
        found: if missing.is_empty() { found } else { None },
    })
}

fn join<D>(dirs: &[(OsString, D, Node)], missing: &[OsString]) -> PathBuf {
    let names = dirs.iter().skip(1).map(|(name, _, _)| name);
    names.chain(missing).collect()
}

/// The parts of a path that matter for a walk: names and `..`.
pub(crate) fn components(path: &Path) -> impl Iterator<Item = OsString> {
    let parts = path.as_os_str().as_bytes().split(|&byte| byte == b'/');
    let kept = parts.filter(|part| !part.is_empty() && *part != b".");
    kept.map(|part| OsStr::from_bytes(part).to_owned())
}

/// Scratch: a root directory with nothing in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Empty;

impl View for Empty {
    fn root(&self) -> io::Result<Node> {
        Ok(super::handle::top_node())
    }

    fn child(&self, _dir: &Located, _name: &OsStr) -> io::Result<Option<Node>> {
        Ok(None)
    }

    fn list(&self, _dir: &Located) -> io::Result<Vec<(OsString, Node)>> {
        Ok(Vec::new())
    }

    fn xattrs(&self, _at: &Located) -> io::Result<Xattrs> {
        Ok(Xattrs::new())
    }

    fn open(&self, _at: &Located) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn bytes_hash(&self, _at: &Located) -> io::Result<[u8; 32]> {
        Err(io::ErrorKind::NotFound.into())
    }
}
