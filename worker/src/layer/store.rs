//! The layer store.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use cairn_solver::flight::Flight;
use cairn_solver::{Digest, ResultId};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::background::{Background, move_to_trash};
use super::cache_dir::CacheDirs;
use super::error::LayerError;
use super::list::{Holds, LayerList};
use super::metadata::{CACHE_DIRS, LAYERS, Metadata, RESULTS};
use super::record::{Blob, BlobOrigin, CacheDirRecord, Describe, LayerId, LayerRecord, ResultRecord};
use super::transient::Transient;
use super::unpack::{StageOutcome, Staged};
use crate::sys::mounts::{self, MountGuard};
use crate::sys::root::create_private_dirs;
use crate::sys::{Root, at};

/// Where things are below the store's directory.
#[derive(Clone, Debug)]
pub(super) struct Dirs {
    pub root: PathBuf,
    /// Finished layers: `layers/<id>/fs`, and `layers/<id>/cover` (see [`LayerStore::cover_deletions`]) of a few.
    pub layers: PathBuf,
    /// Layers in the making, same shape.
    pub staging: PathBuf,
    /// Mount points.
    pub mounts: PathBuf,
    /// What is to be deleted.
    pub trash: PathBuf,
    /// Two directories that are and stay empty, for overlays that need more directories than there are layers.
    pub empty: [PathBuf; 2],
    /// Cache directories: `caches/<name>/fs`.
    pub caches: PathBuf,
}

impl Dirs {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            layers: root.join("layers"),
            staging: root.join("staging"),
            mounts: root.join("mounts"),
            trash: root.join("trash"),
            empty: [root.join("empty/0"), root.join("empty/1")],
            caches: root.join("caches"),
        }
    }

    fn create(&self) -> Result<(), LayerError> {
        let [empty0, empty1] = &self.empty;
        for dir in [
            &self.root,
            &self.layers,
            &self.staging,
            &self.mounts,
            &self.trash,
            empty0,
            empty1,
            &self.caches,
        ] {
            create_private_dirs(dir).map_err(LayerError::io("create", dir))?;
        }
        // What has no layers at all is as open as a file system of layers: any user of a process may look into it.
        for dir in &self.empty {
            let readable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(dir, readable).map_err(LayerError::io("open up", dir))?;
        }
        Ok(())
    }

    pub(super) fn layer(&self, id: &LayerId) -> PathBuf {
        self.layers.join(id.as_str())
    }

    pub(super) fn layer_fs(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join("fs")
    }

    pub(super) fn layer_cover(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join(COVER)
    }
}

/// What the cover of a layer is called, beside its files.
pub(super) const COVER: &str = "cover";

/// Layers, results and cache directories of one daemon, on disk.
///
/// Cloning gives another handle. Calls block on the disk: from async code they belong on the blocking pool, except
/// where a method is async itself.
#[derive(Clone)]
pub struct LayerStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    // Fields are dropped in this order: threads first, then mounts, then the lock.
    pub(super) background: Background,
    pub(super) db: Arc<Metadata>,
    pub(super) holds: Arc<Holds>,
    /// Layers being unpacked by themselves; `None` for those that need not be.
    pub(super) staging: Flight<LayerId, (), StageOutcome>,
    /// Those that are unpacked, and not finished yet.
    pub(super) staged: Mutex<HashMap<LayerId, Weak<Staged>>>,
    /// One directory becomes a layer at a time: the second of the same layer would take the place of the first.
    pub(super) recording: Mutex<()>,
    /// Layers being fitted to those below and recorded.
    pub(super) finishing: Flight<LayerId, (), Result<(), Arc<LayerError>>>,
    pub(super) cache_dirs: CacheDirs,
    /// Results that go when nobody holds them any more.
    pub(super) transients: Mutex<HashMap<ResultId, Weak<Transient>>>,
    /// One pruning at a time: the second would count on space that the first gives free.
    pub(super) pruning: Mutex<()>,
    pub(super) boot_id: String,
    pub(super) dirs: Dirs,
    _private: Option<MountGuard>,
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.db.write_uses();
    }
}

