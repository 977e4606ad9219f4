//! Trees on disk: stored files, and a database of directory objects and trees.
//!
//! Everything of one format version lies in one directory, so an unknown version is simply not looked at. A transfer
//! puts its files in place first and then names objects, tree and key in one transaction. Files are not synced one by
//! one: a tree recorded since the last [`TreeStore::sync`] carries the boot id, and if the machine went down since, it
//! is forgotten with every file that no other tree names.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::dir::Dir;
use super::error::TreeError;
use super::files::FileStore;
use super::handle::Tree;
use super::identity::TreeDigest;
use super::pins::Pins;
use super::receive::SourceKey;

/// Directory of the format that this code reads and writes.
const FORMAT: &str = "v1";
/// Memory for pages of the database; the system caches the file besides.
const CACHE_BYTES: usize = 4 << 20;
const DATABASE: &str = "trees.redb";

type HashTable = TableDefinition<'static, &'static [u8; 32], &'static [u8]>;
/// Directory objects by digest.
pub(super) const OBJECTS: HashTable = TableDefinition::new("objects");
/// What is known about trees ([`TreeRecord`] as JSON), by digest.
pub(super) const TREES: HashTable = TableDefinition::new("trees");
/// The latest tree received for a [`SourceKey`].
pub(super) const LATEST: TableDefinition<'static, &'static str, &'static [u8; 32]> = TableDefinition::new("latest");
/// The boot id of the machine when the store was opened last, under the one key `boot`.
const MACHINE: TableDefinition<'static, &'static str, &'static str> = TableDefinition::new("machine");

/// The files and trees of a daemon. Clones share one store. All methods block.
#[derive(Clone, Debug)]
pub struct TreeStore(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) files: FileStore,
    pub(super) database: Database,
    pub(super) pins: Arc<Pins>,
    boot: String,
    /// Held by a collection, so that there is one at a time.
    pub(super) collection: Mutex<()>,
    /// Shared by those who look whether a tree is there, so that none sees one that is just being forgotten.
    pub(super) lookup: RwLock<()>,
}

/// What is known about a tree, for disk usage and pruning.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TreeRecord {
    /// The tree.
    #[serde(skip, default = "no_digest")]
    pub digest: TreeDigest,
    /// Name of the client's directory.
    pub name: String,
    /// Regular files in it.
    pub files: u64,
    /// Bytes of these files. Other trees may hold the same files.
    pub bytes: u64,
    /// First received, ns since the epoch.
    pub created_ns: i64,
    /// Last received or found unchanged, ns since the epoch.
    pub last_used_ns: i64,
    /// How often it was received or found unchanged.
    pub uses: u64,
    /// Set until its files are known to be on disk.
    #[serde(default)]
    unsynced_boot: Option<String>,
}

fn no_digest() -> TreeDigest {
    TreeDigest([0; 32])
}

