//! Unpacking a layer into a layer directory.
//!
//! Every name is looked up beneath the directory's own descriptor, a parent is resolved once and then held open, and
//! nothing follows a symbolic link at its last component, so no archive can reach outside or change what a link of its
//! own points to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::OFlags;

use super::entry::{Device, Entry, EntryKind, Mtime};
use super::error::ArchiveError;
use super::lower::Lowers;
use super::reader::TarReader;
use super::whiteout::{self, Marker, OverlayXattrs};
use crate::sys::{Metadata, Root, Time, at, root::clean};

/// The longest path the kernel takes.
const MAX_PATH: usize = 4095;
/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// How to unpack.
#[derive(Debug, Default)]
pub struct ApplyOptions<'a> {
    /// The layer directories below, topmost first. They say what directories that the archive only implies look
    /// like, where symbolic links on the way to a file lead, and what hard links to older files link to. Without them
    /// the implied directories are reported in [`Applied::implied`].
    pub lowers: &'a [&'a Root],
    /// Which attribute marks opaque directories.
    pub overlay_xattrs: OverlayXattrs,
    /// Leave out devices instead of failing, for user namespaces, where nobody can make them.
    pub skip_devices: bool,
    /// Take the archive for what it is, not for a layer: see [`extract`].
    pub(super) plain: Option<Plain>,
}

impl<'a> ApplyOptions<'a> {
    /// The defaults, over these layer directories, topmost first.
    pub fn over(lowers: &'a [&'a Root]) -> Self {
        Self {
            lowers,
            ..Self::default()
        }
    }
}

/// How to unpack an archive that is no layer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plain {
    /// Replaces the owner of every entry.
    owner: Option<(u32, u32)>,
}

/// What was unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of file content.
    pub size: u64,
    /// Directories that exist only because something lies in them, made with mode 0755 and owned by root, for
    /// [`super::settle`]; the empty path is the layer directory itself. Those that replace what the same layer
    /// deletes are not among them: they have nothing below to look like.
    pub implied: BTreeSet<PathBuf>,
    /// Directories in which something is marked as deleted.
    pub marked: BTreeSet<PathBuf>,
}

/// Unpacks the uncompressed layer `tar` into the empty directory `root`, in overlay form. Reads the stream to its end.
///
/// Nothing is flushed to disk.
///
/// # Errors
/// [`ArchiveError`]; what was made until then stays.
pub fn apply<R: Read>(tar: R, root: &Root, options: &ApplyOptions<'_>) -> Result<Applied, ArchiveError> {
    unpack(tar, root, options)
}

/// Extracts an archive that is no layer into `root`, where there may be files already: directories merge, anything
/// else is replaced. Names that mean deletion in layers are ordinary here. `owner` replaces the owner of every entry.
///
/// # Errors
/// As [`apply`].
pub fn extract<R: Read>(tar: R, root: &Root, owner: Option<(u32, u32)>) -> Result<Applied, ArchiveError> {
    let options = ApplyOptions {
        plain: Some(Plain { owner }),
        ..ApplyOptions::default()
    };
    unpack(tar, root, &options)
}

fn unpack<R: Read>(tar: R, root: &Root, options: &ApplyOptions<'_>) -> Result<Applied, ArchiveError> {
    let mut reader = TarReader::new(tar);
    let mut unpacker = Unpacker {
        root,
        lowers: Lowers::new(options.lowers),
        options,
        applied: Applied::default(),
        directory_times: BTreeMap::new(),
        opaque: BTreeSet::new(),
        parent: None,
        buffer: vec![0; 256 * 1024],
    };
    unpacker.start()?;
    while let Some(mut entry) = reader.next_entry()? {
        if let Some((uid, gid)) = options.plain.and_then(|plain| plain.owner) {
            (entry.uid, entry.gid) = (uid, gid);
        }
        unpacker.entry(&entry, &mut reader)?;
    }
    reader.into_rest()?;
    unpacker.finish()
}

struct Unpacker<'a> {
    root: &'a Root,
    lowers: Lowers<'a>,
    options: &'a ApplyOptions<'a>,
    applied: Applied,
    /// Set last: unpacking into a directory changes its time.
    directory_times: BTreeMap<PathBuf, Time>,
    /// Directories under which nothing of the lower layers shows.
    opaque: BTreeSet<PathBuf>,
    /// The parent of the last entry; usually also that of the next.
    parent: Option<Rc<Parent>>,
    buffer: Vec<u8>,
}