impl LayerStore {
    /// Opens the store below `root`, making it if there is none.
    ///
    /// Removes what a killed process left: mounts, unfinished layers, files to be deleted, layers that no result has,
    /// and layers that may be torn because the host went down before they were durable.
    ///
    /// # Errors
    /// [`LayerError::InUse`] while another process has it open.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, LayerError> {
        let root = root.as_ref();
        create_private_dirs(root).map_err(LayerError::io("create", root))?;
        // The table of mounts has real paths.
        let root = root.canonicalize().map_err(LayerError::io("resolve", root))?;
        let dirs = Dirs::new(&root);
        let lock = lock(&root)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(LayerError::io("read", "/proc/sys/kernel/random/boot_id"))?
            .trim()
            .to_owned();
        dirs.create()?;
        let left = mounts::unmount_below(&root).map_err(LayerError::io("unmount what was left below", &root))?;
        if left > 0 {
            tracing::info!(count = left, "unmounted what an earlier process left");
        }
        for dir in [&dirs.staging, &dirs.mounts] {
            trash_children(&dirs, dir, |_| true)?;
        }
        let private = private_mounts(&dirs.mounts);
        let db = Arc::new(open_records(&dirs)?);
        let unsynced = reconcile(&dirs, &db, &boot_id)?;
        let holds = Arc::<Holds>::default();
        let inner = Inner {
            background: Background::start(&dirs, &db, &holds, unsynced)?,
            db,
            holds,
            staging: Flight::default(),
            staged: Mutex::default(),
            recording: Mutex::default(),
            finishing: Flight::default(),
            cache_dirs: CacheDirs::default(),
            transients: Mutex::default(),
            pruning: Mutex::default(),
            boot_id,
            dirs,
            _private: private,
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A file system with nothing in it.
    pub fn scratch(&self) -> LayerList {
        self.inner.holds.hold(Vec::new())
    }

    /// Makes layers of blobs known, bottom first. Nothing is fetched; layers that have a directory, and so are known to
    /// be what they are called, are left as they are.
    pub fn add_blobs(&self, blobs: &[Blob], describe: &Describe) -> Result<LayerList, LayerError> {
        self.add_blobs_of(blobs, describe, None)
    }

    /// The same for blobs that stay at `origin` until somebody needs them.
    pub fn add_remote_blobs(
        &self,
        blobs: &[Blob],
        describe: &Describe,
        origin: &BlobOrigin,
    ) -> Result<LayerList, LayerError> {
        self.add_blobs_of(blobs, describe, Some(origin))
    }

    fn add_blobs_of(
        &self,
        blobs: &[Blob],
        describe: &Describe,
        origin: Option<&BlobOrigin>,
    ) -> Result<LayerList, LayerError> {
        let ids = blobs.iter().map(|blob| LayerId::of_diff(&blob.diff_id)).collect();
        // Held before recorded, so that no pruning comes between.
        let list = self.inner.holds.hold(ids);
        self.inner.db.write(|changes| {
            for blob in blobs {
                let id = LayerId::of_diff(&blob.diff_id);
                let known: Option<LayerRecord> = changes.get(LAYERS, id.as_str())?;
                let now = Timestamp::now();
                let record = match known {
                    Some(record) if record.blob.is_some() && record.unpacked => continue,
                    // Somebody is getting it, from where he trusts; what is said elsewhere of the layer does not count.
                    Some(record)
                        if origin.is_some()
                            && record.origin.is_none()
                            && record.blob.as_ref().is_some_and(|known| known != blob) =>
                    {
                        continue;
                    }
                    Some(record) => LayerRecord {
                        blob: Some(blob.clone()),
                        origin: origin.cloned(),
                        ..record
                    },
                    None => LayerRecord {
                        describe: describe.clone(),
                        blob: Some(blob.clone()),
                        origin: origin.cloned(),
                        has_times: false,
                        unpacked: false,
                        unsynced: None,
                        size: None,
                        created: now,
                        last_used: now,
                        usage_count: 1,
                    },
                };
                changes.put(LAYERS, id.as_str(), &record)?;
            }
            Ok(())
        })?;
        Ok(list)
    }

    /// Remembers the blob that was made of a layer.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] if there is no such layer.
    pub fn set_blob(&self, id: &LayerId, blob: Blob) -> Result<(), LayerError> {
        let found = self.inner.db.write(|changes| {
            changes.update(LAYERS, id.as_str(), |record: &mut LayerRecord| record.blob = Some(blob))
        })?;
        if found {
            Ok(())
        } else {
            Err(LayerError::NotFound(id.clone()))
        }
    }

    /// What is known about a layer.
    pub fn layer(&self, id: &LayerId) -> Result<Option<LayerRecord>, LayerError> {
        self.inner.db.get(LAYERS, id.as_str())
    }

    /// The blobs of all layers.
    pub fn blobs(&self) -> Result<HashSet<Digest>, LayerError> {
        let records = self.inner.db.all::<LayerRecord>(LAYERS)?;
        Ok(records
            .into_iter()
            .filter_map(|(_, record)| Some(record.blob?.digest))
            .collect())
    }

    /// [`LayerStore::layer`] for each of a list, bottom first.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] if one has no record.
    pub fn records(&self, list: &LayerList) -> Result<Vec<LayerRecord>, LayerError> {
        list.ids()
            .iter()
            .map(|id| self.layer(id)?.ok_or_else(|| LayerError::NotFound(id.clone())))
            .collect()
    }

    /// The directory of a layer, without the layers below it: with whiteouts and opaque marks as overlay makes them.
    ///
    /// # Errors
    /// [`LayerError::NotUnpacked`] if there is none.
    pub fn layer_root(&self, id: &LayerId) -> Result<Root, LayerError> {
        let path = self.inner.dirs.layer_fs(id);
        Root::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => LayerError::NotUnpacked(id.clone()),
            _ => LayerError::io("open", path)(error),
        })
    }

    /// Records a list as a result, which keeps its layers from then on. Equal lists are one result.
    pub fn record_result(&self, list: &LayerList) -> Result<ResultId, LayerError> {
        let id = result_id(list.ids());
        self.inner.db.write_soon(|changes| {
            for layer in list.ids() {
                if changes.get::<LayerRecord>(LAYERS, layer.as_str())?.is_none() {
                    return Err(LayerError::NotFound(layer.clone()));
                }
            }
            if changes.get::<ResultRecord>(RESULTS, id.as_str())?.is_none() {
                let record = ResultRecord {
                    layers: list.ids().to_vec(),
                    created: Timestamp::now(),
                    transient: false,
                };
                changes.put(RESULTS, id.as_str(), &record)?;
            }
            Ok(())
        })?;
        self.inner.db.touch(list.ids(), false);
        Ok(id)
    }

    /// Opens a result for a build, which counts as a use of it; otherwise as [`LayerStore::pin`].
    pub fn pin_for_build(&self, id: &ResultId) -> Result<Option<LayerList>, LayerError> {
        let list = self.pin(id)?;
        if let Some(list) = &list {
            self.inner.db.touch(list.ids(), true);
        }
        Ok(list)
    }

    /// Opens a result, whose layers have been used last now; `None` if it is not there any more. The list is the pin.
    pub fn pin(&self, id: &ResultId) -> Result<Option<LayerList>, LayerError> {
        // Locked across the look and the hold: pruning comes before both or after.
        let mut counts = self.inner.holds.lock();
        let Some(record) = self.inner.db.get::<ResultRecord>(RESULTS, id.as_str())? else {
            return Ok(None);
        };
        let list = if record.transient {
            let Some(transient) = self.inner.transients.lock().get(id).and_then(Weak::upgrade) else {
                return Ok(None);
            };
            self.inner.holds.hold_transient(&mut counts, record.layers, transient)
        } else {
            self.inner.holds.hold_locked(&mut counts, record.layers)
        };
        drop(counts);
        self.inner.db.touch(list.ids(), false);
        Ok(Some(list))
    }

    /// Whether a result is there; unlike [`LayerStore::pin`], this is no use of it.
    pub fn has(&self, id: &ResultId) -> Result<bool, LayerError> {
        Ok(self.inner.db.get::<ResultRecord>(RESULTS, id.as_str())?.is_some())
    }

    /// Whether every layer of a result has its directory; what is no result of this store has.
    pub fn is_whole(&self, id: &ResultId) -> Result<bool, LayerError> {
        let Some(record) = self.inner.db.get::<ResultRecord>(RESULTS, id.as_str())? else {
            return Ok(true);
        };
        for layer in &record.layers {
            if self.layer(layer)?.is_some_and(|layer| !layer.unpacked) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether [`LayerStore::settle`] has nothing to do. Never blocks.
    pub fn is_settled(&self) -> bool {
        self.inner.db.is_settled()
    }

    /// Brings the records of layers and results to disk, where a killed daemon does not lose them; this happens by
    /// itself a moment after they were made.
    pub fn settle(&self) -> Result<(), LayerError> {
        self.inner.db.settle()
    }

    /// Makes every finished layer durable. Needed before telling anything outside that a result exists for good.
    pub fn sync(&self) -> Result<(), LayerError> {
        self.inner.background.sync()?;
        self.settle()
    }
}

/// Equal lists have equal ids.
pub(super) fn result_id(layers: &[LayerId]) -> ResultId {
    let mut hasher = blake3::Hasher::new();
    for layer in layers {
        hasher.update(layer.as_str().as_bytes());
        hasher.update(b"\n");
    }
    ResultId::new(hex::encode(&hasher.finalize().as_bytes()[..16]))
}

fn lock(root: &Path) -> Result<File, LayerError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(LayerError::io("create", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LayerError::InUse(root.to_owned())),
        Err(error) => Err(LayerError::io("lock", path)(error.into())),
    }
}