/// What a transfer has made, to be recorded.
pub(super) struct NewTree {
    pub(super) digest: TreeDigest,
    pub(super) objects: BTreeMap<TreeDigest, Vec<u8>>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl TreeStore {
    /// Opens the store in `path`, a directory of the daemon's own, or makes it.
    ///
    /// A damaged database is started anew, with its files: they can be had from clients again.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let boot = boot_id().map_err(|source| TreeError::Open {
            path: path.display().to_string(),
            source,
        })?;
        Self::open_on(path, boot)
    }

    /// [`TreeStore::open`] on a machine that was started as `boot`.
    pub(super) fn open_on(path: &Path, boot: String) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Open {
            path: path.display().to_string(),
            source,
        };
        let root = path.join(FORMAT);
        crate::sys::root::create_private_dirs(&root).map_err(failed)?;
        let database = match create_database(&root) {
            Ok(database) => database,
            Err(error @ redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(TreeError::database("open a store that is in use")(error));
            }
            Err(error) if is_damaged(&error) => {
                tracing::warn!(path = %root.display(), %error, "database of trees unreadable, starting anew");
                std::fs::remove_dir_all(&root).map_err(failed)?;
                crate::sys::root::create_private_dirs(&root).map_err(failed)?;
                create_database(&root).map_err(TreeError::database("start anew"))?
            }
            Err(error) => return Err(TreeError::database("open the store")(error)),
        };
        let store = Self(Arc::new(Inner {
            files: FileStore::open(&root).map_err(failed)?,
            database,
            pins: Arc::default(),
            boot,
            collection: Mutex::new(()),
            lookup: RwLock::new(()),
        }));
        store.recover()?;
        Ok(store)
    }

    /// The stored files.
    pub fn files(&self) -> &FileStore {
        &self.0.files
    }

    /// Opens a tree, which is kept for as long as the handle lives; `None` if it is not there (any more).
    pub fn tree(&self, digest: TreeDigest) -> Result<Option<Tree>, TreeError> {
        let _shared = self.0.lookup.read();
        let tree = self.pinned(digest);
        let doing = "look up a tree";
        let txn = self.0.database.begin_read().map_err(TreeError::database(doing))?;
        let trees = txn.open_table(TREES).map_err(TreeError::database(doing))?;
        let found = trees.get(&digest.0).map_err(TreeError::database(doing))?;
        Ok(found.is_some().then_some(tree))
    }

    /// The tree that was received last for a key.
    pub fn latest(&self, key: &SourceKey) -> Result<Option<Tree>, TreeError> {
        let doing = "look up the latest tree";
        let txn = self.0.database.begin_read().map_err(TreeError::database(doing))?;
        let latest = txn.open_table(LATEST).map_err(TreeError::database(doing))?;
        let found = latest.get(key.as_str()).map_err(TreeError::database(doing))?;
        match found.map(|digest| TreeDigest(*digest.value())) {
            Some(digest) => self.tree(digest),
            None => Ok(None),
        }
    }

    /// Every tree.
    pub fn trees(&self) -> Result<Vec<TreeRecord>, TreeError> {
        let doing = "list trees";
        let txn = self.0.database.begin_read().map_err(TreeError::database(doing))?;
        let trees = txn.open_table(TREES).map_err(TreeError::database(doing))?;
        let mut records = Vec::new();
        for row in trees.iter().map_err(TreeError::database(doing))? {
            let (digest, record) = row.map_err(TreeError::database(doing))?;
            records.extend(parse(TreeDigest(*digest.value()), record.value()));
        }
        Ok(records)
    }

    /// Writes everything received so far to disk, so that it survives a power failure. Meant to be called every few
    /// seconds while trees arrive; does nothing if none did.
    pub fn sync(&self) -> Result<(), TreeError> {
        let waiting: Vec<_> = self
            .trees()?
            .into_iter()
            .filter(|tree| tree.unsynced_boot.is_some())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        self.0.files.sync().map_err(TreeError::Sync)?;
        self.write("mark trees as durable", Durability::Immediate, |txn| {
            let mut trees = txn.open_table(TREES)?;
            for waiting in &waiting {
                let record = trees
                    .get(&waiting.digest.0)?
                    .and_then(|row| parse(waiting.digest, row.value()));
                if let Some(record) = record {
                    let record = TreeRecord {
                        unsynced_boot: None,
                        ..record
                    };
                    trees.insert(&waiting.digest.0, encode(&record).as_slice())?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn pinned(&self, digest: TreeDigest) -> Tree {
        Tree::pin(self.clone(), digest)
    }

    pub(super) fn object(&self, digest: TreeDigest) -> Result<Dir, TreeError> {
        let doing = "read a directory object";
        let txn = self.0.database.begin_read().map_err(TreeError::database(doing))?;
        let objects = txn.open_table(OBJECTS).map_err(TreeError::database(doing))?;
        let bytes = objects.get(&digest.0).map_err(TreeError::database(doing))?;
        let bytes = bytes.ok_or(TreeError::Object(digest))?;
        Dir::decode(bytes.value()).map_err(|_| TreeError::Object(digest))
    }

    /// Records a tree as the latest for its key.
    pub(super) fn record(&self, key: &SourceKey, new: &NewTree) -> Result<(), TreeError> {
        self.write_as("record a tree", |txn| {
            let mut objects = txn.open_table(OBJECTS)?;
            let mut has_news = false;
            for (digest, bytes) in &new.objects {
                // It may have come under another key.
                if objects.get(&digest.0)?.is_none() {
                    objects.insert(&digest.0, bytes.as_slice())?;
                    has_news = true;
                }
            }
            let mut trees = txn.open_table(TREES)?;
            let known = trees.get(&new.digest.0)?.and_then(|row| parse(new.digest, row.value()));
            has_news |= known.is_none();
            let now = now_ns();
            let record = match known {
                Some(known) => TreeRecord {
                    last_used_ns: now,
                    uses: known.uses.saturating_add(1),
                    ..known
                },
                None => TreeRecord {
                    digest: new.digest,
                    name: key.name().to_owned(),
                    files: new.files,
                    bytes: new.bytes,
                    created_ns: now,
                    last_used_ns: now,
                    uses: 1,
                    unsynced_boot: Some(self.0.boot.clone()),
                },
            };
            trees.insert(&new.digest.0, encode(&record).as_slice())?;
            txn.open_table(LATEST)?.insert(key.as_str(), &new.digest.0)?;
            // What was there before needs no sync: forgetting that it was used is harmless.
            let durability = if has_news {
                Durability::Immediate
            } else {
                Durability::None
            };
            Ok(((), durability))
        })
    }

    pub(super) fn write<T>(
        &self,
        doing: &'static str,
        durability: Durability,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, TreeError> {
        self.write_as(doing, |txn| Ok((change(txn)?, durability)))
    }

    /// The same where it turns out only then how durable the change has to be.
    fn write_as<T>(
        &self,
        doing: &'static str,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(T, Durability), redb::Error>,
    ) -> Result<T, TreeError> {
        let attempt = || -> Result<T, redb::Error> {
            let mut txn = self.0.database.begin_write()?;
            let (value, durability) = change(&txn)?;
            txn.set_durability(durability)?;
            txn.commit()?;
            Ok(value)
        };
        attempt().map_err(TreeError::database(doing))
    }

    /// Makes the tables, and forgets what the machine lost when it went down.
    fn recover(&self) -> Result<(), TreeError> {
        let boot = &self.0.boot;
        let is_same_boot = self.write("open tables", Durability::Immediate, |txn| {
            txn.open_table(OBJECTS)?;
            txn.open_table(LATEST)?;
            txn.open_table(super::links::LINKS)?;
            let mut machine = txn.open_table(MACHINE)?;
            // A new store has nothing to lose.
            let is_same = machine.get("boot")?.is_none_or(|last| last.value() == boot);
            machine.insert("boot", boot.as_str())?;
            let mut trees = txn.open_table(TREES)?;
            trees.retain(|digest, record| {
                let record = parse(TreeDigest(*digest), record);
                record.is_some_and(|record| record.unsynced_boot.is_none_or(|unsynced| unsynced == *boot))
            })?;
            Ok(is_same)
        })?;
        if !is_same_boot {
            // Files that no tree names may be torn, and a transfer would take them for whole.
            let trees: Vec<_> = self.trees()?.into_iter().map(|tree| tree.digest).collect();
            self.retain(&trees)?;
        }
        Ok(())
    }
}

/// Whether the database will never be readable again. Everything else may pass: a full disk, say.
fn is_damaged(error: &redb::DatabaseError) -> bool {
    use redb::{DatabaseError, StorageError};
    match error {
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

pub(super) fn now_ns() -> i64 {
    jiff::Timestamp::now().as_nanosecond().clamp(0, i64::MAX.into()) as i64
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn create_database(root: &Path) -> Result<Database, redb::DatabaseError> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(root.join(DATABASE))
}

fn parse(digest: TreeDigest, json: &[u8]) -> Option<TreeRecord> {
    let record = serde_json::from_slice::<TreeRecord>(json).ok()?;
    Some(TreeRecord { digest, ..record })
}

fn encode(record: &TreeRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of numbers and strings has a JSON form")
}
