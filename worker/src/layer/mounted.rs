//! Lists of layers as one file system.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::error::LayerError;
use super::list::LayerList;
use super::record::random_hex;
use super::store::LayerStore;
use crate::sys::Root;
use crate::sys::mounts::MountGuard;
use crate::sys::overlay::{MAX_LAYERS, Overlay, Upper};

/// Most layers in a list that can be mounted: one directory may have to be added.
pub(super) const MAX_LOWERS: usize = MAX_LAYERS - 1;

/// A file system made of layers, for as long as this lives.
#[derive(Debug)]
#[must_use = "the mount is undone when this is dropped"]
pub struct Mounted {
    guard: MountGuard,
    root: Root,
    /// Keeps what is mounted from being pruned.
    _layers: LayerList,
    /// Tells the layer in the making, if any, that a mount of it exists.
    _use: Option<std::sync::Arc<()>>,
}

impl Mounted {
    /// Where it is mounted: a path of the daemon's own, for handing on to a container runtime.
    pub fn path(&self) -> &Path {
        self.guard.path()
    }

    /// The file system, for looking up paths in it.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Unmounts now, telling whether that worked.
    pub fn unmount(self) -> Result<(), LayerError> {
        let path = self.guard.path().to_owned();
        drop(self.root);
        self.guard.unmount().map_err(LayerError::io("unmount", path))
    }
}

impl LayerStore {
    /// Mounts a list of layers read-only.
    ///
    /// # Errors
    /// [`LayerError::NotUnpacked`] unless [`LayerStore::ensure_unpacked`] went before; [`LayerError::TooManyLayers`].
    pub fn mount_readonly(&self, list: &LayerList) -> Result<Mounted, LayerError> {
        self.mount_layers(list, None, None)
    }

    /// Mounts `list`, with changes going to `upper` (directory and fresh work directory) if there is one.
    pub(super) fn mount_layers(
        &self,
        list: &LayerList,
        upper: Option<(&Root, &Root)>,
        in_use: Option<std::sync::Arc<()>>,
    ) -> Result<Mounted, LayerError> {
        let ids = list.mounted();
        if ids.len() > MAX_LOWERS {
            return Err(LayerError::TooManyLayers(ids.len()));
        }
        // Below the layers, directories without content make up for those the kernel asks for: two lower ones without
        // an upper one. A bare bind mount would show whiteouts as device files.
        let needed = if upper.is_some() { 1 } else { 2 };
        let mut roots = Vec::with_capacity(ids.len() + 2);
        for path in self.inner.dirs.empty.iter().take(needed_empty(needed, ids.len())) {
            roots.push(Root::open(path).map_err(LayerError::io("open", path))?);
        }
        for id in ids {
            roots.extend(self.cover(id)?);
            roots.push(self.layer_root(id)?);
        }
        if roots.len() > MAX_LAYERS {
            return Err(LayerError::TooManyLayers(roots.len()));
        }
        let lowers: Vec<_> = roots.iter().map(AsFd::as_fd).collect();
        let point = self.mount_point()?;
        let upper = upper.map(|(dir, work)| Upper {
            dir: dir.as_fd(),
            work: work.as_fd(),
        });
        let mounted = Overlay { lowers: &lowers, upper }.mount(&point);
        let guard = match mounted {
            Ok(guard) => guard.removing_mount_point(),
            Err(error) => {
                std::fs::remove_dir(&point).map_err(LayerError::io("remove", &point))?;
                return Err(LayerError::io("mount layers at", point)(error));
            }
        };
        let root = Root::open(guard.path()).map_err(LayerError::io("open", guard.path()))?;
        Ok(Mounted {
            guard,
            root,
            _layers: list.clone(),
            _use: in_use,
        })
    }

    fn mount_point(&self) -> Result<PathBuf, LayerError> {
        let point = self.inner.dirs.mounts.join(random_hex());
        std::fs::create_dir(&point).map_err(LayerError::io("create", &point))?;
        Ok(point)
    }
}

fn needed_empty(needed: usize, have: usize) -> usize {
    needed.saturating_sub(have)
}
