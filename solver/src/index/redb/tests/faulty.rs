//! A disk in memory that remembers everything that was done to it, so that one can see what a crash at any moment leaves.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::{Builder, Database, DatabaseError, StorageBackend};
use parking_lot::Mutex;

use super::super::disk::Disk;

/// What a disk writes whole, or not at all.
const SECTOR: usize = 512;

/// What was done to a disk.
#[derive(Clone)]
pub(super) enum Done {
    Make(PathBuf, usize),
    Write {
        file: usize,
        at: usize,
        data: Arc<[u8]>,
    },
    SetLen {
        file: usize,
        len: usize,
    },
    Sync(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncNames,
    /// The test begins with its step of this number.
    Begun(usize),
    /// The test was told that so many steps are safe.
    Safe(usize),
}

/// What is on a disk.
#[derive(Clone, Default)]
pub(super) struct Contents {
    names: BTreeMap<PathBuf, usize>,
    files: Vec<Vec<u8>>,
}

impl Contents {
    fn apply(&mut self, done: &Done) {
        match done {
            Done::Make(path, file) => {
                self.file(*file).clear();
                self.names.insert(path.clone(), *file);
            }
            Done::Write { file, at, data } => {
                let end = at + data.len();
                let file = self.file(*file);
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(data);
            }
            Done::SetLen { file, len } => self.file(*file).resize(*len, 0),
            Done::Rename(from, to) => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Done::Remove(path) => {
                self.names.remove(path);
            }
            Done::Sync(_) | Done::SyncNames | Done::Begun(_) | Done::Safe(_) => {}
        }
    }

    fn file(&mut self, number: usize) -> &mut Vec<u8> {
        if self.files.len() <= number {
            self.files.resize(number + 1, Vec::new());
        }
        &mut self.files[number]
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.names.contains_key(path)
    }
}

/// What the process leaves that is killed after `log`.
pub(super) fn killed(before: &Contents, log: &[Done]) -> Contents {
    let mut left = before.clone();
    log.iter().for_each(|done| left.apply(done));
    left
}

/// What is left if the last write of `log` got only as far as `chance` says of each sector.
pub(super) fn torn(before: &Contents, log: &[Done], mut chance: impl FnMut() -> bool) -> Contents {
    let Some((last, log)) = log.split_last() else {
        return before.clone();
    };
    let mut left = killed(before, log);
    sectors(last)
        .filter(|_| chance())
        .for_each(|sector| left.apply(&sector));
    left
}

/// What the machine leaves that loses power after `log`: what was synced is there. Of the rest, `chance` says of each
/// sector and each change of length whether it came to the disk. Names change in order, up to some point.
pub(super) fn unpowered(before: &Contents, log: &[Done], mut chance: impl FnMut() -> bool) -> Contents {
    let mut synced: BTreeMap<usize, usize> = BTreeMap::new();
    let mut names_synced = None;
    for (n, done) in log.iter().enumerate() {
        match done {
            Done::Sync(file) => drop(synced.insert(*file, n)),
            Done::SyncNames => names_synced = Some(n),
            _ => {}
        }
    }
    let mut left = before.clone();
    let mut names_go_on = true;
    for (n, done) in log.iter().enumerate() {
        match done {
            Done::Write { file, .. } | Done::SetLen { file, .. } => {
                if synced.get(file).is_some_and(|synced| n < *synced) {
                    left.apply(done);
                } else {
                    sectors(done)
                        .filter(|_| chance())
                        .for_each(|sector| left.apply(&sector));
                }
            }
            Done::Make(..) | Done::Rename(..) | Done::Remove(_) => {
                names_go_on &= names_synced.is_some_and(|synced| n < synced) || chance();
                if names_go_on {
                    left.apply(done);
                }
            }
            Done::Sync(_) | Done::SyncNames | Done::Begun(_) | Done::Safe(_) => {}
        }
    }
    left
}

/// The parts of what was done that come to a disk one by one.
fn sectors(done: &Done) -> Box<dyn Iterator<Item = Done> + '_> {
    match done {
        Done::Write { file, at, data } => Box::new((0..data.len()).step_by(SECTOR).map(move |from| Done::Write {
            file: *file,
            at: at + from,
            data: data[from..data.len().min(from + SECTOR)].into(),
        })),
        _ => Box::new(std::iter::once(done.clone())),
    }
}

/// The disk.
#[derive(Clone, Default)]
pub(super) struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Contents,
    log: Vec<Done>,
}

impl FaultyDisk {
    pub(super) fn with(contents: Contents) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: contents,
            log: Vec::new(),
        })))
    }

    pub(super) fn log(&self) -> Vec<Done> {
        self.0.lock().log.clone()
    }

    pub(super) fn contents(&self) -> Contents {
        self.0.lock().now.clone()
    }

    pub(super) fn note(&self, done: Done) {
        let mut state = self.0.lock();
        state.now.apply(&done);
        state.log.push(done);
    }
}

impl Disk for FaultyDisk {
    fn open(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
        let now = self.contents();
        let known = now.names.get(path).copied();
        let file = known.unwrap_or(now.files.len());
        if known.is_none() {
            self.note(Done::Make(path.to_owned(), file));
        }
        builder.create_with_backend(OpenFile {
            disk: self.clone(),
            file,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(Done::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.contents().has(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.note(Done::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_names(&self, _path: &Path) -> io::Result<()> {
        self.note(Done::SyncNames);
        Ok(())
    }

    fn size(&self, path: &Path) -> Option<u64> {
        let state = self.0.lock();
        let file = state.now.names.get(path)?;
        Some(state.now.files[*file].len() as u64)
    }
}

struct OpenFile {
    disk: FaultyDisk,
    file: usize,
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.file)
    }
}

fn position(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().now.files[self.file].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.0.lock();
        let at = position(offset);
        let found = state.now.files[self.file].get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = position(len);
        self.disk.note(Done::SetLen { file: self.file, len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.note(Done::Sync(self.file));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (file, at) = (self.file, position(offset));
        let data = data.into();
        self.disk.note(Done::Write { file, at, data });
        Ok(())
    }
}