/// Keeps mounts from propagating to other namespaces; without privilege to mount there is nothing to keep.
fn private_mounts(dir: &Path) -> Option<MountGuard> {
    mounts::private_dir(dir)
        .inspect_err(|error| tracing::warn!(%error, "mounts of layers are visible to other mount namespaces"))
        .ok()
}

fn open_records(dirs: &Dirs) -> Result<Metadata, LayerError> {
    let path = dirs.root.join("records.redb");
    if let Some(db) = Metadata::open(&path)? {
        return Ok(db);
    }
    tracing::warn!(path = %path.display(), "records are of another version or damaged: starting anew");
    std::fs::remove_file(&path).map_err(LayerError::io("remove", &path))?;
    Metadata::open(&path)?
        .ok_or_else(|| LayerError::io("create", path)(std::io::Error::other("a new database is of another version")))
}

fn trash_children(dirs: &Dirs, dir: &Path, garbage: impl Fn(&str) -> bool) -> Result<(), LayerError> {
    let children = Root::open(dir)
        .and_then(at::read_dir)
        .map_err(LayerError::io("list", dir))?;
    for child in children {
        if child.name.to_str().is_none_or(&garbage) {
            move_to_trash(dirs, &dir.join(&child.name))?;
        }
    }
    Ok(())
}

