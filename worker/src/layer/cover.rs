//! Layers without those that they were made on.
//!
//! Where a directory is in several layers of a mount, overlay looks at each of its entries and leaves out what is
//! deleted. A directory that is in one layer only is listed as it is, with its marks of deletion, which then cannot be
//! looked up. That happens when layers are taken from the ones below them, as a difference does, and in images that delete
//! what they never had; so such a layer gets a *cover*: the directories that hold marks, empty, to be mounted right below
//! it.

use std::io;
use std::path::PathBuf;

use super::error::LayerError;
use super::list::LayerList;
use super::record::LayerId;
use super::store::LayerStore;
use crate::sys::{FileKind, Root};

impl LayerStore {
    /// Gives layers a cover that have marks of deletion. To be called when they are taken from those below.
    pub fn cover_deletions(&self, list: &LayerList) -> Result<(), LayerError> {
        for id in list.ids() {
            let cover = self.inner.dirs.layer_cover(id);
            let root = match self.layer_root(id) {
                Ok(root) => root,
                // It has no directory that anybody could list.
                Err(LayerError::NotUnpacked(_)) => continue,
                Err(error) => return Err(error),
            };
            let marked = marked_dirs(&root).map_err(LayerError::io("look for deletions in", &cover))?;
            if marked.is_empty() || cover.exists() {
                continue;
            }
            let staged = self.inner.dirs.staging.join(LayerId::random().as_str());
            for dir in marked {
                let dir = staged.join(dir);
                std::fs::create_dir_all(&dir).map_err(LayerError::io("create", &dir))?;
            }
            match std::fs::rename(&staged, &cover) {
                // Somebody else was faster.
                Err(_) if cover.exists() => self.inner.background.discard(&staged)?,
                renamed => renamed.map_err(LayerError::io("finish", &cover))?,
            }
        }
        Ok(())
    }

    /// The cover of a layer, if it has one.
    pub(super) fn cover(&self, id: &LayerId) -> Result<Option<Root>, LayerError> {
        let cover = self.inner.dirs.layer_cover(id);
        match Root::open(&cover) {
            Ok(root) => Ok(Some(root)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LayerError::io("open", cover)(error)),
        }
    }
}

/// Directories of a layer in which something is marked as deleted.
fn marked_dirs(layer: &Root) -> io::Result<Vec<PathBuf>> {
    let mut marked = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let mut is_marked = false;
        for entry in layer.read_dir(&dir)? {
            let path = dir.join(&entry.name);
            match entry.kind {
                Some(FileKind::Dir) => pending.push(path),
                Some(FileKind::CharDevice) | None => {
                    let metadata = layer.lstat(&path)?;
                    is_marked |= metadata.is_whiteout();
                    if metadata.is_dir() {
                        pending.push(path);
                    }
                }
                Some(_) => {}
            }
        }
        if is_marked {
            marked.push(dir);
        }
    }
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Describe;
    use crate::sys::is_root_or_skip;

    #[test]
    fn deletions_are_no_files_without_what_was_deleted() {
        if !is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path()).unwrap();
        let layer = store.prepare(&store.scratch()).unwrap();
        for name in ["d/e", "f"] {
            layer.upper().create_dir_all(name, 0o700).unwrap();
        }
        for name in ["d/e/gone", "gone"] {
            layer.upper().mknod(name, libc::S_IFCHR, (0, 0)).unwrap();
        }
        std::fs::write(layer.path().join("d/e/there"), "").unwrap();
        let list = layer.commit(&Describe::default()).unwrap();
        for _ in 0..2 {
            store.cover_deletions(&list).unwrap();
        }
        let mounted = store.mount_readonly(&list).unwrap();
        let names = |dir: &str| {
            let entries = mounted.root().read_dir(dir).unwrap().into_iter();
            let mut names: Vec<_> = entries.map(|entry| entry.name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["d", "f"]);
        assert_eq!(names("d/e"), ["there"]);
        assert_eq!(mounted.root().stat("d/e").unwrap().permissions(), 0o700);
        // They still delete.
        let below = store.prepare(&store.scratch()).unwrap();
        below.upper().create_dir_all("d/e", 0o755).unwrap();
        std::fs::write(below.path().join("d/e/gone"), "").unwrap();
        let below = below.commit(&Describe::default()).unwrap();
        let merged = store.mount_readonly(&below.merge(&[list])).unwrap();
        assert!(merged.root().lstat("d/e/gone").is_err());
        assert!(merged.root().lstat("d/e/there").is_ok());
    }
}
