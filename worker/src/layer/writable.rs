//! Layers in the making.

mod trim;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;

use super::error::LayerError;
use super::list::LayerList;
use super::metadata::LAYERS;
use super::mounted::Mounted;
use super::record::{Describe, LayerId, LayerRecord};
use super::store::LayerStore;
use crate::sys::{Metadata, Root, at};

/// Attributes that belong to overlay, not to the files.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// A layer that can still change. Dropping it discards it.
pub struct WritableLayer {
    store: LayerStore,
    parents: LayerList,
    id: LayerId,
    dir: PathBuf,
    upper: Root,
    mounts: AtomicUsize,
    in_use: Arc<()>,
    done: bool,
}

/// What `/` itself looks like, apart from its times.
#[derive(Debug)]
struct RootAttributes {
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl RootAttributes {
    fn of(root: &Root) -> std::io::Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let metadata = Metadata::of(root)?;
        let mut xattrs = at::xattrs_fd(root)?;
        xattrs.retain(|key, _| !key.as_bytes().starts_with(OVERLAY_XATTRS));
        Ok(Self {
            mode: metadata.permissions(),
            uid: metadata.uid,
            gid: metadata.gid,
            xattrs,
        })
    }

    fn apply(&self, root: &Root) -> std::io::Result<()> {
        at::chown_fd(root, self.uid, self.gid)?;
        at::chmod_fd(root, self.mode)?;
        for (key, value) in &self.xattrs {
            at::set_xattr_fd(root, key, value)?;
        }
        Ok(())
    }
}

impl LayerStore {
    /// Starts a layer on top of `parents`.
    ///
    /// # Errors
    /// [`LayerError::NotUnpacked`] unless [`LayerStore::ensure_unpacked`] went before.
    pub fn prepare(&self, parents: &LayerList) -> Result<WritableLayer, LayerError> {
        let id = LayerId::random();
        let dir = self.inner.dirs.staging.join(id.as_str());
        let fs = dir.join("fs");
        std::fs::create_dir_all(&fs).map_err(LayerError::io("create", &fs))?;
        let upper = Root::open(&fs).map_err(LayerError::io("open", &fs))?;
        // The directory of the upper layer is `/` of the whole: it must look as the one it covers.
        let taken = match parents.top() {
            Some(top) => {
                let below = self.layer_root(top)?;
                let times = Metadata::of(&below).map_err(LayerError::io("read attributes of", &fs))?;
                let attributes = RootAttributes::of(&below).map_err(LayerError::io("read attributes of", &fs))?;
                attributes
                    .apply(&upper)
                    .map_err(LayerError::io("set attributes of", &fs))?;
                at::set_times_fd(&upper, Some(times.atime), Some(times.mtime))
            }
            None => at::chmod_fd(&upper, 0o755),
        };
        taken.map_err(LayerError::io("set attributes of", &fs))?;
        Ok(WritableLayer {
            store: self.clone(),
            parents: parents.clone(),
            id,
            dir,
            upper,
            mounts: AtomicUsize::new(0),
            in_use: Arc::new(()),
            done: false,
        })
    }
}

impl WritableLayer {
    /// The layers below.
    pub fn parents(&self) -> &LayerList {
        &self.parents
    }

    /// The directory that becomes the layer, for writing to it directly. Only while it is not mounted, and in the form
    /// that overlay reads: a file replaces what is below, a deletion is a character device 0/0.
    pub fn upper(&self) -> &Root {
        &self.upper
    }

    /// Where that directory is, for programs that write to it.
    pub fn path(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// Mounts the layer over its parents, writable. One mount at a time.
    pub fn mount(&self) -> Result<Mounted, LayerError> {
        if Arc::strong_count(&self.in_use) > 1 {
            return Err(LayerError::StillMounted(self.id.clone()));
        }
        // A volatile mount leaves a mark in its work directory that forbids another.
        let count = self.mounts.fetch_add(1, Ordering::Relaxed);
        let work = self.dir.join(format!("work{count}"));
        std::fs::create_dir(&work).map_err(LayerError::io("create", &work))?;
        let work_root = Root::open(&work).map_err(LayerError::io("open", &work))?;
        self.store.mount_layers(
            &self.parents,
            Some((&self.upper, &work_root)),
            Some(self.in_use.clone()),
        )
    }

    /// Finishes the layer: what it holds is immutable from now on, and nothing of it is the same in the parents.
    /// Returns the parents with it on top, also if nothing was changed: an image has a layer for every step that can
    /// change files, so that its history says which step made which.
    ///
    /// # Errors
    /// [`LayerError::StillMounted`] while a mount of it exists.
    pub fn commit(self, describe: &Describe) -> Result<LayerList, LayerError> {
        self.commit_over(None, describe)
    }

    /// The same for who has the parents mounted already: their root.
    pub fn commit_over(mut self, below: Option<&Root>, describe: &Describe) -> Result<LayerList, LayerError> {
        if Arc::strong_count(&self.in_use) > 1 {
            return Err(LayerError::StillMounted(self.id.clone()));
        }
        let has_times = self.trim(below)?;
        let inner = &self.store.inner;
        for count in 0..self.mounts.load(Ordering::Relaxed) {
            inner.background.discard(&self.dir.join(format!("work{count}")))?;
        }
        // Held before it can be seen.
        let list = self.parents.merge(&[inner.holds.hold(vec![self.id.clone()])]);
        let target = inner.dirs.layer(&self.id);
        std::fs::rename(&self.dir, &target).map_err(LayerError::io("finish layer", &target))?;
        self.done = true;
        let now = Timestamp::now();
        let record = LayerRecord {
            describe: describe.clone(),
            blob: None,
            origin: None,
            has_times,
            unpacked: true,
            unsynced: Some(inner.boot_id.clone()),
            size: None,
            created: now,
            last_used: now,
            usage_count: 1,
        };
        let recorded = inner
            .db
            .write_soon(|changes| changes.put(LAYERS, self.id.as_str(), &record));
        if let Err(error) = recorded {
            inner.background.discard(&target)?;
            return Err(error);
        }
        inner.background.finished(self.id.clone());
        Ok(list)
    }

    /// Removes what is the same below. Says whether there are directories with nothing but another time.
    fn trim(&self, below: Option<&Root>) -> Result<bool, LayerError> {
        let failed = || LayerError::io("look for changes in", &self.dir);
        if self.parents.is_empty() || at::is_empty_dir(&self.upper).map_err(failed())? {
            return Ok(false);
        }
        if let Some(below) = below {
            return trim::trim(&self.upper, below).map_err(failed());
        }
        let below = self.store.mount_readonly(&self.parents)?;
        let has_times = trim::trim(&self.upper, below.root()).map_err(failed())?;
        below.unmount()?;
        Ok(has_times)
    }
}

impl Drop for WritableLayer {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.store.inner.background.discard(&self.dir)
        {
            tracing::warn!(%error, "could not discard an unfinished layer");
        }
    }
}
