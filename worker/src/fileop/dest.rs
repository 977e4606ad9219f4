//! Where changes go: a plain directory, a mount, or a layer that is not mounted yet.
//!
//! In the last case there are two directories: `upper` takes the changes, `lower` shows what is below. Names are looked
//! up in both, as an overlay would do it; a directory that is only below is made in `upper` too, looking the same,
//! before anything is put into it. Nothing is ever hidden here: that needs the mount.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::FileOpError;
use crate::sys::{Metadata, Root, Time, at};
use crate::tree::FileKey;
use crate::tree::node::{Node, is_portable_xattr};
use crate::tree::view::{Links, Lookup, Walked, node_of, resolve};

/// The links to stored files in one layer.
#[derive(Debug, Default)]
pub(super) struct StoreLinks {
    /// By file: the first name is a link to the store, the others to the first.
    names: HashMap<FileKey, Vec<PathBuf>>,
    /// Files that layers below hold links to.
    below: HashSet<FileKey>,
}

impl StoreLinks {
    pub(super) fn below(below: HashSet<FileKey>) -> Self {
        Self {
            names: HashMap::new(),
            below,
        }
    }

    /// Whether a link to the file would be the first.
    pub(super) fn is_free(&self, key: &FileKey) -> bool {
        !self.names.contains_key(key) && !self.below.contains(key)
    }

    pub(super) fn add(&mut self, key: FileKey, path: PathBuf) {
        self.names.entry(key).or_default().push(path);
    }

    /// Adds a further name, if `first` is the link to the store and not a copy.
    pub(super) fn add_name(&mut self, key: &FileKey, first: &Path, path: &Path) {
        if let Some(names) = self.names.get_mut(key)
            && names.first().is_some_and(|name| name == first)
        {
            names.push(path.to_owned());
        }
    }

    /// The files that are linked.
    pub(super) fn files(&self) -> Vec<FileKey> {
        self.names.keys().copied().collect()
    }

    /// Forgets the links of this layer and returns their names, by file.
    pub(super) fn take(&mut self) -> Vec<Vec<PathBuf>> {
        std::mem::take(&mut self.names).into_values().collect()
    }
}

/// A destination.
pub(super) struct Dest<'a> {
    pub(super) upper: &'a Root,
    pub(super) lower: Option<&'a Root>,
    /// `None` where files of the store must not be linked.
    pub(super) links: Option<&'a mut StoreLinks>,
}

/// A directory of a destination; a side where it does not exist is `None`.
pub(super) struct DestDir {
    upper: Option<OwnedFd>,
    lower: Option<OwnedFd>,
}

/// A directory of a destination that can be written to.
pub(super) struct Writable {
    pub(super) upper: OwnedFd,
    lower: Option<OwnedFd>,
}

/// Something at a name in a directory.
pub(super) struct Existing {
    pub(super) metadata: Metadata,
    is_in_upper: bool,
}

impl Dest<'_> {
    /// What `path` leads to.
    pub(super) fn resolve(&self, path: &Path, links: Links) -> io::Result<Walked> {
        resolve(self, path, links)
    }

    /// Opens the directory at `path`, which holds no symbolic links, for changes.
    pub(super) fn writable(&self, path: &Path) -> io::Result<Writable> {
        let Some(lower) = self.lower else {
            return Ok(Writable {
                upper: self.upper.open_dir_fd(path)?,
                lower: None,
            });
        };
        // Step by step: each directory on the way may be on one side only.
        let mut dir = Writable {
            upper: self.upper.open_dir_fd("")?,
            lower: Some(lower.open_dir_fd("")?),
        };
        for name in path.iter() {
            dir = dir.enter(name)?;
        }
        Ok(dir)
    }

    /// The directory that `path`, which holds no symbolic links, is in, and its last element.
    pub(super) fn parent_of(&self, path: &Path) -> io::Result<(Writable, OsString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.writable(path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    /// Makes the directory `path` and all that lead to it, symbolic links followed. Returns the real path, and the real
    /// paths of those that were made, outermost first.
    pub(super) fn make_dirs(&self, path: &Path, look: &DirLook) -> Result<(PathBuf, Vec<PathBuf>), FileOpError> {
        let failed = |error| FileOpError::path("mkdir", path)(error);
        let walked = self.resolve(path, Links::Follow).map_err(failed)?;
        match walked.found {
            Some(node) if node.is_dir() => return Ok((walked.path, Vec::new())),
            Some(_) => return Err(failed(rustix::io::Errno::NOTDIR.into())),
            None => {}
        }
        let mut made = Vec::new();
        let mut real = PathBuf::new();
        let mut dir = self.writable(&real).map_err(failed)?;
        for name in walked.path.iter() {
            real.push(name);
            if dir.get(name).map_err(failed)?.is_none() {
                make_dir(&dir.upper, name, look).map_err(failed)?;
                made.push(real.clone());
            }
            dir = dir.enter(name).map_err(failed)?;
        }
        look.restore_times(self, &made)?;
        Ok((real, made))
    }
}

/// What directories that are made on the way look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirLook {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Option<Time>,
}

