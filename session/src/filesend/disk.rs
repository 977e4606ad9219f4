//! Writes a received tree into a directory of the client.
//!
//! The daemon is not trusted: no path leads out of the directory, not even through symbolic links that the
//! daemon sent before or that were there already. Parents are opened beneath the directory without following
//! links, and everything else is done relative to them. Files and links appear under their names only when
//! they are complete.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::{Packet, Stat, Xattr};
use futures_util::Stream;
use rustix::fs::{self, AtFlags, Dir, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::fsutil::{BoxError, Decision, ReceiveSink, ReceiveSummary, TransferError, TransferLimits};
use crate::mode;

mod place;

use place::{Place, Root, Temporary};

/// Senders interleave four files; one that opens this many is up to no good.
const MAX_OPEN_FILES: usize = 64;

/// What becomes of files that are in the directory already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveMode {
    /// They stay, unless something of the same name arrives.
    Merge,
    /// They are deleted: the directory ends up as what was sent.
    Mirror,
}

/// Failure to write a received entry.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The directory itself cannot be used.
    #[error("failed to open output directory {}: {source}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An entry cannot be written.
    #[error("failed to {action} {}: {source}", path.display())]
    Entry {
        /// What was attempted.
        action: &'static str,
        /// The entry.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The sender mixes the contents of too many files.
    #[error("more than {MAX_OPEN_FILES} files arrive at the same time")]
    TooManyOpenFiles,
}

impl DiskError {
    fn entry<E: Into<std::io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Entry {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Receives a tree into the directory at `path`, on a thread that may block.
pub(super) async fn receive(
    incoming: impl Stream<Item = Result<Packet, Status>> + Send + Unpin + 'static,
    outgoing: mpsc::Sender<Packet>,
    path: PathBuf,
    mode: ReceiveMode,
) -> Result<ReceiveSummary, TransferError> {
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        runtime.block_on(async {
            let mut sink = DiskSink::open(path, mode).map_err(|error| TransferError::Sink(error.into()))?;
            let limits = TransferLimits::default();
            tokio::select! {
                result = crate::fsutil::receive(incoming, outgoing, &limits, &mut sink) => result,
                () = stop.cancelled() => Err(TransferError::Stopped),
            }
        })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| TransferError::Stopped)?
}

/// A directory that takes in a tree. All its methods block.
pub struct DiskSink {
    root: Root,
    mode: ReceiveMode,
    /// Files whose content was asked for.
    wanted: HashMap<u32, Stat>,
    open: HashMap<u32, OpenFile>,
    /// Made at the end, when what they point to is complete.
    hard_links: Vec<Stat>,
    /// Their permissions and times are set at the end: writing into them needs the one and changes the other.
    dirs: Vec<Stat>,
    /// With [`ReceiveMode::Mirror`]: all paths that were sent.
    sent: HashSet<PathBuf>,
}

struct OpenFile {
    stat: Stat,
    file: File,
    temporary: Temporary,
}

impl DiskSink {
    /// Opens the directory, and makes it if it is missing.
    ///
    /// # Errors
    /// [`DiskError::Root`].
    pub fn open(path: PathBuf, mode: ReceiveMode) -> Result<Self, DiskError> {
        let root = Root::open(&path).map_err(|source| DiskError::Root { path, source })?;
        Ok(Self {
            root,
            mode,
            wanted: HashMap::new(),
            open: HashMap::new(),
            hard_links: Vec::new(),
            dirs: Vec::new(),
            sent: HashSet::new(),
        })
    }

    fn take_entry(&mut self, index: u32, stat: Stat) -> Result<Decision, DiskError> {
        if self.mode == ReceiveMode::Mirror {
            self.sent.insert(stat.path().to_owned());
        }
        if mode::is_dir(stat.mode) {
            self.take_dir(stat)?;
        } else if mode::is_symlink(stat.mode) {
            self.take_symlink(&stat)?;
        } else if !mode::is_regular(stat.mode) {
            self.take_special(&stat)?;
        } else if !stat.linkname.is_empty() {
            self.hard_links.push(stat);
        } else if !self.has_file(&stat)? {
            self.wanted.insert(index, stat);
            return Ok(Decision::Fetch);
        }
        Ok(Decision::Skip)
    }

    fn place(&mut self, path: &Path) -> Result<Place, DiskError> {
        self.root
            .place(path)
            .map_err(DiskError::entry("open the directory of", path))
    }

    fn take_dir(&mut self, stat: Stat) -> Result<(), DiskError> {
        let place = self.place(stat.path())?;
        let failed = DiskError::entry("create directory", stat.path());
        place.make_dir(mode::permissions(stat.mode)).map_err(failed)?;
        self.dirs.push(stat);
        Ok(())
    }

