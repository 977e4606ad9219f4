//! The open file, and the state of it that reads see.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::redb::{Database, ReadOnlyTable, ReadableDatabase};
use parking_lot::{FairMutex, RwLock};

use super::codec;
use super::disk::Disk;
use super::tables::{self, Last};

/// Most memory for pages of the file, taken as they are read; the system caches the file besides. In it is all that a
/// build of a hundred thousand steps looks up.
const CACHE_BYTES: usize = 16 << 20;

/// The file, open unless writing to it failed and it could not be opened again since.
pub(super) struct File {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    open: RwLock<Option<Open>>,
    /// The last number that was given to a row of what is known about keys, or to a use of a record.
    pub(super) last_known: AtomicU64,
    /// Held while writing: there is one writer at a time, and each gets its turn.
    writing: FairMutex<()>,
    /// Whether something in it made no sense, so that all of it is to be checked.
    is_suspect: AtomicBool,
}

/// Fields are dropped in this order: the file is closed only when nothing reads it.
struct Open {
    snapshot: RwLock<Option<Arc<Snapshot>>>,
    database: Database,
}

type Bytes = &'static [u8];
type Hash = &'static [u8; 32];

/// The tables as they were after a commit. Beginning to read costs more than a look-up, so this is kept until the next
/// commit.
pub(super) struct Snapshot {
    pub(super) results: ReadOnlyTable<Hash, Bytes>,
    pub(super) known: ReadOnlyTable<u64, Bytes>,
    pub(super) gone: ReadOnlyTable<Hash, (u64, u8, u64)>,
    pub(super) contents: ReadOnlyTable<Hash, tables::ContentRow>,
    pub(super) builds: ReadOnlyTable<u64, Bytes>,
    pub(super) steps: ReadOnlyTable<u64, Bytes>,
    pub(super) sites: ReadOnlyTable<Hash, Bytes>,
}

impl Snapshot {
    fn of(database: &Database) -> Result<Self, ::redb::Error> {
        let transaction = database.begin_read()?;
        Ok(Self {
            results: transaction.open_table(tables::RESULTS)?,
            known: transaction.open_table(tables::KNOWN)?,
            gone: transaction.open_table(tables::GONE)?,
            contents: transaction.open_table(tables::CONTENTS)?,
            builds: transaction.open_table(tables::BUILDS)?,
            steps: transaction.open_table(tables::STEPS)?,
            sites: transaction.open_table(tables::SITES)?,
        })
    }
}

impl Snapshot {
    /// The number of the row of what went into a key, if it is known.
    pub(super) fn known_number(&self, key: &[u8; 32]) -> Result<Option<u64>, ::redb::Error> {
        if let Some(row) = self.results.get(key)? {
            return Ok(Some(codec::known_number(row.value())));
        }
        Ok(self.gone.get(key)?.map(|row| row.value().2))
    }
}

impl Open {
    fn snapshot(&self) -> Result<Arc<Snapshot>, ::redb::Error> {
        if let Some(snapshot) = &*self.snapshot.read() {
            return Ok(snapshot.clone());
        }
        // Made with the place locked: what a commit makes out of date is never put there after it.
        let mut place = self.snapshot.write();
        if let Some(snapshot) = &*place {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(Snapshot::of(&self.database)?);
        *place = Some(snapshot.clone());
        Ok(snapshot)
    }
}

const CLOSED: &str = "the file is closed after a failed write";

impl File {
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<(Self, Last), Refused> {
        // Left by a crash.
        let _missing = disk.remove(&compacted_path(path));
        let (database, last) = open_or_begin_anew(&**disk, path, false)?;
        let file = Self {
            disk: disk.clone(),
            path: path.to_owned(),
            open: RwLock::new(Some(Open {
                snapshot: RwLock::default(),
                database,
            })),
            last_known: AtomicU64::new(last.known),
            writing: FairMutex::default(),
            is_suspect: AtomicBool::new(false),
        };
        Ok((file, last))
    }

    /// Reads what was committed last.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Snapshot) -> Result<T, ::redb::Error>) -> Result<T, String> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(CLOSED)?;
        self.guarded(|| work(&*open.snapshot()?))
    }