impl DirLook {
    /// Gives directories their time again after something was put into them, innermost first.
    pub(super) fn restore_times(&self, dest: &Dest<'_>, made: &[PathBuf]) -> Result<(), FileOpError> {
        let Some(time) = self.mtime else { return Ok(()) };
        for path in made.iter().rev() {
            let set = dest
                .writable(path)
                .and_then(|dir| at::set_times_fd(&dir.upper, Some(time), Some(time)));
            set.map_err(FileOpError::path("utimes", path))?;
        }
        Ok(())
    }
}

fn make_dir(dir: &OwnedFd, name: &OsStr, look: &DirLook) -> io::Result<()> {
    at::mkdir(dir, name, look.mode)?;
    let (uid, gid) = look.owner;
    at::chown(dir, name, uid, gid)?;
    // Again, because a change of owner drops the set-id bits.
    at::chmod(dir, name, look.mode)
}

impl Writable {
    /// What is at `name`.
    pub(super) fn get(&self, name: &OsStr) -> io::Result<Option<Existing>> {
        if let Some(metadata) = stat(&self.upper, name)? {
            return Ok(Some(Existing {
                metadata,
                is_in_upper: true,
            }));
        }
        let Some(lower) = &self.lower else { return Ok(None) };
        Ok(stat(lower, name)?.map(|metadata| Existing {
            metadata,
            is_in_upper: false,
        }))
    }

    /// Makes room for something that is no directory in place of something that is none either.
    pub(super) fn clear(&self, name: &OsStr, existing: &Existing) -> io::Result<()> {
        // What is below is hidden by what takes its place.
        if existing.is_in_upper {
            at::unlink(&self.upper, name)
        } else {
            Ok(())
        }
    }

    /// The directory `name` in this one, made in the upper directory if it is only below.
    pub(super) fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let lower = match &self.lower {
            Some(lower) => open_dir(lower, name)?,
            None => None,
        };
        if let Some(upper) = open_dir(&self.upper, name)? {
            return Ok(Self { upper, lower });
        }
        let below = lower.ok_or(rustix::io::Errno::NOENT)?;
        let own = Metadata::of(&self.upper)?;
        let upper = copy_up(&below, &self.upper, name)?;
        // An overlay would not have touched this directory either.
        at::set_times_fd(&self.upper, None, Some(own.mtime))?;
        Ok(Self {
            upper,
            lower: Some(below),
        })
    }
}

/// Makes `name` in `upper` look like the directory `below`.
fn copy_up(below: &OwnedFd, upper: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let metadata = Metadata::of(below)?;
    at::mkdir(upper, name, 0o700)?;
    let made = at::open_dir(upper, name)?;
    at::chown_fd(&made, metadata.uid, metadata.gid)?;
    at::chmod_fd(&made, metadata.permissions())?;
    for (attribute, value) in at::xattrs_fd(below)? {
        if is_portable_xattr(&attribute) {
            at::set_xattr_fd(&made, &attribute, &value)?;
        }
    }
    at::set_times_fd(&made, Some(metadata.atime), Some(metadata.mtime))?;
    Ok(made)
}

impl Lookup for Dest<'_> {
    type Dir = DestDir;

    fn top(&self) -> io::Result<(DestDir, Node)> {
        let upper = self.upper.open_dir_fd("")?;
        let node = node_of(&Metadata::of(&upper)?, OsString::new());
        Ok((
            DestDir {
                upper: Some(upper),
                lower: open_top(self.lower)?,
            },
            node,
        ))
    }

    fn child(&self, dir: &DestDir, name: &OsStr) -> io::Result<Option<Node>> {
        for side in [&dir.upper, &dir.lower].into_iter().flatten() {
            if let Some(metadata) = stat(side, name)? {
                let target = if metadata.is_symlink() {
                    at::read_link(side, name)?
                } else {
                    OsString::new()
                };
                return Ok(Some(node_of(&metadata, target)));
            }
        }
        Ok(None)
    }

    fn enter(&self, dir: &DestDir, name: &OsStr, _node: &Node) -> io::Result<DestDir> {
        let open = |side: &Option<OwnedFd>| match side {
            Some(side) => open_dir(side, name),
            None => Ok(None),
        };
        Ok(DestDir {
            upper: open(&dir.upper)?,
            lower: open(&dir.lower)?,
        })
    }
}

fn open_top(root: Option<&Root>) -> io::Result<Option<OwnedFd>> {
    root.map(|root| root.open_dir_fd("")).transpose()
}

fn stat(dir: impl AsFd, name: &OsStr) -> io::Result<Option<Metadata>> {
    match at::stat(dir, name) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a directory; `None` if there is none of that name.
fn open_dir(dir: impl AsFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match at::open_dir(dir, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
        Err(error) => Err(error),
    }
}
