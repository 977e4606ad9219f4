//! Making directories of blobs.
//!
//! Layers are fetched and unpacked at the same time, each by itself, and finished one by one from the bottom: what a
//! layer says only together with those below it (what directories look like that it merely implies, where symbolic
//! links lead) is put right before it is recorded. Finishing a layer waits for nothing but its own work, so that
//! images with the same layers in different orders do not wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::error::LayerError;
use super::list::LayerList;
use super::metadata::LAYERS;
use super::record::{Blob, LayerId, LayerRecord, random_hex};
use super::store::{COVER, LayerStore};
use crate::archive::{self, Settled};
use crate::sys::{Root, at};

/// Layers of one list that are unpacked at the same time.
const PARALLEL: usize = 4;

/// How often a layer is tried again after somebody else has failed to get it.
const MAX_OTHERS: usize = 16;

/// What became of a blob.
#[derive(Debug)]
pub enum Unpacked {
    /// All of it is in its directory.
    Whole {
        /// Directories that exist only because something lies in them, as [`archive::Applied::implied`].
        implied: BTreeSet<PathBuf>,
        /// Directories in which something is marked as deleted, as [`archive::Applied::marked`].
        marked: BTreeSet<PathBuf>,
    },
    /// It refers to files of layers below, which were not given.
    NeedsLowers,
}

/// A layer unpacked by itself, or `None` if it has its directory; for all who wait for it.
pub(super) type StageOutcome = Result<Option<Arc<Staged>>, Arc<LayerError>>;

/// Fetches blobs and unpacks them.
#[async_trait]
pub trait Unpacker: Send + Sync + 'static {
    /// Unpacks `blob` into the empty directory `dir`, in the form overlay reads: deletions as character devices 0/0,
    /// opaque directories marked by attribute. `lowers` are the directories of the layers below, topmost first; at
    /// first, while they may still be in the making, there are `None`.
    ///
    /// May be dropped before it ends; what it wrote is thrown away then.
    async fn unpack(
        &self,
        blob: &Blob,
        dir: Root,
        lowers: Option<Vec<Root>>,
    ) -> Result<Unpacked, Box<dyn std::error::Error + Send + Sync>>;
}

impl LayerStore {
    /// Sees to it that every layer of the list has a directory.
    ///
    /// A layer wanted by several callers is unpacked once; that goes on until the last of them leaves. A layer that
    /// several images have is made to fit the first of them.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future gives the interest up.
    pub async fn ensure_unpacked(&self, list: &LayerList, unpacker: &Arc<dyn Unpacker>) -> Result<(), LayerError> {
        // A list of ids of its own: closures over borrowed ones are not general enough for futures that move between threads.
        let ids = list.ids().to_vec();
        let wanted = ids
            .into_iter()
            .enumerate()
            .map(|(position, id)| async move { Ok((position, self.stage(&id, list, unpacker).await?)) });
        let mut staging = futures_util::stream::iter(wanted).buffer_unordered(PARALLEL);
        let mut ready = BTreeMap::new();
        let mut next = 0;
        while let Some((position, staged)) = staging.try_next().await? {
            ready.insert(position, staged);
            while let Some(staged) = ready.remove(&next) {
                if let Some(staged) = staged {
                    self.finish(list, next, staged, unpacker).await?;
                }
                next += 1;
            }
        }
        Ok(())
    }

    /// Unpacks a layer by itself; `None` if it has its directory.
    async fn stage(
        &self,
        id: &LayerId,
        list: &LayerList,
        unpacker: &Arc<dyn Unpacker>,
    ) -> Result<Option<Arc<Staged>>, LayerError> {
        let record = self.layer(id)?.ok_or_else(|| LayerError::NotFound(id.clone()))?;
        if record.unpacked {
            return Ok(None);
        }
        for _ in 0..MAX_OTHERS {
            let (ticket, is_own) = self.inner.staging.join(
                id.clone(),
                || (),
                |(), cancel| {
                    let (store, id, unpacker, held) = (self.clone(), id.clone(), unpacker.clone(), list.clone());
                    async move {
                        let outcome = tokio::select! {
                            outcome = store.unpack_alone(&id, unpacker.as_ref()) => outcome,
                            () = cancel.cancelled() => Err(LayerError::Interrupted(id)),
                        };
                        drop(held);
                        outcome.map_err(Arc::new)
                    }
                },
            );
            match ticket.wait().await {
                // Where others looked for it in vain, this caller may not have to.
                Ok(Err(error)) if !is_own => tracing::debug!(%error, layer = %id, "trying a layer again"),
                Ok(outcome) => return outcome.map_err(LayerError::Shared),
                Err(_) => return Err(LayerError::Interrupted(id.clone())),
            }
        }
        Err(LayerError::Interrupted(id.clone()))
    }