    /// Whether something in the file made no sense, so that it should be opened again.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed)
    }

    /// Does something with the file. redb checks much of a file by assertions, so a panic means damage too.
    fn guarded<T, E: IsDamage>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
        // What it may have left broken is closed, and only then used again.
        match std::panic::catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                if error.is_damage() {
                    self.is_suspect.store(true, Ordering::Relaxed);
                }
                Err(error.to_string())
            }
            Err(_) => {
                self.is_suspect.store(true, Ordering::Relaxed);
                Err(INCONSISTENT.to_owned())
            }
        }
    }

    /// Looks at what was committed last while nobody else writes, and perhaps writes: `work` says whether it did.
    pub(super) fn update(
        &self,
        work: impl FnOnce(&Snapshot, &Database) -> Result<bool, ::redb::Error>,
    ) -> Result<(), String> {
        let _turn = self.writing.lock();
        let open = self.open.read();
        let open = open.as_ref().ok_or(CLOSED)?;
        let outcome = self.guarded(|| work(&*open.snapshot()?, &open.database));
        if !matches!(outcome, Ok(false)) {
            *open.snapshot.write() = None;
        }
        outcome.map(drop)
    }

    /// Writes. Reads that begin after this has returned see it.
    pub(super) fn write<T, E: IsDamage>(&self, work: impl FnOnce(&Database) -> Result<T, E>) -> Result<T, String> {
        let _turn = self.writing.lock();
        let open = self.open.read();
        let open = open.as_ref().ok_or(CLOSED)?;
        let outcome = self.guarded(|| work(&open.database));
        *open.snapshot.write() = None;
        outcome
    }

    /// Opens the file anew. What made no sense is checked first, and put aside if it is damaged.
    pub(super) fn reopen(&self) -> Result<(), String> {
        self.reopen_after(|| Ok(()))
    }

    /// Puts the compacted file in place of this one, and opens it.
    pub(super) fn replace(&self) -> Result<(), String> {
        self.reopen_after(|| {
            self.disk.rename(&self.compacted(), &self.path)?;
            self.disk.sync_names(&self.path)
        })
    }

    fn reopen_after(&self, work: impl FnOnce() -> std::io::Result<()>) -> Result<(), String> {
        let mut open = self.open.write();
        // Closed first: two cannot have it open. What panicked before may do so again.
        let closed = std::panic::catch_unwind(AssertUnwindSafe(|| *open = None));
        if closed.is_err() {
            *open = None;
        }
        let outcome = work().map_err(|error| error.to_string());
        let is_suspect = self.is_suspect.swap(false, Ordering::Relaxed);
        let opened = open_or_begin_anew(&*self.disk, &self.path, is_suspect);
        let (database, _) = opened.map_err(Refused::into_message)?;
        *open = Some(Open {
            snapshot: RwLock::default(),
            database,
        });
        outcome
    }

    /// Bytes of the file, as far as can be told.
    pub(super) fn size(&self) -> u64 {
        self.disk.size(&self.path).unwrap_or_default()
    }

    /// Begins the file that is to be a compacted one.
    pub(super) fn begin_compacted(&self) -> Result<Database, String> {
        self.remove_compacted();
        let opened = open_database(&*self.disk, &self.compacted(), false);
        opened.map(|(database, _)| database).map_err(Refused::into_message)
    }

    pub(super) fn remove_compacted(&self) {
        let _missing = self.disk.remove(&self.compacted());
    }

    fn compacted(&self) -> PathBuf {
        compacted_path(&self.path)
    }
}

fn compacted_path(path: &Path) -> PathBuf {
    path.with_extension("compacted")
}

/// Why a database file cannot be opened.
pub(super) enum Refused {
    /// By what is not the file's fault: it may be as good as ever.
    Unavailable(String),
    /// What is in it makes no sense.
    Damaged(String),
}

impl Refused {
    pub(super) fn into_message(self) -> String {
        match self {
            Self::Unavailable(message) | Self::Damaged(message) => message,
        }
    }

    fn of(error: &::redb::Error) -> Self {
        let message = error.to_string();
        match error {
            ::redb::Error::DatabaseAlreadyOpen => Self::Unavailable(message),
            // A file that ends too early is read beyond its end.
            ::redb::Error::Io(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput => Self::Damaged(message),
                _ => Self::Unavailable(message),
            },
            _ => Self::Damaged(message),
        }
    }
}

/// Whether an error says that what is in a file makes no sense.
pub(super) trait IsDamage: ToString {
    fn is_damage(&self) -> bool;
}

impl IsDamage for ::redb::Error {
    fn is_damage(&self) -> bool {
        matches!(Refused::of(self), Refused::Damaged(_))
    }
}

/// Opens a file, or puts aside what is damaged and makes a new one. Checks all of it first if `is_suspect`.
fn open_or_begin_anew(disk: &dyn Disk, path: &Path, is_suspect: bool) -> Result<(Database, Last), Refused> {
    let message = match open_database(disk, path, is_suspect) {
        Err(Refused::Damaged(message)) if disk.size(path).is_some() => message,
        outcome => return outcome,
    };
    let aside = path.with_extension("damaged");
    tracing::warn!(
        path = %path.display(), error = message, aside = %aside.display(),
        "the cache index is damaged; it is put aside, and a new one begun"
    );
    let moved = disk.rename(path, &aside);
    moved.map_err(|error| Refused::Unavailable(format!("{message}; moving it aside: {error}")))?;
    open_database(disk, path, false)
}

const INCONSISTENT: &str = "the file is inconsistent";

/// Opens a file and makes its tables.
fn open_database(disk: &dyn Disk, path: &Path, is_suspect: bool) -> Result<(Database, Last), Refused> {
    let is_new = disk.size(path).is_none();
    let shown = path.display().to_string();
    let open = || -> Result<(Database, Last), ::redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        builder.set_check_integrity_on_open(is_suspect);
        builder.set_repair_callback(move |session| {
            if session.progress() == 0.0 && !is_suspect {
                tracing::warn!(
                    path = shown,
                    "the cache index was not closed; checking and repairing it"
                );
            }
        });
        let database = disk.open(&builder, path)?;
        let last = tables::prepare(&database)?;
        Ok((database, last))
    };
    // What is in use is given back when this ends, so nothing broken is seen after a panic.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(open));
    let opened = opened.map_err(|_| Refused::Damaged(INCONSISTENT.to_owned()))?;
    let opened = opened.map_err(|error| Refused::of(&error))?;
    if is_new {
        // Otherwise all that is committed to it may go with its name.
        disk.sync_names(path)
            .map_err(|error| Refused::Unavailable(error.to_string()))?;
    }
    Ok(opened)
}
