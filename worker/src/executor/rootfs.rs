//! Putting together what a process sees.
//!
//! Everything is mounted here, before any runtime is asked, by descriptors only: a source is pinned when its path is
//! resolved in its own root, a mount point when its parent is resolved in the tree put together so far. What resolves
//! the paths a second time, or what is swapped meanwhile, cannot matter. Mount points that are missing are made, and
//! removed afterwards if nothing was put there, with the times of the directory around them restored.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::sys::mounts::{AttachedMount, DetachedMount};
use crate::sys::root::clean;
use crate::sys::{Metadata, Root, at};

/// Made inside every root file system, for what the runtime mounts.
const SYSTEM_DIRS: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Something visible where it should not be, or the reverse.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A path that a mount may not have.
    #[error("cannot mount at {}: {why}", dest.display())]
    Refused {
        /// Where.
        dest: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A file operation in the root file system failed.
    #[error("failed to {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what, as the process would name it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RootfsError {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// How much of what was made for a mount point is removed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StubRemoval {
    /// The mount point.
    Last,
    /// Also the directories made on the way to it.
    WithParents,
}

/// Where a mount goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Into the tree, at this real path relative to its root.
    Tree(PathBuf),
    /// Into `/dev` or `/sys`, which only the container has.
    System(PathBuf),
}

/// A root file system with mounts in it. Undone by [`Rootfs::finish`], or at least unmounted when dropped.
pub(super) struct Rootfs {
    root: Root,
    /// In the order they were made.
    mounts: Vec<AttachedMount>,
    stubs: Vec<Stub>,
}

/// Something made to be mounted over.
struct Stub {
    parent: OwnedFd,
    name: OsString,
    made: Metadata,
    /// Of the directory it is in, before.
    around: Metadata,
}

impl Rootfs {
    /// Starts with a mounted root file system and makes what every container needs.
    ///
    /// # Errors
    /// [`RootfsError::Refused`] if `/proc`, `/dev` or `/sys` is there but no directory: a symbolic link in their place
    /// would have the runtime mount elsewhere.
    pub(super) fn new(root: &Root) -> Result<Self, RootfsError> {
        let root = root.try_clone().map_err(RootfsError::io("open", "/"))?;
        let mut rootfs = Self {
            root,
            mounts: Vec::new(),
            stubs: Vec::new(),
        };
        for dir in SYSTEM_DIRS {
            let present = match rootfs.root.lstat(dir) {
                Ok(metadata) => Some(metadata),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(RootfsError::io("look at", dir)(error)),
            };
            match present {
                Some(metadata) if metadata.is_dir() => {}
                Some(_) => {
                    return Err(RootfsError::Refused {
                        dest: dir.into(),
                        why: "it is not a directory",
                    });
                }
                None => rootfs.make_stubs(Path::new(dir), true, StubRemoval::WithParents)?,
            }
        }
        Ok(rootfs)
    }

    /// Finds out where `dest`, an absolute path, leads in what is put together so far.
    pub(super) fn place(&self, dest: &Path) -> Result<Place, RootfsError> {
        let real = self.root.real_path(dest).map_err(RootfsError::io("resolve", dest))?;
        let absolute = Path::new("/").join(&real);
        let refused = |why| {
            Err(RootfsError::Refused {
                dest: dest.to_owned(),
                why,
            })
        };
        if real.as_os_str().is_empty() {
            return refused("it leads to the root");
        }
        if absolute.starts_with("/proc") {
            return refused("processes are shown there");
        }
        if SYSTEM_DIRS.iter().any(|dir| absolute == Path::new(dir)) {
            return refused("it is a system directory");
        }
        if SYSTEM_DIRS.iter().any(|dir| absolute.starts_with(dir)) {
            return Ok(Place::System(absolute));
        }
        Ok(Place::Tree(real))
    }

    /// Mounts `mount` at `real`, where a destination leads by [`Rootfs::place`].
    pub(super) fn add(
        &mut self,
        real: &Path,
        mount: DetachedMount,
        is_dir: bool,
        removal: StubRemoval,
    ) -> Result<(), RootfsError> {
        let dest = Path::new("/").join(real);
        self.make_stubs(real, is_dir, removal)?;
        let (parent, name) = self
            .root
            .resolve_parent(real)
            .map_err(RootfsError::io("open parent of", &dest))?;
        let present = at::stat(&parent, &name).map_err(RootfsError::io("look at", &dest))?;
        if present.is_symlink() || present.is_dir() != is_dir {
            let why = if is_dir {
                "a file is in the way"
            } else {
                "a directory is in the way"
            };
            return Err(RootfsError::Refused { dest, why });
        }
        self.mounts.push(
            mount
                .attach(parent, &name)
                .map_err(RootfsError::io("mount at", &dest))?,
        );
        Ok(())
    }

    /// What is put together so far.
    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Makes a mount point, and the directories on the way, if they are missing. `real` has no symbolic links.
    fn make_stubs(&mut self, real: &Path, is_dir: bool, removal: StubRemoval) -> Result<(), RootfsError> {
        let real = clean(real);
        let failed = || RootfsError::io("create mount point", Path::new("/").join(&real));
        let mut path = PathBuf::new();
        let last = real.components().count().saturating_sub(1);
        for (index, component) in real.components().enumerate() {
            path.push(component);
            match self.root.lstat(&path) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed()(error)),
            }
            let (parent, name) = self.root.resolve_parent(&path).map_err(failed())?;
            let around = Metadata::of(&parent).map_err(failed())?;
            if index < last || is_dir {
                at::mkdir(&parent, &name, 0o755).map_err(failed())?;
            } else {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = at::open(&parent, &name, flags, 0o644).map_err(failed())?;
                at::chmod_fd(&file, 0o644).map_err(failed())?;
            }
            if index == last || removal == StubRemoval::WithParents {
                let made = at::stat(&parent, &name).map_err(failed())?;
                self.stubs.push(Stub {
                    parent,
                    name,
                    made,
                    around,
                });
            } else {
                at::set_times_fd(&parent, Some(around.atime), Some(around.mtime)).map_err(failed())?;
            }
        }
        Ok(())
    }

    /// Unmounts everything and removes the mount points that were made and are still empty.
    pub(super) fn finish(mut self) -> Result<(), RootfsError> {
        while let Some(mount) = self.mounts.pop() {
            mount.detach().map_err(RootfsError::io("unmount from", "/"))?;
        }
        while let Some(stub) = self.stubs.pop() {
            let name = PathBuf::from(&stub.name);
            stub.remove().map_err(RootfsError::io("remove mount point", name))?;
        }
        Ok(())
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        // The latest first: it may be in an earlier one.
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
    }
}

impl Stub {
    /// Removes it if it is what was made, and empty.
    fn remove(self) -> io::Result<()> {
        let now = match at::stat(&self.parent, &self.name) {
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !now.is_same_file(&self.made) || now.kind() != self.made.kind() {
            return Ok(());
        }
        let before = Metadata::of(self.parent.as_fd())?;
        if now.is_dir() {
            match at::rmdir(&self.parent, &self.name) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
                Err(error) => return Err(error),
            }
        } else if now.size == 0 {
            at::unlink(&self.parent, &self.name)?;
        } else {
            return Ok(());
        }
        // Unless the process changed the directory, it shall look untouched.
        let times = if before.mtime <= self.made.ctime {
            self.around
        } else {
            before
        };
        at::set_times_fd(&self.parent, Some(times.atime), Some(times.mtime))
    }
}
