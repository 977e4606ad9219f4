//! What is stated of images where they are, and what proves who stated it.

use bytes::Bytes;
use cairn_solver::Digest;
use cairn_solver::worker::{AttestationBlob, AttestationChain, CallContext, ImageQuery, WorkerError};

use super::image::{layout_error, parse_reference, registry_error};
use super::layout::Layout;
use super::{EmbeddedWorker, blocking, failed};
use crate::content::ContentStore;
use crate::image::select;
use crate::image::{
    ATTESTATION_MANIFEST, Content, Descriptor, Document, PREDICATE_TYPE, REFERENCE_DIGEST, REFERENCE_TYPE,
};
use crate::registry::{Reference, Registry};

/// Types of what holds signatures, the better one first.
const SIGNATURES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
];
/// Most bytes of all that is handed over: it travels in one message, of which clients take 16 MiB.
const MAX_BYTES: u64 = 12 << 20;

/// Where an image is.
enum Place {
    Registry {
        registry: Registry,
        reference: Reference,
        contents: ContentStore,
    },
    Layout(Layout, ContentStore),
}

impl Place {
    async fn document(&self, digest: Digest, media_type: Option<&str>) -> Result<Document, WorkerError> {
        match self {
            Self::Registry {
                registry,
                reference,
                contents,
            } => {
                let document = registry.document(&reference.with_digest(digest), contents).await;
                document.map_err(|error| registry_error(&error))
            }
            Self::Layout(layout, _) => {
                let document = layout.document(digest, media_type).await;
                document.map_err(|error| layout_error(&error))
            }
        }
    }

    /// Reads a blob whose size was found to be acceptable.
    async fn blob(&self, blob: &Descriptor) -> Result<Bytes, WorkerError> {
        let contents = match self {
            Self::Registry {
                registry,
                reference,
                contents,
            } => {
                let fetched = registry.fetch_blob(reference, blob, contents, None).await;
                fetched.map_err(|error| registry_error(&error))?;
                contents
            }
            Self::Layout(layout, contents) => {
                let fetched = layout.fetch_blob(blob, None).await;
                fetched.map_err(|error| layout_error(&error))?;
                contents
            }
        };
        let (contents, digest) = (contents.clone(), blob.digest);
        blocking(move || {
            let read = contents.read(&digest, MAX_BYTES);
            read.map(Bytes::from).map_err(|error| failed(&error))
        })
        .await
    }

    /// Something that signs a manifest; layouts do not tell.
    async fn signature(&self, of: Digest) -> Result<Option<Descriptor>, WorkerError> {
        let Self::Registry {
            registry, reference, ..
        } = self
        else {
            return Ok(None);
        };
        for kind in SIGNATURES {
            let found = registry.referrers(reference, of, kind).await;
            let found = found.map_err(|error| registry_error(&error))?;
            if let Some(first) = found.into_iter().next() {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }
}

/// What was found, as far as there is room for it.
struct Found {
    chain: AttestationChain,
    room: u64,
}

impl Found {
    /// Makes room for a blob.
    fn reserve(&mut self, blob: &Descriptor) -> Result<(), WorkerError> {
        self.room = self.room.checked_sub(blob.size).ok_or_else(|| {
            let root = self.chain.root;
            WorkerError::Failed(format!(
                "failed to resolve attestations of {root}: they take more than {MAX_BYTES} bytes"
            ))
        })?;
        Ok(())
    }

    fn add(&mut self, blob: &Descriptor, data: Bytes) {
        self.chain.blobs.push(AttestationBlob {
            media_type: blob.media_type.clone(),
            digest: blob.digest,
            annotations: blob.annotations.clone(),
            data,
        });
    }

    fn add_document(&mut self, document: &Document) -> Result<(), WorkerError> {
        self.reserve(&document.descriptor)?;
        self.add(&document.descriptor, document.bytes.clone());
        Ok(())
    }

    async fn add_blob(&mut self, place: &Place, blob: &Descriptor) -> Result<(), WorkerError> {
        self.reserve(blob)?;
        let data = place.blob(blob).await?;
        self.add(blob, data);
        Ok(())
    }
}

impl EmbeddedWorker {
    /// Follows an image to what is stated of it, and to what signs that; `root` is what its reference stands for.
    pub(super) async fn resolve_attestations(
        &self,
        query: &ImageQuery,
        root: Digest,
        predicates: &[String],
        context: &CallContext,
    ) -> Result<AttestationChain, WorkerError> {
        let contents = self.0.content.clone();
        let place = match &query.layout {
            Some(store) => Place::Layout(self.layout(store, context), contents),
            None => Place::Registry {
                registry: self.registry(context),
                reference: parse_reference(&query.reference)?,
                contents,
            },
        };
        let mut found = Found {
            chain: AttestationChain::of(root),
            room: MAX_BYTES,
        };
        let index = place.document(root, None).await?;
        found.add_document(&index)?;
        let Content::Index { manifests } = &index.content else {
            found.chain.image_manifest = Some(root);
            return Ok(found.chain);
        };
        let Some(image) = select(manifests, &self.platform(query.platform.as_ref())) else {
            return Ok(found.chain);
        };
        // What the image itself is made of proves nothing: its digest is in the index.
        found.chain.image_manifest = Some(image.digest);
        let about = image.digest.to_string();
        let is_wanted = |entry: &&Descriptor| {
            let note = |key: &str| entry.annotations.get(key).map(String::as_str);
            note(REFERENCE_TYPE) == Some(ATTESTATION_MANIFEST) && note(REFERENCE_DIGEST) == Some(&about)
        };
        let Some(attested) = manifests.iter().find(is_wanted) else {
            return Ok(found.chain);
        };
        let attestations = place.document(attested.digest, Some(&attested.media_type)).await?;
        found.chain.attestation_manifest = Some(attested.digest);
        found.add_document(&attestations)?;
        if let Some(signature) = place.signature(attested.digest).await? {
            let signature = place.document(signature.digest, Some(&signature.media_type)).await?;
            found.chain.signature_manifests.push(signature.digest());
            found.add_document(&signature)?;
            for layer in layers(&signature) {
                found.add_blob(&place, layer).await?;
            }
        }
        for layer in layers(&attestations) {
            let states = layer.annotations.get(PREDICATE_TYPE);
            if states.is_some_and(|states| predicates.contains(states)) {
                found.add_blob(&place, layer).await?;
            }
        }
        Ok(found.chain)
    }
}

fn layers(document: &Document) -> &[Descriptor] {
    match &document.content {
        Content::Manifest { layers, .. } => layers,
        Content::Index { .. } => &[],
    }
}
