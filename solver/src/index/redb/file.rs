//! The open file, and the state of it that reads see.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ::redb::{Database, ReadOnlyTable, ReadableDatabase};
use parking_lot::{FairMutex, RwLock};

use super::codec;
use super::tables::{self, Last};

/// Memory for pages of the file; the system caches the file besides.
const CACHE_BYTES: usize = 4 << 20;

/// The file, open unless writing to it failed and it could not be opened again since.
pub(super) struct File {
    path: PathBuf,
    open: RwLock<Option<Open>>,
    /// Number of the last row of what is known about keys.
    pub(super) last_known: AtomicU64,
    /// Held while writing: there is one writer at a time, and each gets its turn.
    writing: FairMutex<()>,
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
    pub(super) contents: ReadOnlyTable<Hash, Hash>,
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
    pub(super) fn open(path: &Path) -> Result<(Self, Last), Refused> {
        // Left by a crash.
        let _missing = std::fs::remove_file(compacted_path(path));
        let (database, last) = open_database(path)?;
        let file = Self {
            path: path.to_owned(),
            open: RwLock::new(Some(Open {
                snapshot: RwLock::default(),
                database,
            })),
            last_known: AtomicU64::new(last.known),
            writing: FairMutex::default(),
        };
        Ok((file, last))
    }

    /// Reads what was committed last.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Snapshot) -> Result<T, ::redb::Error>) -> Result<T, String> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(CLOSED)?;
        let snapshot = open.snapshot().map_err(|error| error.to_string())?;
        work(&snapshot).map_err(|error| error.to_string())
    }

    /// Looks at what was committed last while nobody else writes, and perhaps writes: `work` says whether it did.
    pub(super) fn update(
        &self,
        work: impl FnOnce(&Snapshot, &Database) -> Result<bool, ::redb::Error>,
    ) -> Result<(), String> {
        let _turn = self.writing.lock();
        let open = self.open.read();
        let open = open.as_ref().ok_or(CLOSED)?;
        let snapshot = open.snapshot().map_err(|error| error.to_string())?;
        let outcome = work(&snapshot, &open.database);
        if !matches!(outcome, Ok(false)) {
            *open.snapshot.write() = None;
        }
        outcome.map(drop).map_err(|error| error.to_string())
    }

    /// Writes. Reads that begin after this has returned see it.
    pub(super) fn write<T, E: ToString>(&self, work: impl FnOnce(&Database) -> Result<T, E>) -> Result<T, String> {
        let _turn = self.writing.lock();
        let open = self.open.read();
        let open = open.as_ref().ok_or(CLOSED)?;
        let outcome = work(&open.database).map_err(|error| error.to_string());
        *open.snapshot.write() = None;
        outcome
    }

    pub(super) fn reopen(&self) -> Result<(), String> {
        self.reopen_after(|| Ok(()))
    }

    /// Puts the compacted file in place of this one, and opens it.
    pub(super) fn replace(&self) -> Result<(), String> {
        self.reopen_after(|| {
            std::fs::rename(compacted_path(&self.path), &self.path)?;
            let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
            std::fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
        })
    }

    fn reopen_after(&self, work: impl FnOnce() -> std::io::Result<()>) -> Result<(), String> {
        let mut open = self.open.write();
        // Closed first: two cannot have it open.
        *open = None;
        let outcome = work().map_err(|error| error.to_string());
        let (database, _) = open_database(&self.path).map_err(Refused::into_message)?;
        *open = Some(Open {
            snapshot: RwLock::default(),
            database,
        });
        outcome
    }

    /// Bytes of the file, as far as can be told.
    pub(super) fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// Where the file is written anew.
    pub(super) fn compacted(&self) -> PathBuf {
        compacted_path(&self.path)
    }
}

fn compacted_path(path: &Path) -> PathBuf {
    path.with_extension("compacted")
}

/// Why a database file cannot be opened.
pub(super) enum Refused {
    InUse(String),
    Damaged(String),
}

impl Refused {
    pub(super) fn into_message(self) -> String {
        match self {
            Self::InUse(message) | Self::Damaged(message) => message,
        }
    }
}

/// Opens a file and makes its tables. redb checks much of a file by assertions, so a panic means damage too.
pub(super) fn open_database(path: &Path) -> Result<(Database, Last), Refused> {
    let open = || -> Result<(Database, Last), Refused> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| match error {
                ::redb::DatabaseError::DatabaseAlreadyOpen => Refused::InUse(error.to_string()),
                other => Refused::Damaged(other.to_string()),
            })?;
        let last = tables::prepare(&database).map_err(|error| Refused::Damaged(error.to_string()))?;
        Ok((database, last))
    };
    std::panic::catch_unwind(open).unwrap_or_else(|_| Err(Refused::Damaged("the file is inconsistent".to_owned())))
}