/// A directory that entries are made in.
struct Parent {
    /// As named by the archive.
    named: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
    fd: OwnedFd,
}

impl<'a> Unpacker<'a> {
    /// The layer directory itself starts out as what is below it.
    fn start(&mut self) -> Result<(), ArchiveError> {
        match self.lowers.find(Path::new("")) {
            Some((lower, metadata)) => self.copy_directory_metadata(Path::new(""), lower, &metadata),
            None => {
                self.applied.implied.insert(PathBuf::new());
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Applied, ArchiveError> {
        for (path, time) in &self.directory_times {
            let set = self.root.set_times(path, None, Some(*time));
            match set {
                // Removed again by a later entry.
                Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                set => set.map_err(ArchiveError::file("set times of", path.as_os_str().as_bytes()))?,
            }
        }
        Ok(self.applied)
    }

    fn entry(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), ArchiveError> {
        self.applied.entries += 1;
        let path = checked_path(&entry.path, &entry.path)?;
        let Some(name) = path.file_name() else {
            // What an archive is extracted into looks like whoever made it wants, not like what was packed.
            let is_own = self.options.plain.is_some() && entry.kind == EntryKind::Directory;
            return if is_own { Ok(()) } else { self.layer_root(entry) };
        };
        if self.options.plain.is_some() {
            return self.create(&path, name, entry, data);
        }
        if path
            .iter()
            .rev()
            .skip(1)
            .any(|part| whiteout::marker(part) == Marker::Ignored)
        {
            return Ok(());
        }
        match whiteout::marker(name) {
            Marker::Ignored => Ok(()),
            Marker::Invalid => Err(ArchiveError::refused(&entry.path, "whiteout without a name")),
            Marker::Opaque => {
                let parent = self.parent(&path, entry)?;
                self.make_opaque(&parent.real.clone(), &entry.path)
            }
            Marker::Deleted(deleted) => self.delete(&path, deleted, entry),
            Marker::Name => self.create(&path, name, entry, data),
        }
    }

    fn layer_root(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        if entry.kind != EntryKind::Directory {
            return Err(ArchiveError::refused(
                &entry.path,
                "the layer itself is not a directory",
            ));
        }
        self.applied.implied.remove(Path::new(""));
        let handle = self
            .root
            .open_dir_fd("")
            .map_err(ArchiveError::file("open", &entry.path))?;
        at::chown_fd(&handle, entry.uid, entry.gid).map_err(ArchiveError::file("change owner of", &entry.path))?;
        at::chmod_fd(&handle, entry.mode).map_err(ArchiveError::file("change mode of", &entry.path))?;
        for (key, value) in settable_xattrs(entry) {
            ignore_unsupported(key, at::set_xattr_fd(&handle, key, value))
                .map_err(ArchiveError::file("set attributes of", &entry.path))?;
        }
        self.directory_times.insert(PathBuf::new(), time(entry.mtime));
        Ok(())
    }

    fn delete(&mut self, path: &Path, deleted: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
        let parent = self.parent(path, entry)?;
        let real = parent.real.join(deleted);
        match at::stat(&parent.fd, deleted) {
            // A whiteout is about the layers below: what this layer brings itself stays, alone.
            Ok(metadata) if metadata.is_dir() => self.make_opaque(&real, &entry.path),
            Ok(_) => Ok(()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.applied.marked.insert(parent.real.clone());
                at::mknod(&parent.fd, deleted, libc::S_IFCHR, (0, 0))
                    .map_err(ArchiveError::file("white out", &entry.path))
            }
            Err(err) => Err(ArchiveError::file("stat", &entry.path)(err)),
        }
    }

    fn make_opaque(&mut self, real: &Path, named: &[u8]) -> Result<(), ArchiveError> {
        let key = self.options.overlay_xattrs.opaque();
        self.root
            .set_xattr(real, key, b"y")
            .map_err(ArchiveError::file("hide what is below", named))?;
        self.opaque.insert(real.to_path_buf());
        Ok(())
    }

    fn create(&mut self, path: &Path, name: &OsStr, entry: &Entry, data: &mut impl Read) -> Result<(), ArchiveError> {
        let is_device = matches!(entry.kind, EntryKind::CharDevice(_) | EntryKind::BlockDevice(_));
        if is_device && self.options.skip_devices {
            return Ok(());
        }
        let parent = self.parent(path, entry)?;
        let real = parent.real.join(name);
        let is_directory = entry.kind == EntryKind::Directory;
        let existing = match at::stat(&parent.fd, name) {
            Ok(metadata) => Some(metadata),
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            Err(err) => return Err(ArchiveError::file("stat", &entry.path)(err)),
        };
        let keeps_existing = is_directory && existing.is_some_and(|metadata| metadata.is_dir());
        if let EntryKind::Hardlink(target) = &entry.kind {
            return self.hard_link(&parent, name, target, entry, existing);
        }
        if existing.is_some() && !keeps_existing {
            self.remove(&parent, name, &real, entry)?;
        }
        match &entry.kind {
            EntryKind::Hardlink(_) => {}
            EntryKind::File => self.write_file(&parent, name, entry, data)?,
            EntryKind::Directory if keeps_existing => {}
            EntryKind::Directory => {
                at::mkdir(&parent.fd, name, 0o700).map_err(ArchiveError::file("create directory", &entry.path))?;
                if existing.is_some() && self.options.plain.is_none() {
                    self.make_opaque(&real, &entry.path)?;
                }
            }
            EntryKind::Symlink(target) => at::symlink(&parent.fd, name, OsStr::from_bytes(target))
                .map_err(ArchiveError::file("create symbolic link", &entry.path))?,
            EntryKind::CharDevice(device) => make_node(&parent, name, libc::S_IFCHR, *device, entry)?,
            EntryKind::BlockDevice(device) => make_node(&parent, name, libc::S_IFBLK, *device, entry)?,
            EntryKind::Fifo => make_node(&parent, name, libc::S_IFIFO, Device { major: 0, minor: 0 }, entry)?,
        }
        self.applied.implied.remove(&real);
        set_metadata(&parent, name, entry)?;
        if is_directory {
            self.directory_times.insert(real, time(entry.mtime));
        } else {
            self.directory_times.remove(&real);
            at::set_times(&parent.fd, name, None, Some(time(entry.mtime)))
                .map_err(ArchiveError::file("set times of", &entry.path))?;
        }
        Ok(())
    }

    /// Removes what an earlier entry made, for a later one to take its place.
    fn remove(&mut self, parent: &Parent, name: &OsStr, real: &Path, entry: &Entry) -> Result<(), ArchiveError> {
        at::remove_all(&parent.fd, name).map_err(ArchiveError::file("replace", &entry.path))?;
        // The removed may have been on the way to the directory that is held open.
        self.parent = None;
        self.opaque.remove(real);
        self.directory_times.remove(real);
        Ok(())
    }

    fn write_file(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        entry: &Entry,
        data: &mut impl Read,
    ) -> Result<(), ArchiveError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = at::open(&parent.fd, name, flags, 0o600).map_err(ArchiveError::file("create", &entry.path))?;
        let mut file = File::from(file);
        let failed = || ArchiveError::file("write", &entry.path);
        if let Some(segments) = &entry.sparse {
            for segment in segments {
                file.seek(SeekFrom::Start(segment.offset)).map_err(failed())?;
                self.copy(data, segment.length, &mut file, entry)?;
            }
            file.set_len(entry.size).map_err(failed())?;
        } else {
            self.copy(data, entry.size, &mut file, entry)?;
        }
        self.applied.size += entry.size;
        Ok(())
    }

    fn copy(&mut self, data: &mut impl Read, length: u64, file: &mut File, entry: &Entry) -> Result<(), ArchiveError> {
        let mut left = length;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = data.read(&mut self.buffer[..want]).map_err(ArchiveError::Read)?;
            if n == 0 {
                return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            file.write_all(&self.buffer[..n])
                .map_err(ArchiveError::file("write", &entry.path))?;
            left -= n as u64;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        target: &[u8],
        entry: &Entry,
        existing: Option<Metadata>,
    ) -> Result<(), ArchiveError> {
        let path = checked_path(target, &entry.path)?;
        let target_name = path
            .file_name()
            .ok_or_else(|| ArchiveError::refused(&entry.path, "hard link to the layer itself"))?;
        let target_parent = self.parent(&path, entry)?;
        let missing = || ArchiveError::MissingLink {
            path: super::entry::display(&entry.path),
            target: super::entry::display(target),
        };
        let metadata = match at::stat(&target_parent.fd, target_name) {
            Ok(metadata) => metadata,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                let real = target_parent.real.join(target_name);
                let (lower, metadata) = self.visible_below(&real).ok_or_else(missing)?;
                self.lowers
                    .copy_up(lower, &real, &metadata, &target_parent.fd)
                    .map_err(ArchiveError::file("copy up", target))?;
                metadata
            }
            Err(err) => return Err(ArchiveError::file("stat", target)(err)),
        };
        if metadata.is_dir() || metadata.is_whiteout() {
            return Err(ArchiveError::refused(&entry.path, "hard link to what cannot be linked"));
        }
        match existing {
            Some(existing) if existing.is_same_file(&metadata) => return Ok(()),
            Some(_) => self.remove(parent, name, &parent.real.join(name), entry)?,
            None => {}
        }
        at::hard_link(&target_parent.fd, target_name, &parent.fd, name)
            .map_err(ArchiveError::file("create hard link", &entry.path))?;
        set_link_metadata(parent, name, entry, &metadata)
    }

    /// The directory that `path` lies in, made as far as it is missing.
    fn parent(&mut self, path: &Path, entry: &Entry) -> Result<Rc<Parent>, ArchiveError> {
        let named = path.parent().unwrap_or(Path::new(""));
        if let Some(parent) = self.parent.as_ref().filter(|parent| parent.named == named) {
            return Ok(parent.clone());
        }
        let real = self.make_directories(named, entry)?;
        let fd = self
            .root
            .open_dir_fd(&real)
            .map_err(ArchiveError::file("open the directory of", &entry.path))?;
        let parent = Rc::new(Parent {
            named: named.to_path_buf(),
            real,
            fd,
        });
        self.parent = Some(parent.clone());
        Ok(parent)
    }

    /// Walks to `named` as the finished image will show it: this layer first, then those below. Links are followed
    /// inside the root, missing directories made.
    fn make_directories(&mut self, named: &Path, entry: &Entry) -> Result<PathBuf, ArchiveError> {
        let mut real = PathBuf::new();
        let mut pending: Vec<OsString> = components_reversed(named);
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&part);
            match self.step(&next, entry)? {
                None => real = next,
                Some(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ArchiveError::refused(&entry.path, "too many symbolic links"));
                    }
                    if target.is_absolute() {
                        real.clear();
                    }
                    pending.extend(components_reversed(&target));
                }
            }
        }
        Ok(real)
    }

    /// Makes sure that `next` is a directory; a symbolic link is given back to be followed.
    fn step(&mut self, next: &Path, entry: &Entry) -> Result<Option<PathBuf>, ArchiveError> {
        let failed = || ArchiveError::file("create the directory of", &entry.path);
        let hides_lower = match self.root.lstat(next) {
            Ok(metadata) if metadata.is_dir() => return Ok(None),
            Ok(metadata) if metadata.is_symlink() => {
                return self
                    .root
                    .read_link(next)
                    .map(|target| Some(target.into()))
                    .map_err(failed());
            }
            Ok(metadata) if metadata.is_whiteout() => {
                self.root.unlink(next).map_err(failed())?;
                true
            }
            Ok(_) => return Err(ArchiveError::refused(&entry.path, "its parent is not a directory")),
            Err(err) if err.kind() == io::ErrorKind::NotFound => false,
            Err(err) => return Err(failed()(err)),
        };
        let below = if hides_lower { None } else { self.visible_below(next) };
        match below {
            Some((lower, metadata)) if metadata.is_symlink() => lower
                .read_link(next)
                .map(|target| Some(target.into()))
                .map_err(failed()),
            Some((lower, metadata)) if metadata.is_dir() => {
                self.root.create_dir(next, 0o700).map_err(failed())?;
                self.copy_directory_metadata(next, lower, &metadata)?;
                Ok(None)
            }
            _ => {
                self.root.create_dir(next, 0o755).map_err(failed())?;
                if self.options.plain.is_none() {
                    self.directory_times.insert(next.to_path_buf(), time(entry.mtime));
                }
                if hides_lower {
                    self.make_opaque(next, &entry.path)?;
                } else {
                    self.applied.implied.insert(next.to_path_buf());
                }
                Ok(None)
            }
        }
    }

    /// What the layers below show at `path` through this one.
    fn visible_below(&self, path: &Path) -> Option<(&'a Root, Metadata)> {
        let is_hidden = path.ancestors().skip(1).any(|dir| self.opaque.contains(dir));
        if is_hidden { None } else { self.lowers.find(path) }
    }

    fn copy_directory_metadata(&mut self, path: &Path, lower: &Root, metadata: &Metadata) -> Result<(), ArchiveError> {
        let named = path.as_os_str().as_bytes();
        super::lower::copy_directory_metadata(self.root, path, lower, metadata)
            .map_err(ArchiveError::file("copy the metadata of", named))?;
        self.directory_times.insert(path.to_path_buf(), metadata.mtime);
        Ok(())
    }
}

