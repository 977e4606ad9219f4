//! The files that an index consists of.

use std::io;
use std::path::Path;

use ::redb::{Builder, Database, DatabaseError};

/// Where the files are. A test has one of its own, on which power can fail.
pub(super) trait Disk: Send + Sync {
    /// Opens a database file, or makes it.
    fn open(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError>;

    /// Puts a file in place of another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes it survive a crash of the machine which files there are beside `path`.
    fn sync_names(&self, path: &Path) -> io::Result<()>;

    /// Bytes of a file; `None` if there is no such file.
    fn size(&self, path: &Path) -> Option<u64>;
}

/// The file system.
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn open(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
        builder.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_names(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(directory(path))?.sync_all()
    }

    fn size(&self, path: &Path) -> Option<u64> {
        let meta = std::fs::metadata(path).ok()?;
        meta.is_file().then_some(meta.len())
    }
}

/// The directory that a file is in.
pub(super) fn directory(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}
