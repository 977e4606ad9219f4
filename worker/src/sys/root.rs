//! A directory tree nobody is trusted in.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::at::{self, Entry};
use super::metadata::{Metadata, Time};

/// How often a lookup is repeated that raced with a rename (`EAGAIN`).
const LOOKUP_RETRIES: usize = 64;
/// Symbolic links followed in one path; the kernel's limit.
const MAX_LINKS: usize = 40;

/// An open directory whose contents come from images, build steps or clients.
///
/// Paths are looked up by the kernel with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`: `..` and symbolic links,
/// absolute ones too, work but never lead outside, even while somebody else changes the tree. A leading `/` is the
/// root itself. Methods that create, change or remove a file resolve its *parent* so and never follow a symbolic link
/// at the last component; such a path must end in a name.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// Joins `path` to `/` and resolves `.`, `..` and repeated slashes by text alone, as Go's `path.Clean` does.
///
/// The result is relative to a root (no leading `/`); empty for the root itself.
pub fn clean(path: impl AsRef<Path>) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.as_ref().components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// What a symbolic link leads to when all it is among has moved into the directory `prefix`: an absolute target moves along,
/// so that files of several platforms side by side do not lead to one another's places.
pub fn move_link(prefix: &[u8], target: &OsStr) -> OsString {
    if prefix.is_empty() || !target.as_bytes().starts_with(b"/") {
        return target.to_owned();
    }
    let moved = [prefix, b"/", target.as_bytes()].concat();
    Path::new("/").join(clean(OsStr::from_bytes(&moved))).into_os_string()
}

