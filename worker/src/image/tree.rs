//! Everything an image consists of.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_solver::Digest;

use super::descriptor::Descriptor;
use super::document::{Content, Document, DocumentError};
use crate::content::{ContentError, ContentStore};

const MAX_DOCUMENT: u64 = 4 << 20;
const MAX_DEPTH: usize = 8;

/// An image taken apart, each blob once.
#[derive(Debug, Default)]
pub struct ImageTree {
    /// Manifests and indexes, what is referred to before what refers to it; the root is last.
    pub documents: Vec<Document>,
    /// Configs and layers in the order of their first mention.
    pub blobs: Vec<Descriptor>,
}

/// Why an image cannot be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A manifest is not stored.
    #[error("failed to read manifest")]
    Content(#[from] ContentError),
    /// A manifest is malformed.
    #[error("unusable manifest {digest}")]
    Document {
        /// Which.
        digest: Digest,
        /// What is wrong.
        source: DocumentError,
    },
    /// Indexes of indexes of indexes.
    #[error("image index is nested too deeply")]
    TooDeep,
}

impl ImageTree {
    /// Follows `root` down; documents below it are read from `store`. Blocks.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn of(root: &Document, store: &ContentStore) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        tree.add(root, store, &mut BTreeSet::new(), 0)?;
        Ok(tree)
    }

    fn add(
        &mut self,
        document: &Document,
        store: &ContentStore,
        seen: &mut BTreeSet<Digest>,
        depth: usize,
    ) -> Result<(), TreeError> {
        if depth > MAX_DEPTH {
            return Err(TreeError::TooDeep);
        }
        if !seen.insert(document.digest()) {
            return Ok(());
        }
        match &document.content {
            Content::Manifest { config, layers } => {
                for blob in std::iter::once(&**config).chain(layers) {
                    if seen.insert(blob.digest) {
                        self.blobs.push(blob.clone());
                    }
                }
            }
            Content::Index { manifests } => {
                for manifest in manifests {
                    let bytes = Bytes::from(store.read(&manifest.digest, MAX_DOCUMENT)?);
                    let child =
                        Document::parse(bytes, Some(&manifest.media_type)).map_err(|source| TreeError::Document {
                            digest: manifest.digest,
                            source,
                        })?;
                    self.add(&child, store, seen, depth + 1)?;
                }
            }
        }
        self.documents.push(document.clone());
        Ok(())
    }
}
