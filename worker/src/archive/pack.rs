//! Making a layer of a layer directory.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::OFlags;

use super::entry::{Device, Entry, EntryKind, Mtime};
use super::error::ArchiveError;
use super::whiteout::{self, OverlayXattrs, is_host_xattr};
use super::writer::TarWriter;
use crate::sys::{FileKind, Metadata, Root, at, root::move_link};

/// Directories are held open on the way down; deeper trees than this are refused rather than run out of descriptors.
const MAX_DEPTH: usize = 512;

/// How to pack.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// What becomes of modification times.
    pub times: Times,
}

/// What becomes of modification times. Times given are seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Times {
    /// They stay.
    #[default]
    Keep,
    /// Later ones become this one (`rewrite-timestamp`).
    AtMost(i64),
    /// All become this one.
    All(i64),
}

impl Times {
    /// What becomes of `time`.
    pub fn apply(self, time: Mtime) -> Mtime {
        match self {
            Self::Keep => time,
            Self::AtMost(seconds) => time.min(Mtime { seconds, nanos: 0 }),
            Self::All(seconds) => Mtime { seconds, nanos: 0 },
        }
    }
}

/// Writes the directory `root`, an overlay's upper directory or a plain tree, to `writer` as an OCI layer tar.
///
/// Files whose names begin with `.wh.` are written as they are, and mean deletions to who reads the layer, as with other
/// builders. The bytes depend on the tree alone: names are sorted, times are cut to seconds (as other builders do, or almost
/// every entry would need an extended header), and neither access times nor user names appear. The root directory itself is
/// not an entry. Sockets are left out, and so are directories of which only the time is another than below.
///
/// # Errors
/// [`ArchiveError::Refused`] for what a layer cannot express, [`ArchiveError::File`], [`ArchiveError::Write`].
pub fn pack<W: Write>(root: &Root, options: &PackOptions, writer: W) -> Result<W, ArchiveError> {
    let mut tar = TarWriter::new(writer);
    write(root, b"", true, options, &mut tar)?;
    tar.finish()
}

/// Like [`pack`], for an archive of plain trees, in which no name means a deletion: every name gets `prefix`, which is
/// empty or ends in a slash, in front, and absolute symbolic links lead there, too. Times are rounded to seconds.
///
/// # Errors
/// Like [`pack`].
pub fn pack_below<W: Write>(
    root: &Root,
    prefix: &[u8],
    options: &PackOptions,
    tar: &mut TarWriter<W>,
) -> Result<(), ArchiveError> {
    write(root, prefix, false, options, tar)
}

fn write<W: Write>(
    root: &Root,
    prefix: &[u8],
    is_layer: bool,
    options: &PackOptions,
    tar: &mut TarWriter<W>,
) -> Result<(), ArchiveError> {
    let mut packer = Packer {
        is_layer,
        prefix,
        options,
        tar,
        links: HashMap::new(),
    };
    let fd = root.open_dir_fd("").map_err(ArchiveError::file("open", b"/"))?;
    packer.tree(fd, prefix)
}

struct Packer<'a, W> {
    /// What stands in front of every name.
    prefix: &'a [u8],
    /// Whether overlay's marks become names that mean deletions.
    is_layer: bool,
    options: &'a PackOptions,
    tar: &'a mut TarWriter<W>,
    /// The first name of each file that has several.
    links: HashMap<((u32, u32), u64), Vec<u8>>,
}

/// A directory being walked.
struct Level {
    fd: OwnedFd,
    /// Its path, ending in a slash unless empty.
    prefix: Vec<u8>,
    /// What is left of it, last name first.
    names: Vec<OsString>,
}