impl Root {
    /// Opens a directory by a path that is trusted: one of the daemon's own.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(path.as_ref(), flags, Mode::empty())?,
        })
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }

    /// The directory at `path` as a root of its own: nothing in it leads back up here.
    pub fn sub_root(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            fd: self.open_dir_fd(path)?,
        })
    }

    /// A handle (`O_PATH`) on what `path` leads to, symbolic links followed.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.lookup(path.as_ref(), OFlags::PATH, 0)
    }

    /// A handle (`O_PATH`) on what is at `path`, which may be a symbolic link.
    pub fn resolve_no_follow(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.lookup(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW, 0)
    }

    /// Opens a directory for reading and as a base for the functions in [`at`].
    pub fn open_dir_fd(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.lookup(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    /// Opens or (with `CREATE`) makes a file, following symbolic links. `mode` is subject to the process' umask.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlags, mode: u32) -> io::Result<File> {
        Ok(self.lookup(path.as_ref(), flags | OFlags::NOCTTY, mode)?.into())
    }

    /// Opens what must be a regular file for reading. Fifos and devices are refused without being opened.
    pub fn open_regular(&self, path: impl AsRef<Path>) -> io::Result<(File, Metadata)> {
        let handle = self.resolve(path)?;
        let metadata = Metadata::of(&handle)?;
        if !metadata.is_file() {
            let message = if metadata.is_dir() {
                "is a directory"
            } else {
                "not a regular file"
            };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(at::proc_path(handle.as_fd()), flags, Mode::empty())?;
        Ok((file.into(), metadata))
    }

    /// Reads a regular file of at most `max` bytes.
    ///
    /// # Errors
    /// `FileTooLarge` for a longer one, `InvalidInput` for anything that is not a regular file.
    pub fn read_file_limited(&self, path: impl AsRef<Path>, max: u64) -> io::Result<Vec<u8>> {
        let (file, metadata) = self.open_regular(path)?;
        let mut bytes = Vec::with_capacity(metadata.size.min(max).min(1 << 20) as usize);
        file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("longer than {max} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// The directory that `path` lies in, and its last component, which is not looked at.
    ///
    /// # Errors
    /// `InvalidInput` if `path` does not end in a name: the root itself, or a path ending in `..`.
    pub fn resolve_parent(&self, path: impl AsRef<Path>) -> io::Result<(OwnedFd, OsString)> {
        let path = path.as_ref();
        let Some(name) = path.file_name() else {
            let message = format!("{} does not end in a file name", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.open_dir_fd(parent)?, name.to_owned()))
    }

    /// Makes the directory `path` and all that lead to it, with exactly `mode`. Dangling symbolic links on the way have
    /// their target made, inside the root.
    ///
    /// Returns the real paths (relative to the root, free of symbolic links) of those that were made, outermost first.
    ///
    /// # Errors
    /// `NotADirectory` if something else is in the way.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Vec<PathBuf>> {
        self.walk(path.as_ref(), Some(mode)).map(|walked| walked.created)
    }

    /// The path, free of symbolic links and `..`, that `path` leads to now, relative to the root. Components that do
    /// not exist are kept as they are; a symbolic link at the end is followed.
    pub fn real_path(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        self.walk(path.as_ref(), None).map(|walked| walked.path)
    }

    fn walk(&self, path: &Path, create: Option<u32>) -> io::Result<Walked> {
        let mut walked = Walked::default();
        let mut pending: VecDeque<OsString> = components(path).collect();
        let mut links = 0;
        // Set once a component is missing in a walk that makes nothing: there is nothing to look at below it.
        let mut missing = false;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                walked.path.pop();
                continue;
            }
            let next = walked.path.join(&name);
            let found = if missing { None } else { self.try_handle(&next)? };
            let Some(handle) = found else {
                match create {
                    Some(mode) => self.create_component(&walked.path, &name, mode, &mut walked.created)?,
                    None => missing = true,
                }
                walked.path = next;
                continue;
            };
            let metadata = Metadata::of(&handle)?;
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let (parent, name) = self.resolve_parent(&next)?;
                let target = PathBuf::from(at::read_link(parent, &name)?);
                if target.is_absolute() {
                    walked.path.clear();
                }
                for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(part);
                }
                continue;
            }
            if !metadata.is_dir() && (create.is_some() || !pending.is_empty()) {
                return Err(rustix::io::Errno::NOTDIR.into());
            }
            walked.path = next;
        }
        Ok(walked)
    }

    fn try_handle(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match self.resolve_no_follow(path) {
            Ok(handle) => Ok(Some(handle)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_component(&self, dir: &Path, name: &OsStr, mode: u32, made: &mut Vec<PathBuf>) -> io::Result<()> {
        match at::mkdir(self.open_dir_fd(dir)?, name, mode) {
            Ok(()) => {
                made.push(dir.join(name));
                Ok(())
            }
            // Somebody else was faster: as good, if it is a directory.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.lstat(dir.join(name))?.is_dir() => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes one directory with exactly these permissions.
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let (dir, name) = self.resolve_parent(path)?;
        at::mkdir(dir, &name, mode)
    }

    /// Makes a symbolic link at `path` holding `target`, verbatim.
    pub fn symlink(&self, target: impl AsRef<OsStr>, path: impl AsRef<Path>) -> io::Result<()> {
        let (dir, name) = self.resolve_parent(path)?;
        at::symlink(dir, &name, target.as_ref())
    }

    /// Gives what is at `existing` (itself, if a symbolic link) the further name `path`.
    pub fn hard_link(&self, existing: impl AsRef<Path>, path: impl AsRef<Path>) -> io::Result<()> {
        let (old_dir, old_name) = self.resolve_parent(existing)?;
        let (dir, name) = self.resolve_parent(path)?;
        at::hard_link(old_dir, &old_name, dir, &name)
    }

    /// Makes a device, fifo or socket. `mode` has type and permission bits.
    pub fn mknod(&self, path: impl AsRef<Path>, mode: u32, rdev: (u32, u32)) -> io::Result<()> {
        let (dir, name) = self.resolve_parent(path)?;
        at::mknod(dir, &name, mode, rdev)
    }

    /// Removes anything but a directory.
    pub fn unlink(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (dir, name) = self.resolve_parent(path)?;
        at::unlink(dir, &name)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (dir, name) = self.resolve_parent(path)?;
        at::rmdir(dir, &name)
    }

    /// Removes whatever is at `path` with everything below; see [`at::remove_all`].
    pub fn remove_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (dir, name) = self.resolve_parent(path)?;
        at::remove_all(dir, &name)
    }

    /// Renames, replacing what is at `to`.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (old_dir, old_name) = self.resolve_parent(from)?;
        let (dir, name) = self.resolve_parent(to)?;
        at::rename(old_dir, &old_name, dir, &name)
    }

    /// Metadata of what `path` leads to.
    pub fn stat(&self, path: impl AsRef<Path>) -> io::Result<Metadata> {
        Metadata::of(self.resolve(path)?)
    }

    /// Metadata of what is at `path`, which may be a symbolic link.
    pub fn lstat(&self, path: impl AsRef<Path>) -> io::Result<Metadata> {
        Metadata::of(self.resolve_no_follow(path)?)
    }

    /// What the symbolic link at `path` holds.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<OsString> {
        let (dir, name) = self.resolve_parent(path)?;
        at::read_link(dir, &name)
    }

    /// Changes the owner of what is at `path`, which may be the root itself.
    pub fn chown(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> io::Result<()> {
        at::chown_fd(self.resolve_no_follow(path)?, uid, gid)
    }

    /// Changes permissions of what is at `path`; `EOPNOTSUPP` for a symbolic link.
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        at::chmod_fd(self.resolve_no_follow(path)?, mode)
    }

    /// Sets access and modification time of what is at `path`; `None` leaves one as it is.
    pub fn set_times(&self, path: impl AsRef<Path>, atime: Option<Time>, mtime: Option<Time>) -> io::Result<()> {
        at::set_times_fd(self.resolve_no_follow(path)?, atime, mtime)
    }

    /// All extended attributes of what is at `path`.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
        at::xattrs_fd(self.resolve_no_follow(path)?)
    }

    /// One extended attribute of what is at `path`.
    pub fn xattr(&self, path: impl AsRef<Path>, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
        at::xattr_fd(self.resolve_no_follow(path)?, key)
    }

    /// Sets an extended attribute of what is at `path`.
    pub fn set_xattr(&self, path: impl AsRef<Path>, key: &OsStr, value: &[u8]) -> io::Result<()> {
        at::set_xattr_fd(self.resolve_no_follow(path)?, key, value)
    }

    /// Lists a directory in no particular order.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> io::Result<Vec<Entry>> {
        at::read_dir(self.open_dir_fd(path)?)
    }

    fn lookup(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE.difference(OFlags::DIRECTORY)) {
            Mode::from_raw_mode(mode & 0o7777)
        } else {
            Mode::empty()
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..LOOKUP_RETRIES {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
        Err(rustix::io::Errno::AGAIN.into())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Root> for OwnedFd {
    fn from(root: Root) -> Self {
        root.fd
    }
}

/// Makes the directories of a trusted path, private to the daemon's user.
pub fn create_private_dirs(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[derive(Default)]
struct Walked {
    path: PathBuf,
    created: Vec<PathBuf>,
}

/// The parts of a path that matter for a walk: names and `..`.
fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.as_os_str()
        .as_bytes()
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
}

#[cfg(test)]
mod tests;
