//! What a tar archive says about one file.

use std::collections::BTreeMap;

/// Size of a tar block: headers are one block, data is padded to whole ones.
pub(super) const BLOCK: usize = 512;

/// One member of an archive: everything but its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name as written in the archive: any bytes but NUL, not yet cleaned or checked.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Mtime,
    /// Length of a file's content, holes included; 0 for everything else.
    pub size: u64,
    /// Extended attributes by full name (`user.x`, `security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// For a sparse file, where its data belongs; what the archive holds is only these segments, one after another.
    pub sparse: Option<Vec<Segment>>,
}

/// The kinds of files an archive can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry.
    Hardlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// A modification time since the Unix epoch; `nanos` counts forward also for negative `seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// A stretch of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

impl Entry {
    /// An entry owned by root with no time, no data and no attributes.
    pub fn new(path: impl Into<Vec<u8>>, kind: EntryKind, mode: u32) -> Self {
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: 0,
            xattrs: BTreeMap::new(),
            sparse: None,
        }
    }

    /// The name for messages.
    pub fn display_path(&self) -> String {
        display(&self.path)
    }
}

/// Bytes of a name as text for messages: no control characters, bounded.
pub(super) fn display(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(512)]);
    text.escape_debug().to_string()
}