/// Makes records and directories agree. Returns the layers that are still to be made durable.
fn reconcile(dirs: &Dirs, db: &Metadata, boot_id: &str) -> Result<HashSet<LayerId>, LayerError> {
    let mut layers: HashMap<String, LayerRecord> = db.all(LAYERS)?.into_iter().collect();
    let results: Vec<(String, ResultRecord)> = db.all(RESULTS)?;
    let caches: HashMap<String, CacheDirRecord> = db.all(CACHE_DIRS)?.into_iter().collect();
    let mut changed = HashSet::new();
    layers.retain(|key, record| {
        let torn = record.unsynced.as_deref().is_some_and(|boot| boot != boot_id);
        if record.unpacked && (torn || !dirs.layers.join(key).join("fs").is_dir()) {
            record.unpacked = false;
            record.unsynced = None;
            record.size = None;
            changed.insert(key.clone());
        }
        record.unpacked || record.blob.is_some()
    });
    let (passing, results): (Vec<_>, Vec<_>) = results.into_iter().partition(|(_, result)| result.transient);
    let (kept, lost): (Vec<_>, Vec<_>) = results
        .into_iter()
        .partition(|(_, r)| r.layers.iter().all(|layer| layers.contains_key(layer.as_str())));
    let used: HashSet<&str> = kept
        .iter()
        .flat_map(|(_, r)| r.layers.iter().map(LayerId::as_str))
        .collect();
    layers.retain(|key, _| used.contains(key.as_str()));
    if !lost.is_empty() {
        tracing::warn!(count = lost.len(), "dropped results whose layers did not survive");
    }
    let gone_caches: Vec<&String> = caches
        .keys()
        .filter(|key| !dirs.caches.join(key).join("fs").is_dir())
        .collect();
    let recorded: Vec<(String, LayerRecord)> = db.all(LAYERS)?;
    db.write(|changes| {
        for (key, _) in lost.iter().chain(&passing) {
            changes.remove(RESULTS, key)?;
        }
        for (key, _) in &recorded {
            match layers.get(key) {
                None => changes.remove(LAYERS, key)?,
                Some(record) if changed.contains(key) => changes.put(LAYERS, key, record)?,
                Some(_) => {}
            }
        }
        for key in &gone_caches {
            changes.remove(CACHE_DIRS, key)?;
        }
        Ok(())
    })?;
    // Records first: a directory without one is garbage, a record without its directory is not found out any more.
    trash_children(dirs, &dirs.layers, |name| {
        layers.get(name).is_none_or(|record| !record.unpacked)
    })?;
    trash_children(dirs, &dirs.caches, |name| !caches.contains_key(name))?;
    let unsynced = layers.iter().filter(|(_, record)| record.unsynced.is_some());
    Ok(unsynced.filter_map(|(key, _)| LayerId::parse(key)).collect())
}
