//! Layers with files of their own that hold what others hold.

use super::error::LayerError;
use super::list::LayerList;
use super::record::LayerId;
use super::seed::{CopiedAs, copy_tree};
use super::store::LayerStore;

impl LayerStore {
    /// The same layers without directories of which only the time is another than below, so that they can be laid over
    /// something else.
    pub fn without_times(&self, list: &LayerList) -> Result<LayerList, LayerError> {
        let mut parts = Vec::with_capacity(list.ids().len());
        for (position, id) in list.ids().iter().enumerate() {
            let has_times = self.layer(id)?.is_some_and(|record| record.has_times);
            parts.push(if has_times {
                self.copy_layer(id)?
            } else {
                list.above(position).bottom(1)
            });
        }
        Ok(self.scratch().merge(&parts))
    }

    /// A layer with the same contents, to the last attribute, in files that are linked nowhere else. Directories of which
    /// only the time is another than below are left out.
    ///
    /// # Errors
    /// [`LayerError::NotUnpacked`] for a layer without a directory.
    pub fn copy_layer(&self, id: &LayerId) -> Result<LayerList, LayerError> {
        let describe = self.layer(id)?.map(|record| record.describe).unwrap_or_default();
        let original = self.layer_root(id)?;
        let copy = self.prepare(&self.scratch())?;
        copy_tree(&original, copy.upper(), CopiedAs::Layer).map_err(LayerError::io("copy layer to", copy.path()))?;
        let list = copy.commit(&describe)?;
        if self.cover(id)?.is_some() {
            self.cover_deletions(&list)?;
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::OverlayXattrs;
    use crate::layer::Describe;
    use crate::sys::{Time, is_root_or_skip};

    #[test]
    fn a_copied_layer_is_the_same_to_the_nanosecond_and_hides_the_same() {
        if !is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path()).unwrap();
        let layer = store.prepare(&store.scratch()).unwrap();
        let upper = layer.upper();
        upper.create_dir_all("d", 0o750).unwrap();
        std::fs::write(layer.path().join("d/f"), "text").unwrap();
        upper.hard_link("d/f", "d/g").unwrap();
        upper.mknod("gone", libc::S_IFCHR, (0, 0)).unwrap();
        upper.set_xattr("d", OverlayXattrs::Trusted.opaque(), b"y").unwrap();
        let times = [
            Time::from_nanos(-100_000_000_123_456_789),
            Time::from_nanos(5_123_456_789),
        ];
        for (path, time) in [("d/f", times[0]), ("d", times[1])] {
            upper.set_times(path, Some(time), Some(time)).unwrap();
        }
        let list = layer.commit(&Describe::default()).unwrap();
        store.cover_deletions(&list).unwrap();
        let copied = store.copy_layer(&list.ids()[0]).unwrap();
        let root = store.layer_root(&copied.ids()[0]).unwrap();
        for (path, time) in [("d/f", times[0]), ("d/g", times[0]), ("d", times[1])] {
            assert_eq!(root.lstat(path).unwrap().mtime, time, "{path}");
        }
        assert_eq!(root.lstat("d").unwrap().permissions(), 0o750);
        assert!(root.lstat("gone").unwrap().is_whiteout());
        assert_eq!(
            root.xattr("d", OverlayXattrs::Trusted.opaque()).unwrap(),
            Some(b"y".to_vec())
        );
        let original = store.layer_root(&list.ids()[0]).unwrap();
        assert!(!original.lstat("d/f").unwrap().is_same_file(&root.lstat("d/f").unwrap()));
        assert!(root.lstat("d/f").unwrap().is_same_file(&root.lstat("d/g").unwrap()));
        let mounted = store.mount_readonly(&copied).unwrap();
        assert!(mounted.root().lstat("gone").is_err());
    }
}