impl<W: Write> Packer<'_, W> {
    fn tree(&mut self, root: OwnedFd, prefix: &[u8]) -> Result<(), ArchiveError> {
        let mut levels = vec![open_level(root, prefix.to_vec())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = [&level.prefix, name.as_bytes()].concat();
            if let Some(below) = self.file(level, &name, path)? {
                if levels.len() == MAX_DEPTH {
                    return Err(ArchiveError::refused(&below.prefix, "too many nested directories"));
                }
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Writes what is at `name`; a directory is given back to be walked.
    fn file(&mut self, level: &Level, name: &OsStr, path: Vec<u8>) -> Result<Option<Level>, ArchiveError> {
        let metadata = at::stat(&level.fd, name).map_err(ArchiveError::file("stat", &path))?;
        if self.is_layer && metadata.is_whiteout() {
            let marker = [&level.prefix, whiteout::PREFIX, name.as_bytes()].concat();
            self.tar.append(&Entry::new(marker, EntryKind::File, 0), io::empty())?;
            return Ok(None);
        }
        if !metadata.is_dir() && metadata.kind() != FileKind::Socket && self.link(level, name, &path, &metadata)? {
            return Ok(None);
        }
        let kind = match metadata.kind() {
            FileKind::Dir => return self.directory(level, name, path, &metadata),
            FileKind::File => return self.regular(level, name, path).map(|()| None),
            FileKind::Socket => return Ok(None),
            FileKind::Fifo => EntryKind::Fifo,
            FileKind::CharDevice => EntryKind::CharDevice(device(&metadata)),
            FileKind::BlockDevice => EntryKind::BlockDevice(device(&metadata)),
            FileKind::Symlink => {
                let target = at::read_link(&level.fd, name).map_err(ArchiveError::file("read link", &path))?;
                EntryKind::Symlink(move_link(self.prefix, &target).into_vec())
            }
        };
        let xattrs = at::xattrs(&level.fd, name).map_err(ArchiveError::file("read attributes of", &path))?;
        let mut entry = self.entry(path, kind, &metadata, xattrs)?;
        if matches!(entry.kind, EntryKind::Symlink(_)) {
            entry.mode = 0o777;
        }
        self.tar.append(&entry, io::empty())?;
        Ok(None)
    }

    /// Writes a further name of a file that was written already, of whatever kind it is.
    fn link(&mut self, level: &Level, name: &OsStr, path: &[u8], metadata: &Metadata) -> Result<bool, ArchiveError> {
        if metadata.nlink < 2 {
            return Ok(false);
        }
        let first = match self.links.entry((metadata.dev, metadata.ino)) {
            Slot::Occupied(first) => first.get().clone(),
            Slot::Vacant(first) => {
                first.insert(path.to_vec());
                return Ok(false);
            }
        };
        // Who unpacks a link may set its owner once more, which takes the capabilities away. Plain archives tell all
        // attributes again, as with other builders.
        let mut xattrs = at::xattrs(&level.fd, name).map_err(ArchiveError::file("read attributes of", path))?;
        xattrs.retain(|key, _| !self.is_layer || key == whiteout::CAPABILITY);
        let mut entry = self.entry(path.to_vec(), EntryKind::Hardlink(first), metadata, xattrs)?;
        if metadata.is_symlink() {
            entry.mode = 0o777;
        }
        self.tar.append(&entry, io::empty())?;
        Ok(true)
    }

    fn directory(
        &mut self,
        level: &Level,
        name: &OsStr,
        path: Vec<u8>,
        metadata: &Metadata,
    ) -> Result<Option<Level>, ArchiveError> {
        let fd = at::open_dir(&level.fd, name).map_err(ArchiveError::file("open", &path))?;
        let xattrs = at::xattrs_fd(&fd).map_err(ArchiveError::file("read attributes of", &path))?;
        if self.is_layer && xattrs.contains_key(OsStr::new(whiteout::TIME_ALONE)) {
            return Ok(None);
        }
        let prefix = [&path[..], b"/"].concat();
        if xattrs.contains_key(OsStr::new("trusted.overlay.redirect")) {
            return Err(ArchiveError::refused(
                &path,
                "a renamed directory, of which only overlay knows the contents",
            ));
        }
        let is_opaque = [OverlayXattrs::Trusted, OverlayXattrs::User]
            .iter()
            .any(|kind| xattrs.get(kind.opaque()).is_some_and(|value| value == b"y"));
        let entry = self.entry(prefix.clone(), EntryKind::Directory, metadata, xattrs)?;
        self.tar.append(&entry, io::empty())?;
        if is_opaque {
            let marker = [&prefix, whiteout::OPAQUE].concat();
            self.tar.append(&Entry::new(marker, EntryKind::File, 0), io::empty())?;
        }
        open_level(fd, prefix).map(Some)
    }

    fn regular(&mut self, level: &Level, name: &OsStr, path: Vec<u8>) -> Result<(), ArchiveError> {
        // Without waiting for a writer, should it have become a fifo since.
        let fd = at::open(&level.fd, name, OFlags::RDONLY | OFlags::NONBLOCK, 0)
            .map_err(ArchiveError::file("open", &path))?;
        let metadata = Metadata::of(&fd).map_err(ArchiveError::file("stat", &path))?;
        if !metadata.is_file() {
            return Err(ArchiveError::refused(&path, "changed while it was archived"));
        }
        let xattrs = at::xattrs_fd(fd.as_fd()).map_err(ArchiveError::file("read attributes of", &path))?;
        if xattrs.contains_key(OsStr::new("trusted.overlay.metacopy")) {
            return Err(ArchiveError::refused(
                &path,
                "a file of which only overlay knows the contents",
            ));
        }
        let mut entry = self.entry(path, EntryKind::File, &metadata, xattrs)?;
        entry.size = metadata.size;
        self.tar.append(&entry, File::from(fd))
    }

    fn entry(
        &self,
        path: Vec<u8>,
        kind: EntryKind,
        metadata: &Metadata,
        xattrs: BTreeMap<OsString, Vec<u8>>,
    ) -> Result<Entry, ArchiveError> {
        // Plain archives round where layers cut, as with other builders.
        let rounds_up = !self.is_layer && metadata.mtime.nanos >= 500_000_000;
        let mtime = Mtime {
            seconds: metadata.mtime.secs + i64::from(rounds_up),
            nanos: 0,
        };
        let xattrs = xattrs.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value));
        Ok(Entry {
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: self.options.times.apply(mtime),
            xattrs: xattrs.filter(|(key, _)| !is_host_xattr(key)).collect(),
            ..Entry::new(path, kind, metadata.permissions())
        })
    }
}

fn open_level(fd: OwnedFd, prefix: Vec<u8>) -> Result<Level, ArchiveError> {
    let entries = at::read_dir(&fd).map_err(ArchiveError::file("list", &prefix))?;
    let mut names: Vec<OsString> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Level { fd, prefix, names })
}

const fn device(metadata: &Metadata) -> Device {
    Device {
        major: metadata.rdev.0,
        minor: metadata.rdev.1,
    }
}
