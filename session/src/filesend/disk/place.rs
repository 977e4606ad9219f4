//! Names inside the output directory, reached without following links.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{DirFd, temporary_name};

/// The output directory.
pub(super) struct Root {
    dir: DirFd,
    /// The directory used last: entries of one directory come one after the other.
    recent: Option<(PathBuf, DirFd)>,
}

impl Root {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            dir: Arc::new(fs::open(path, flags, Mode::empty())?),
            recent: None,
        })
    }

    /// Opens a directory by its path; the empty one is the root.
    pub(super) fn open_dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(&self.dir, path, flags, Mode::empty(), resolve)
    }

    /// The place of an entry, whose directory has to exist.
    pub(super) fn place(&mut self, path: &Path) -> Result<Place, Errno> {
        let (parent, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
        Ok(Place {
            dir: self.parent(parent)?,
            name: name.to_owned(),
        })
    }

    fn parent(&mut self, path: &Path) -> Result<DirFd, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.dir));
        }
        if let Some((recent, dir)) = &self.recent
            && recent == path
        {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(self.open_dir(path)?);
        self.recent = Some((path.to_owned(), Arc::clone(&dir)));
        Ok(dir)
    }
}

/// A name in an open directory.
pub(super) struct Place {
    dir: DirFd,
    name: OsString,
}

impl Place {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// What is there; links are not followed.
    pub(super) fn stat(&self) -> Result<Option<fs::Stat>, Errno> {
        match fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that a directory is there that we can write to.
    pub(super) fn make_dir(&self, permissions: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(permissions) | Mode::RWXU;
        match self.stat()?.map(|found| FileType::from_raw_mode(found.st_mode)) {
            Some(FileType::Directory) => {
                // Had it been swapped for a link just now, the link would not be followed.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return match fs::openat(&self.dir, &self.name, flags, Mode::empty()) {
                    Ok(dir) => fs::fchmod(dir, mode),
                    Err(Errno::ACCESS) => fs::chmodat(&self.dir, &self.name, mode, AtFlags::empty()),
                    Err(error) => Err(error),
                };
            }
            Some(_) => fs::unlinkat(&self.dir, &self.name, AtFlags::empty())?,
            None => {}
        }
        fs::mkdirat(&self.dir, &self.name, mode)
    }

    /// A new name beside this one.
    pub(super) fn temporary(&self) -> Temporary {
        Temporary {
            dir: Arc::clone(&self.dir),
            name: temporary_name(),
        }
    }
}

/// Something that is not complete yet; dropping it removes it.
pub(super) struct Temporary {
    dir: DirFd,
    name: String,
}

impl Temporary {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Puts it in its place, whatever is there now.
    pub(super) fn persist(self, place: &Place) -> Result<(), Errno> {
        match fs::renameat(&self.dir, &self.name, &place.dir, &place.name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                remove(place.dir(), place.name())?;
                fs::renameat(&self.dir, &self.name, &place.dir, &place.name)
            }
            // Dropping then removes the name that is left when both were the same file.
            result => result,
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::unlinkat(&self.dir, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => tracing::debug!(name = self.name, %error, "incomplete file could not be removed"),
        }
    }
}

/// Removes whatever has the name, with all that is in it.
pub(super) fn remove(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        result => return result,
    }
    // The standard library removes trees without following links; it takes a path, which this makes of `dir`.
    let name = name.as_cow_c_str()?;
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let path = Path::new(&path).join(to_path(&name));
    std::fs::remove_dir_all(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn to_path(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(OsStr::from_bytes(name.to_bytes()))
}
