//! Images by name: what was built with a name and kept here.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::image::Descriptor;
use crate::registry::Reference;

/// Names of images, each in a file of its own. Their blobs are in the content store.
#[derive(Debug)]
pub(super) struct ImageStore {
    dir: PathBuf,
}

/// A named image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct NamedImage {
    /// The full reference.
    pub(super) name: String,
    /// Its manifest or index.
    pub(super) target: Descriptor,
    /// When it got the name.
    pub(super) updated: Timestamp,
}

/// Why names cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", path.display())]
pub(super) struct ImageStoreError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl ImageStore {
    /// Opens the store in `dir`, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self, ImageStoreError> {
        crate::sys::root::create_private_dirs(dir).map_err(error("make", dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Gives an image a name, in place of the image that had it. Nothing is written if it has the name already.
    pub(super) fn put(&self, name: &Reference, target: Descriptor) -> Result<(), ImageStoreError> {
        let path = self.path(name);
        if matches!(self.get(name), Ok(Some(known)) if known.target == target) {
            return Ok(());
        }
        let image = NamedImage {
            name: name.to_string(),
            target,
            updated: Timestamp::now(),
        };
        let staged = tempfile::NamedTempFile::new_in(&self.dir).map_err(error("write", &path))?;
        serde_json::to_writer(&staged, &image).map_err(|failed| error("write", &path)(failed.into()))?;
        staged.as_file().sync_all().map_err(error("write", &path))?;
        staged
            .persist(&path)
            .map_err(|failed| error("write", &path)(failed.error))?;
        Ok(())
    }

    /// The image of a name.
    pub(super) fn get(&self, name: &Reference) -> Result<Option<NamedImage>, ImageStoreError> {
        read(&self.path(name))
    }

    /// All images with names.
    pub(super) fn list(&self) -> Result<Vec<NamedImage>, ImageStoreError> {
        let mut images = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(error("list", &self.dir))? {
            let path = entry.map_err(error("list", &self.dir))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                images.extend(read(&path)?);
            }
        }
        Ok(images)
    }

    fn path(&self, name: &Reference) -> PathBuf {
        let hash = blake3::hash(name.to_string().as_bytes());
        self.dir.join(format!("{}.json", hash.to_hex()))
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ImageStoreError + use<> {
    let path = path.to_owned();
    move |source| ImageStoreError { action, path, source }
}

fn read(path: &Path) -> Result<Option<NamedImage>, ImageStoreError> {
    match std::fs::read(path) {
        // A file of another version is as good as none: the image can be built again.
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(failed) if failed.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(failed) => Err(error("read", path)(failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_to_the_newest_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let name = Reference::parse("hello:multi").unwrap();
        assert_eq!(store.get(&name).unwrap(), None);
        for text in ["a", "b"] {
            let target = Descriptor::of("application/vnd.oci.image.manifest.v1+json", text.as_bytes());
            store.put(&name, target.clone()).unwrap();
            assert_eq!(store.get(&name).unwrap().unwrap().target, target);
        }
        let all = store.list().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].name, "docker.io/library/hello:multi");
    }
}