    fn take_symlink(&mut self, stat: &Stat) -> Result<(), DiskError> {
        let place = self.place(stat.path())?;
        let make = || {
            let temporary = place.temporary();
            fs::symlinkat(stat.linkname(), temporary.dir(), temporary.name())?;
            fs::utimensat(
                temporary.dir(),
                temporary.name(),
                &times(stat),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            temporary.persist(&place)
        };
        make().map_err(DiskError::entry("create symbolic link", stat.path()))
    }

    fn take_special(&mut self, stat: &Stat) -> Result<(), DiskError> {
        let place = self.place(stat.path())?;
        let make = || {
            let raw = mode::to_unix(stat.mode).ok_or(Errno::INVAL)?;
            let number = |number: i64| u32::try_from(number).map_err(|_| Errno::INVAL);
            let device = fs::makedev(number(stat.devmajor)?, number(stat.devminor)?);
            let temporary = place.temporary();
            let kind = fs::FileType::from_raw_mode(raw);
            fs::mknodat(
                temporary.dir(),
                temporary.name(),
                kind,
                Mode::from_raw_mode(raw),
                device,
            )?;
            fs::chmodat(temporary.dir(), temporary.name(), permissions(stat), AtFlags::empty())?;
            fs::utimensat(
                temporary.dir(),
                temporary.name(),
                &times(stat),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            temporary.persist(&place)
        };
        make().map_err(DiskError::entry("create special file", stat.path()))
    }

    /// Whether the directory holds the file already, by the same signs that daemons go by.
    fn has_file(&mut self, stat: &Stat) -> Result<bool, DiskError> {
        let place = self.place(stat.path())?;
        let Some(found) = place.stat().map_err(DiskError::entry("look at", stat.path()))? else {
            return Ok(false);
        };
        let time = i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec);
        Ok(mode::from_unix(found.st_mode) == stat.mode
            && found.st_size == stat.size
            && time == i128::from(stat.mod_time))
    }

    /// The file that content of `index` goes into; made when the first piece comes.
    fn file(&mut self, index: u32) -> Result<Option<&mut OpenFile>, DiskError> {
        if let Some(stat) = self.wanted.remove(&index) {
            if self.open.len() >= MAX_OPEN_FILES {
                return Err(DiskError::TooManyOpenFiles);
            }
            let place = self.place(stat.path())?;
            let temporary = place.temporary();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = fs::openat(temporary.dir(), temporary.name(), flags, Mode::RUSR | Mode::WUSR);
            let file = File::from(file.map_err(DiskError::entry("create", stat.path()))?);
            self.open.insert(index, OpenFile { stat, file, temporary });
        }
        Ok(self.open.get_mut(&index))
    }

    fn take_data(&mut self, index: u32, chunk: &[u8]) -> Result<(), DiskError> {
        let Some(open) = self.file(index)? else { return Ok(()) };
        open.file
            .write_all(chunk)
            .map_err(DiskError::entry("write", open.stat.path()))
    }

    fn end_file(&mut self, index: u32) -> Result<(), DiskError> {
        // A file without content is made only now.
        self.file(index)?;
        let Some(OpenFile { stat, file, temporary }) = self.open.remove(&index) else {
            return Ok(());
        };
        let place = self.place(stat.path())?;
        let finish = || {
            set_xattrs(&file, &stat.xattrs);
            fs::fchmod(&file, permissions(&stat))?;
            fs::futimens(&file, &times(&stat))?;
            temporary.persist(&place)
        };
        finish().map_err(DiskError::entry("finish", stat.path()))
    }

    fn finish(&mut self) -> Result<(), DiskError> {
        for stat in std::mem::take(&mut self.hard_links) {
            self.make_hard_link(&stat)?;
        }
        if self.mode == ReceiveMode::Mirror {
            self.delete_others(Path::new(""))?;
            for dir in &self.dirs {
                self.delete_others(dir.path())?;
            }
        }
        // Inner directories first: a parent may end up closed to us.
        for stat in std::mem::take(&mut self.dirs).into_iter().rev() {
            let finish = |root: &mut Root| {
                let dir = root.open_dir(stat.path())?;
                set_xattrs(&dir, &stat.xattrs);
                fs::fchmod(&dir, permissions(&stat))?;
                fs::futimens(&dir, &times(&stat))
            };
            finish(&mut self.root).map_err(DiskError::entry("finish directory", stat.path()))?;
        }
        Ok(())
    }

    fn make_hard_link(&mut self, stat: &Stat) -> Result<(), DiskError> {
        let target = self.place(stat.linkname())?;
        let place = self.place(stat.path())?;
        let make = || {
            let temporary = place.temporary();
            fs::linkat(
                target.dir(),
                target.name(),
                temporary.dir(),
                temporary.name(),
                AtFlags::empty(),
            )?;
            temporary.persist(&place)
        };
        make().map_err(DiskError::entry("create hard link", stat.path()))
    }

    /// Deletes what is in a directory but was not sent.
    fn delete_others(&self, path: &Path) -> Result<(), DiskError> {
        let failed = |source: Errno| DiskError::entry("clean up", path)(source);
        let dir = self.root.open_dir(path).map_err(failed)?;
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let child = path.join(OsStr::from_bytes(name));
            if !self.sent.contains(&child) {
                let failed = DiskError::entry("delete", &child);
                place::remove(dir.as_fd(), entry.file_name()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl ReceiveSink for DiskSink {
    async fn entry(&mut self, index: u32, stat: Stat) -> Result<Decision, BoxError> {
        Ok(self.take_entry(index, stat)?)
    }

    async fn data(&mut self, index: u32, chunk: Bytes) -> Result<(), BoxError> {
        Ok(self.take_data(index, &chunk)?)
    }

    async fn end_of_file(&mut self, index: u32) -> Result<(), BoxError> {
        Ok(self.end_file(index)?)
    }

    async fn complete(&mut self) -> Result<(), BoxError> {
        Ok(self.finish()?)
    }
}

fn permissions(stat: &Stat) -> Mode {
    Mode::from_raw_mode(mode::permissions(stat.mode))
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Sets what the file system and our privileges allow.
fn set_xattrs(file: impl AsFd, xattrs: &[Xattr]) {
    for xattr in xattrs {
        if let Err(error) = fs::fsetxattr(file.as_fd(), xattr.name(), &xattr.value, fs::XattrFlags::empty()) {
            tracing::debug!(name = %xattr.name().display(), %error, "extended attribute could not be set");
        }
    }
}

/// Names that are unlikely to be in use; a clash fails and overwrites nothing.
fn temporary_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        ".partial-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Shared by what is being made in one directory.
type DirFd = Arc<std::os::fd::OwnedFd>;
