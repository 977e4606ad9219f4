//! Which repositories are known to have a blob.
//!
//! Registries make a blob of one repository a blob of another when asked to, so what was pulled from one or pushed to
//! one need not be sent again. This is a hint: nothing is lost with it, and a registry that does not have the blob any
//! more says so. So nothing here is flushed, and the hints of a blob go with the blob.

use std::fs;
use std::io::{self, Write as _};

use cairn_solver::Digest;

use super::{ContentError, ContentStore};

/// Most repositories of one registry that are remembered of a blob.
const PER_REGISTRY: usize = 8;
/// Most repositories that are remembered of a blob.
const IN_ALL: usize = 64;

impl ContentStore {
    /// Remembers that a repository of a registry has a stored blob. Of a blob that is not stored nothing is remembered.
    ///
    /// # Errors
    /// [`ContentError::Io`] when it cannot be written down.
    pub fn note_source(&self, digest: &Digest, registry: &str, repository: &str) -> Result<(), ContentError> {
        let path = self.sources_path(digest);
        let line = format!("{registry} {repository}");
        // One at a time: the second would forget what the first has noted.
        let _one = self.shared.noting.lock();
        let known = self.source_lines(digest)?;
        if known.contains(&line) || !self.contains(digest)? {
            return Ok(());
        }
        let mut of_registry = 0;
        let text: String = std::iter::once(line)
            .chain(known)
            .filter(|line| {
                let is_same = line.split(' ').next() == Some(registry);
                of_registry += usize::from(is_same);
                !is_same || of_registry <= PER_REGISTRY
            })
            .take(IN_ALL)
            .flat_map(|line| [line, "\n".to_owned()])
            .collect();
        let write = || -> io::Result<()> {
            let mut staged = tempfile::NamedTempFile::new_in(&self.shared.ingest)?;
            staged.write_all(text.as_bytes())?;
            staged.persist(&path).map(drop).map_err(|failed| failed.error)
        };
        write().map_err(ContentError::io("write", &path))
    }

    /// The repositories of a registry that are known to have a blob, the one that was noted last first.
    ///
    /// # Errors
    /// [`ContentError::Io`] when the file system does not answer.
    pub fn sources(&self, digest: &Digest, registry: &str) -> Result<Vec<String>, ContentError> {
        let lines = self.source_lines(digest)?.into_iter();
        let sources = lines.filter_map(|line| {
            let (of, repository) = line.split_once(' ')?;
            (of == registry).then(|| repository.to_owned())
        });
        Ok(sources.collect())
    }

    /// Forgets the sources of blobs that are not there any more.
    pub(super) fn remove_stale_sources(&self) -> Result<(), ContentError> {
        let dir = &self.shared.sources;
        for entry in fs::read_dir(dir).map_err(ContentError::io("list", dir))? {
            let entry = entry.map_err(ContentError::io("list", dir))?;
            if !self.shared.blobs.join(entry.file_name()).exists() {
                let path = entry.path();
                fs::remove_file(&path).map_err(ContentError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn forget_sources(&self, digest: &Digest) -> Result<(), ContentError> {
        let path = self.sources_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContentError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn sources_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.shared.sources.join(digest.hex())
    }

    fn source_lines(&self, digest: &Digest) -> Result<Vec<String>, ContentError> {
        let path = self.sources_path(digest);
        match fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(ContentError::io("read", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Durability;
    use super::*;

    #[test]
    fn sources_are_bounded_per_registry_and_go_with_their_blob() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path(), Durability::Relaxed).unwrap();
        let digest = store.put(b"hello").unwrap().digest;
        let other = Digest::sha256(b"not here");
        store.note_source(&other, "a.example", "x").unwrap();
        assert_eq!(store.sources(&other, "a.example").unwrap(), Vec::<String>::new());

        store.note_source(&digest, "b.example:5000", "some/image").unwrap();
        for number in 0..2 * PER_REGISTRY {
            for _ in 0..2 {
                store
                    .note_source(&digest, "a.example", &format!("image-{number}"))
                    .unwrap();
            }
        }
        let expected: Vec<String> = (PER_REGISTRY..2 * PER_REGISTRY)
            .rev()
            .map(|number| format!("image-{number}"))
            .collect();
        assert_eq!(store.sources(&digest, "a.example").unwrap(), expected);
        assert_eq!(store.sources(&digest, "b.example:5000").unwrap(), ["some/image"]);
        for number in 0..2 * IN_ALL {
            store.note_source(&digest, &format!("{number}.example"), "x").unwrap();
        }
        assert_eq!(store.source_lines(&digest).unwrap().len(), IN_ALL);

        fs::remove_file(store.path(&digest)).unwrap();
        drop(store);
        let store = ContentStore::open(dir.path(), Durability::Relaxed).unwrap();
        assert_eq!(store.source_lines(&digest).unwrap(), Vec::<String>::new());
        store.put(b"hello").unwrap();
        store.note_source(&digest, "a.example", "x").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
        assert!(store.delete(&digest).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("sources")).unwrap().count(), 0);
    }
}
