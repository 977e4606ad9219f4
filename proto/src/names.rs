//! Names of files in messages: bytes on the wire, paths for everybody else.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fsutil::{Stat, Xattr};

impl Stat {
    /// The entry's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        path(&self.path)
    }

    /// What a symbolic link holds, or the path of an earlier entry for a hard link.
    #[must_use]
    pub fn linkname(&self) -> &Path {
        path(&self.linkname)
    }
}

impl Xattr {
    /// The attribute's name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }
}

/// The path that a message holds as bytes.
#[must_use]
pub fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