    async fn unpack_alone(&self, id: &LayerId, unpacker: &dyn Unpacker) -> Result<Option<Arc<Staged>>, LayerError> {
        // Whoever flew before may have landed between the first look and the join.
        let Some(blob) = self.missing(id)? else {
            return Ok(None);
        };
        let known = self.inner.staged.lock().get(id).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.dir.is_dir()) {
            return Ok(Some(known));
        }
        let staged = Staged::unpack(self, id, &blob, unpacker, None).await?;
        self.inner.staged.lock().insert(id.clone(), Arc::downgrade(&staged));
        Ok(Some(staged))
    }

    /// The blob of a layer that has no directory.
    fn missing(&self, id: &LayerId) -> Result<Option<Blob>, LayerError> {
        let record = self.layer(id)?.ok_or_else(|| LayerError::NotFound(id.clone()))?;
        if record.unpacked {
            return Ok(None);
        }
        Ok(Some(record.blob.ok_or_else(|| LayerError::NotUnpacked(id.clone()))?))
    }

    /// Finishes the layer at `position`; all below it have their directories.
    async fn finish(
        &self,
        list: &LayerList,
        position: usize,
        staged: Arc<Staged>,
        unpacker: &Arc<dyn Unpacker>,
    ) -> Result<(), LayerError> {
        let id = list.ids()[position].clone();
        let (ticket, _) = self.inner.finishing.join(
            id.clone(),
            || (),
            |(), cancel| {
                let (store, list, unpacker, id) = (self.clone(), list.clone(), unpacker.clone(), id.clone());
                async move {
                    let outcome = tokio::select! {
                        outcome = store.fit_and_record(&list, position, staged, unpacker.as_ref()) => outcome,
                        () = cancel.cancelled() => Err(LayerError::Interrupted(id)),
                    };
                    outcome.map_err(Arc::new)
                }
            },
        );
        match ticket.wait().await {
            Ok(outcome) => outcome.map_err(LayerError::Shared),
            Err(_) => Err(LayerError::Interrupted(id)),
        }
    }

    async fn fit_and_record(
        &self,
        list: &LayerList,
        position: usize,
        staged: Arc<Staged>,
        unpacker: &dyn Unpacker,
    ) -> Result<(), LayerError> {
        let id = &list.ids()[position];
        let Some(blob) = self.missing(id)? else {
            return Ok(());
        };
        // What is given up goes on in its thread: it keeps hold of the layers, and of the directory to itself.
        let (store, held, alone) = (self.clone(), list.clone(), staged.clone());
        let (settled, lowers) = blocking(id, move || {
            let _one = alone.changing.lock();
            let below = held.ids()[..position].iter().rev();
            let lowers = below.map(|id| store.layer_root(id)).collect::<Result<Vec<_>, _>>()?;
            Ok((alone.settle(&lowers)?, lowers))
        })
        .await?;
        let fitting = match settled {
            Settled::Fits => staged.clone(),
            Settled::UnpackAgain => Staged::unpack(self, id, &blob, unpacker, Some(lowers)).await?,
        };
        let (store, held) = (self.clone(), list.clone());
        blocking(id, move || {
            let _one = staged.changing.lock();
            store.finish_unpacked(&held.ids()[position], &fitting)
        })
        .await
    }

    fn finish_unpacked(&self, id: &LayerId, staged: &Staged) -> Result<(), LayerError> {
        let _one = self.inner.recording.lock();
        if self.missing(id)?.is_none() {
            return Ok(());
        }
        let target = self.inner.dirs.layer(id);
        // What lies there without being recorded is of no use to anybody.
        self.inner.background.discard(&target)?;
        staged.cover()?;
        std::fs::rename(&staged.dir, &target).map_err(LayerError::io("finish layer", &target))?;
        let boot_id = self.inner.boot_id.clone();
        let found = self.inner.db.write(|changes| {
            changes.update(LAYERS, id.as_str(), |record: &mut LayerRecord| {
                record.unpacked = true;
                record.unsynced = Some(boot_id);
            })
        })?;
        if !found {
            self.inner.background.discard(&target)?;
            return Err(LayerError::NotFound(id.clone()));
        }
        self.inner.background.finished(id.clone());
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    id: &LayerId,
    work: impl FnOnce() -> Result<T, LayerError> + Send + 'static,
) -> Result<T, LayerError> {
    let interrupted = LayerError::Interrupted(id.clone());
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(interrupted))
}

