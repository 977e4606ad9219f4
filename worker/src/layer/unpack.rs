//! Making directories of blobs.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};

use super::error::LayerError;
use super::list::LayerList;
use super::metadata::LAYERS;
use super::record::{Blob, LayerId, LayerRecord, random_hex};
use super::store::LayerStore;
use crate::sys::{Root, at};

/// Layers of one list that are unpacked at the same time.
const PARALLEL: usize = 4;

/// Fetches blobs and unpacks them.
#[async_trait]
pub trait Unpacker: Send + Sync + 'static {
    /// Unpacks `blob` into the empty directory `dir`, in the form overlay reads: deletions as character devices 0/0,
    /// opaque directories marked by attribute.
    ///
    /// May be dropped before it ends; what it wrote is thrown away then.
    async fn unpack(&self, blob: &Blob, dir: Root) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

impl LayerStore {
    /// Sees to it that every layer of the list has a directory.
    ///
    /// A layer wanted by several callers is unpacked once; that goes on until the last of them leaves.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future gives the interest up.
    pub async fn ensure_unpacked(&self, list: &LayerList, unpacker: &Arc<dyn Unpacker>) -> Result<(), LayerError> {
        // A list of ids of its own: closures over borrowed ones are not general enough for futures that move between threads.
        let ids = list.ids().to_vec();
        let wanted = ids
            .into_iter()
            .map(|id| async move { self.unpack_one(&id, list, unpacker).await });
        futures_util::stream::iter(wanted)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn unpack_one(&self, id: &LayerId, list: &LayerList, unpacker: &Arc<dyn Unpacker>) -> Result<(), LayerError> {
        let record = self.layer(id)?.ok_or_else(|| LayerError::NotFound(id.clone()))?;
        if record.unpacked {
            return Ok(());
        }
        let (ticket, _) = self.inner.unpacking.join(
            id.clone(),
            || (),
            |(), cancel| {
                let (store, id, unpacker, held) = (self.clone(), id.clone(), unpacker.clone(), list.clone());
                async move {
                    let outcome = tokio::select! {
                        outcome = store.unpack_layer(&id, unpacker.as_ref()) => outcome,
                        () = cancel.cancelled() => Err(LayerError::Interrupted(id)),
                    };
                    drop(held);
                    outcome.map_err(Arc::new)
                }
            },
        );
        match ticket.wait().await {
            Ok(outcome) => outcome.map_err(LayerError::Shared),
            Err(_) => Err(LayerError::Interrupted(id.clone())),
        }
    }

    async fn unpack_layer(&self, id: &LayerId, unpacker: &dyn Unpacker) -> Result<(), LayerError> {
        let Some(record) = self.layer(id)? else {
            return Err(LayerError::NotFound(id.clone()));
        };
        // Whoever flew before may have landed between the first look and the join.
        if record.unpacked {
            return Ok(());
        }
        let blob = record.blob.ok_or_else(|| LayerError::NotUnpacked(id.clone()))?;
        let staged = Staged::new(self)?;
        let root = staged.root()?;
        unpacker
            .unpack(&blob, root)
            .await
            .map_err(|source| LayerError::Unpack { id: id.clone(), source })?;
        let (store, id) = (self.clone(), id.clone());
        let interrupted = LayerError::Interrupted(id.clone());
        tokio::task::spawn_blocking(move || store.finish_unpacked(&id, &staged))
            .await
            .unwrap_or(Err(interrupted))
    }

    fn finish_unpacked(&self, id: &LayerId, staged: &Staged) -> Result<(), LayerError> {
        let target = self.inner.dirs.layer(id);
        // What lies there without being recorded is of no use to anybody.
        self.inner.background.discard(&target)?;
        std::fs::rename(&staged.dir, &target).map_err(LayerError::io("finish layer", &target))?;
        let boot_id = self.inner.boot_id.clone();
        let found = self.inner.write(|changes| {
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

/// A directory in the making, discarded when dropped unless it was renamed away.
struct Staged {
    store: LayerStore,
    dir: std::path::PathBuf,
}

impl Staged {
    fn new(store: &LayerStore) -> Result<Self, LayerError> {
        let dir = store.inner.dirs.staging.join(format!("u{}", random_hex()));
        let staged = Self {
            store: store.clone(),
            dir,
        };
        let fs = staged.dir.join("fs");
        std::fs::create_dir_all(&fs).map_err(LayerError::io("create", &fs))?;
        let root = Root::open(&fs).map_err(LayerError::io("open", &fs))?;
        at::chmod_fd(&root, 0o755).map_err(LayerError::io("set attributes of", &fs))?;
        Ok(staged)
    }

    fn root(&self) -> Result<Root, LayerError> {
        let fs = self.dir.join("fs");
        Root::open(&fs).map_err(LayerError::io("open", fs))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = self.store.inner.background.discard(&self.dir) {
            tracing::warn!(%error, "could not discard a layer that was being unpacked");
        }
    }
}
