//! Immutable files, each named by what it holds and what it looks like.
//!
//! A file is written under a temporary name, given its metadata, and renamed to the name of its key; so a name that is
//! there stands for a whole file, whatever killed the process. Whether it survives a power failure is the business of
//! [`super::store`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::identity::{self, FileKey, FileMeta};

/// Where files lie, in directories named by the first byte of the key and made when they are needed.
const FILES: &str = "files";
/// Where files are written.
const TEMPORARY: &str = "tmp";

/// A store of immutable files.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    root: OwnedFd,
    /// The user and group that new files get by themselves.
    own_ids: (u32, u32),
    next_temporary: AtomicU64,
}

/// A file that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name in the store.
    pub key: FileKey,
    /// blake3 of its bytes.
    pub bytes: [u8; 32],
    /// How many there are.
    pub size: u64,
}

impl FileStore {
    /// Opens the store at `path`, a directory of the daemon's own, and removes what an earlier process left half done.
    pub fn open(path: &Path) -> io::Result<Self> {
        crate::sys::root::create_private_dirs(path)?;
        match fs::remove_dir_all(path.join(TEMPORARY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(path.join(TEMPORARY))?,
        }
        crate::sys::root::create_private_dirs(&path.join(FILES))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
            path: path.to_owned(),
            own_ids: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            next_temporary: AtomicU64::new(0),
        })
    }

    /// Stores a file whose bytes are at hand. Writes nothing if it is there already. `register` learns the key first.
    pub fn put(&self, meta: &FileMeta, bytes: &[u8], register: impl FnOnce(&FileKey)) -> io::Result<Stored> {
        let hash = *blake3::hash(bytes).as_bytes();
        let key = identity::file_key(meta, &hash);
        register(&key);
        let size = bytes.len() as u64;
        if !self.contains(&key)? {
            let mut temporary = self.temporary()?;
            temporary.file.write_all(bytes)?;
            self.keep(temporary, meta, &key)?;
        }
        Ok(Stored { key, bytes: hash, size })
    }

    /// Starts a file whose bytes come piece by piece.
    pub fn writer(&self) -> io::Result<FileWriter<'_>> {
        Ok(FileWriter {
            store: self,
            temporary: self.temporary()?,
            hasher: blake3::Hasher::new(),
            size: 0,
        })
    }

    /// Whether the file is there.
    pub fn contains(&self, key: &FileKey) -> io::Result<bool> {
        match rustix::fs::accessat(
            &self.root,
            name(key).as_str(),
            rustix::fs::Access::EXISTS,
            AtFlags::empty(),
        ) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file for reading.
    pub fn read(&self, key: &FileKey) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.root, name(key).as_str(), flags, Mode::empty())?.into())
    }

    /// Gives a file one more name, in a layer.
    pub fn link(&self, key: &FileKey, dir: impl AsFd, as_name: &std::ffi::OsStr) -> io::Result<()> {
        crate::sys::at::check_name(as_name)?;
        Ok(rustix::fs::linkat(
            &self.root,
            name(key).as_str(),
            dir,
            as_name,
            AtFlags::empty(),
        )?)
    }

    /// Removes a file; no error if it is not there. Names given to it by [`FileStore::link`] stay.
    pub(crate) fn remove(&self, key: &FileKey) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.root, name(key).as_str(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `visit` for every file with the bytes it takes on disk.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(FileKey, u64) -> io::Result<()>) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        for shard in 0..=255u8 {
            let dir = self.path.join(FILES).join(hex::encode([shard]));
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let Some(key) = parse_name(shard, &entry.file_name()) else {
                    tracing::warn!(path = ?entry.path(), "unknown file in the file store");
                    continue;
                };
                visit(key, entry.metadata()?.blocks() * 512)?;
            }
        }
        Ok(())
    }

    /// Returns once everything stored so far is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.root)?)
    }

    fn temporary(&self) -> io::Result<Temporary<'_>> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}/{number}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root, name.as_str(), flags, Mode::from_raw_mode(0o600))?;
        Ok(Temporary {
            store: self,
            name,
            file: file.into(),
            is_kept: false,
        })
    }

    fn keep(&self, mut temporary: Temporary<'_>, meta: &FileMeta, key: &FileKey) -> io::Result<()> {
        let file = &temporary.file;
        if (meta.uid, meta.gid) != self.own_ids {
            crate::sys::at::chown_fd(file, meta.uid, meta.gid)?;
        }
        // After the owner, whose change drops set-id bits and capabilities.
        rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode & 0o7777))?;
        for (attribute, value) in &meta.xattrs {
            if let Err(error) = rustix::fs::fsetxattr(file, attribute.as_os_str(), value, XattrFlags::empty()) {
                tracing::debug!(attribute = %attribute.display(), %error, "extended attribute of a received file not kept");
            }
        }
        rustix::fs::futimens(file, &timestamps(meta.mtime_ns))?;
        self.name_file(&temporary.name, key)?;
        temporary.is_kept = true;
        Ok(())
    }

    fn name_file(&self, temporary: &str, key: &FileKey) -> io::Result<()> {
        let rename = || rustix::fs::renameat(&self.root, temporary, &self.root, name(key).as_str());
        match rename() {
            Err(rustix::io::Errno::NOENT) => {
                let shard = self.path.join(FILES).join(hex::encode(&key.0[..1]));
                crate::sys::root::create_private_dirs(&shard)?;
                Ok(rename()?)
            }
            done => Ok(done?),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct FileWriter<'a> {
    store: &'a FileStore,
    temporary: Temporary<'a>,
    hasher: blake3::Hasher,
    size: u64,
}

impl FileWriter<'_> {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.temporary.file.write_all(bytes)
    }

    /// Names the file. Nothing remains of one that is dropped before. `register` learns the key before the file has
    /// its name.
    pub fn finish(self, meta: &FileMeta, register: impl FnOnce(&FileKey)) -> io::Result<Stored> {
        let bytes = *self.hasher.finalize().as_bytes();
        let key = identity::file_key(meta, &bytes);
        register(&key);
        let size = self.size;
        if !self.store.contains(&key)? {
            self.store.keep(self.temporary, meta, &key)?;
        }
        Ok(Stored { key, bytes, size })
    }
}

#[derive(Debug)]
struct Temporary<'a> {
    store: &'a FileStore,
    name: String,
    file: File,
    is_kept: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = rustix::fs::unlinkat(&self.store.root, self.name.as_str(), AtFlags::empty())
        {
            tracing::warn!(name = self.name, %error, "temporary file not removed");
        }
    }
}

fn timestamps(mtime_ns: i64) -> Timestamps {
    let time = crate::sys::Time::from_nanos(mtime_ns);
    let spec = Timespec {
        tv_sec: time.secs,
        tv_nsec: time.nanos.into(),
    };
    Timestamps {
        last_access: spec,
        last_modification: spec,
    }
}

fn name(key: &FileKey) -> String {
    let hex = hex::encode(key.0);
    format!("{FILES}/{}/{}", &hex[..2], &hex[2..])
}

fn parse_name(shard: u8, file_name: &std::ffi::OsStr) -> Option<FileKey> {
    let mut key = [0; 32];
    key[0] = shard;
    hex::decode_to_slice(file_name.to_str()?, &mut key[1..]).ok()?;
    Some(FileKey(key))
}