/// A layer that was unpacked, discarded when dropped unless its directory was renamed away.
pub(super) struct Staged {
    store: LayerStore,
    id: LayerId,
    dir: PathBuf,
    unpacked: Unpacked,
    /// One at a time fits it to what is below, or renames it away.
    changing: Mutex<()>,
}

impl Staged {
    async fn unpack(
        store: &LayerStore,
        id: &LayerId,
        blob: &Blob,
        unpacker: &dyn Unpacker,
        lowers: Option<Vec<Root>>,
    ) -> Result<Arc<Self>, LayerError> {
        let is_last = lowers.is_some();
        let mut staged = Self {
            store: store.clone(),
            id: id.clone(),
            dir: store.inner.dirs.staging.join(format!("u{}", random_hex())),
            unpacked: Unpacked::NeedsLowers,
            changing: Mutex::default(),
        };
        let unpacked = unpacker.unpack(blob, staged.create()?, lowers).await;
        let failed = |source| LayerError::Unpack { id: id.clone(), source };
        staged.unpacked = unpacked.map_err(failed)?;
        if is_last && matches!(staged.unpacked, Unpacked::NeedsLowers) {
            return Err(failed("it refers to files that are in no layer below it".into()));
        }
        Ok(Arc::new(staged))
    }

    fn create(&self) -> Result<Root, LayerError> {
        let fs = self.dir.join("fs");
        std::fs::create_dir_all(&fs).map_err(LayerError::io("create", &fs))?;
        let root = self.root()?;
        at::chmod_fd(&root, 0o755).map_err(LayerError::io("set attributes of", &fs))?;
        Ok(root)
    }

    fn root(&self) -> Result<Root, LayerError> {
        let fs = self.dir.join("fs");
        Root::open(&fs).map_err(LayerError::io("open", fs))
    }

    fn settle(&self, lowers: &[Root]) -> Result<Settled, LayerError> {
        if self.store.missing(&self.id)?.is_none() {
            // Somebody who gave up has finished it all the same.
            return Ok(Settled::Fits);
        }
        let Unpacked::Whole { implied, .. } = &self.unpacked else {
            return Ok(Settled::UnpackAgain);
        };
        let lowers: Vec<&Root> = lowers.iter().collect();
        archive::settle(&self.root()?, implied, &lowers).map_err(|source| LayerError::Unpack {
            id: self.id.clone(),
            source: source.into(),
        })
    }

    /// Makes the cover, if something is marked as deleted: images may well delete what is not there, and a layer may be
    /// in images with other layers below.
    fn cover(&self) -> Result<(), LayerError> {
        let Unpacked::Whole { marked, .. } = &self.unpacked else {
            return Ok(());
        };
        marked.iter().try_for_each(|dir| {
            let cover = self.dir.join(COVER).join(dir);
            std::fs::create_dir_all(&cover).map_err(LayerError::io("create", &cover))
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut staged = self.store.inner.staged.lock();
        if staged.get(&self.id).is_some_and(|known| known.strong_count() == 0) {
            staged.remove(&self.id);
        }
        drop(staged);
        if let Err(error) = self.store.inner.background.discard(&self.dir) {
            tracing::warn!(%error, "could not discard a layer that was being unpacked");
        }
    }
}
