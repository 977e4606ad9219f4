//! Sending images to registries.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::Digest;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::descriptor::Descriptor;
use super::document::Document;
use super::tree::{ImageTree, TreeError};
use crate::content::ContentStore;
use crate::registry::{Pushed, Reference, Registry, RegistryError};

/// Where the blobs of an image come from.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Repositories of `registry` that are known to have the blob, besides those that the content store remembers: from
    /// there it need not be sent.
    fn mountable_from(&self, registry: &str, blob: &Digest) -> Vec<String>;

    /// Makes sure that the blob is in the content store. Asked only for what the registry does not have.
    async fn provide(&self, blob: &Descriptor) -> Result<(), BlobError>;
}

/// Why a blob cannot be had.
pub type BlobError = Box<dyn std::error::Error + Send + Sync>;

/// What happens during a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// A blob is on its way.
    Sending {
        /// Which.
        digest: Digest,
        /// Bytes sent.
        sent: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The registry has the blob.
    Blob {
        /// Which.
        digest: Digest,
        /// How it got there.
        how: Pushed,
    },
    /// All blobs are there; the manifests follow.
    Manifests,
}

/// Told what happens.
pub type PushProgress = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry refused or failed.
    #[error("failed to push {reference}")]
    Registry {
        /// Where to.
        reference: String,
        /// Why.
        source: RegistryError,
    },
    /// A blob could not be had.
    #[error("failed to push {reference}: failed to get blob {digest}")]
    Blob {
        /// Where to.
        reference: String,
        /// Which blob.
        digest: Digest,
        /// Why.
        source: BlobError,
    },
    /// The image is not complete, or broken.
    #[error("failed to push {reference}")]
    Tree {
        /// Where to.
        reference: String,
        /// Why.
        source: TreeError,
    },
}

/// How to push.
#[derive(Clone, Default)]
pub struct PushOptions {
    /// Put the image under its digest alone, whatever tag the reference has.
    pub by_digest: bool,
    /// What messages call the image: its name as somebody wrote it. The reference in full if this is empty.
    pub called: String,
    /// Whom to tell.
    pub progress: Option<PushProgress>,
}

impl std::fmt::Debug for PushOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushOptions")
            .field("by_digest", &self.by_digest)
            .finish_non_exhaustive()
    }
}

/// Sends the image `root` to `reference`: blobs first, all at once, then manifests from the bottom up, the tag last,
/// so that nobody ever sees an image that is not complete.
///
/// # Errors
/// [`PushError`].
///
/// # Cancel safety
/// Dropping the future stops sending; what the registry has then is of use to a later push.
pub async fn push_image(
    registry: &Registry,
    reference: &Reference,
    root: &Document,
    store: &ContentStore,
    blobs: &dyn BlobSource,
    options: &PushOptions,
) -> Result<(), PushError> {
    let name = match options.called.as_str() {
        "" => reference.to_string(),
        name => name.to_owned(),
    };
    let (tree_root, tree_store) = (root.clone(), store.clone());
    let tree = match tokio::task::spawn_blocking(move || ImageTree::of(&tree_root, &tree_store)).await {
        Ok(tree) => tree.map_err(|source| PushError::Tree {
            reference: name.clone(),
            source,
        })?,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    };
    let push = Push {
        registry,
        reference,
        name,
        store,
        blobs,
        progress: options.progress.as_ref(),
    };
    // The client's transfer slots bound how many are on their way at once.
    let mut transfers: FuturesUnordered<_> = tree.blobs.iter().map(|blob| push.blob(blob)).collect();
    while let Some(done) = transfers.next().await {
        done?;
    }
    push.tell(PushEvent::Manifests);
    let Some((root, children)) = tree.documents.split_last() else {
        return Ok(());
    };
    for child in children {
        push.manifest(&push.untagged(child), child).await?;
    }
    let is_tagged = !options.by_digest && reference.tag().is_some();
    let target = if is_tagged {
        reference.clone()
    } else {
        push.untagged(root)
    };
    push.manifest(&target, root).await
}

struct Push<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    name: String,
    store: &'a ContentStore,
    blobs: &'a dyn BlobSource,
    progress: Option<&'a PushProgress>,
}

impl Push<'_> {
    async fn blob(&self, blob: &Descriptor) -> Result<(), PushError> {
        let digest = blob.digest;
        let known = self.blobs.mountable_from(self.reference.registry(), &digest);
        let found = self.registry.find_blob(self.reference, &digest, self.store, &known);
        let how = match found.await.map_err(|error| self.failed(error))? {
            Some(how) => how,
            None => {
                self.send(blob).await?;
                Pushed::Uploaded
            }
        };
        self.tell(PushEvent::Blob { digest, how });
        Ok(())
    }

    async fn send(&self, blob: &Descriptor) -> Result<(), PushError> {
        let provided = self.blobs.provide(blob).await;
        let (reference, digest) = (self.name.clone(), blob.digest);
        provided.map_err(|source| PushError::Blob {
            reference,
            digest,
            source,
        })?;
        let progress = self.progress.cloned().map(|progress| -> crate::registry::Progress {
            Arc::new(move |sent, size| progress(PushEvent::Sending { digest, sent, size }))
        });
        self.registry
            .upload_blob(self.reference, blob, self.store, progress)
            .await
            .map_err(|err| self.failed(err))
    }

    async fn manifest(&self, target: &Reference, document: &Document) -> Result<(), PushError> {
        self.registry
            .push_manifest(target, document)
            .await
            .map_err(|err| self.failed(err))
    }

    /// The same repository with the document's own digest.
    fn untagged(&self, document: &Document) -> Reference {
        self.reference.with_digest(document.digest())
    }

    fn failed(&self, source: RegistryError) -> PushError {
        PushError::Registry {
            reference: self.name.clone(),
            source,
        }
    }

    fn tell(&self, event: PushEvent) {
        if let Some(progress) = self.progress {
            progress(event);
        }
    }
}