/// A name in an archive as a clean relative path. `..` is refused: no honest archive has it.
fn checked_path(name: &[u8], entry: &[u8]) -> Result<PathBuf, ArchiveError> {
    if name.is_empty() || name.contains(&0) {
        return Err(ArchiveError::refused(entry, "empty name, or NUL in a name"));
    }
    if name.split(|b| *b == b'/').any(|part| part == b"..") {
        return Err(ArchiveError::refused(entry, "\"..\" in a name"));
    }
    let path = clean(OsStr::from_bytes(name));
    match path.as_os_str().len() {
        0..=MAX_PATH => Ok(path),
        length => Err(ArchiveError::refused(entry, format!("name of {length} bytes"))),
    }
}

fn components_reversed(path: &Path) -> Vec<OsString> {
    let parts = path.as_os_str().as_bytes().split(|b| *b == b'/').rev();
    parts
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

fn make_node(parent: &Parent, name: &OsStr, kind: u32, device: Device, entry: &Entry) -> Result<(), ArchiveError> {
    at::mknod(&parent.fd, name, kind | 0o600, (device.major, device.minor))
        .map_err(ArchiveError::file("create special file", &entry.path))
}

/// Owner first: changing it clears set-id bits and file capabilities.
fn set_metadata(parent: &Parent, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
    at::chown(&parent.fd, name, entry.uid, entry.gid).map_err(ArchiveError::file("change owner of", &entry.path))?;
    if !matches!(entry.kind, EntryKind::Symlink(_)) {
        at::chmod(&parent.fd, name, entry.mode).map_err(ArchiveError::file("change mode of", &entry.path))?;
    }
    set_xattrs(parent, name, entry)
}

/// What the entry of a further name says of the file holds for the file. The owner is left alone if it is the same:
/// not every archive tells of capabilities again, which a change would take away.
fn set_link_metadata(parent: &Parent, name: &OsStr, entry: &Entry, linked: &Metadata) -> Result<(), ArchiveError> {
    if (linked.uid, linked.gid) != (entry.uid, entry.gid) {
        at::chown(&parent.fd, name, entry.uid, entry.gid)
            .map_err(ArchiveError::file("change owner of", &entry.path))?;
    }
    if !linked.is_symlink() {
        at::chmod(&parent.fd, name, entry.mode).map_err(ArchiveError::file("change mode of", &entry.path))?;
    }
    set_xattrs(parent, name, entry)?;
    at::set_times(&parent.fd, name, None, Some(time(entry.mtime)))
        .map_err(ArchiveError::file("set times of", &entry.path))
}

fn set_xattrs(parent: &Parent, name: &OsStr, entry: &Entry) -> Result<(), ArchiveError> {
    for (key, value) in settable_xattrs(entry) {
        ignore_unsupported(key, at::set_xattr(&parent.fd, name, key, value))
            .map_err(ArchiveError::file("set attributes of", &entry.path))?;
    }
    Ok(())
}

/// Attributes that an image may set: overlay's own could make a layer show files of other layers.
fn settable_xattrs(entry: &Entry) -> impl Iterator<Item = (&OsStr, &[u8])> {
    let allowed = entry.xattrs.iter().filter(|(key, _)| !whiteout::is_overlay_xattr(key));
    allowed.map(|(key, value)| (OsStr::from_bytes(key), value.as_slice()))
}

/// File systems without some kind of attribute exist, and symbolic links cannot have `user.*` ones. Capabilities are
/// different: a program without them does not work.
fn ignore_unsupported(key: &OsStr, set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(err)
            if key != whiteout::CAPABILITY
                && matches!(err.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL)) =>
        {
            tracing::debug!(xattr = %key.display(), error = %err, "left out an extended attribute");
            Ok(())
        }
        set => set,
    }
}

/// The time that a file gets. Those before the epoch, and those that 64 bits of nanoseconds do not reach, become the
/// epoch, as with other builders.
fn time(mtime: Mtime) -> Time {
    let is_kept = u64::try_from(mtime.seconds).is_ok_and(|seconds| seconds < i64::MAX as u64 / 1_000_000_000);
    let Mtime { seconds, nanos } = if is_kept { mtime } else { Mtime::default() };
    Time { secs: seconds, nanos }
}
