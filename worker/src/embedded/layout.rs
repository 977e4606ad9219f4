//! Images in OCI layouts that clients offer over their sessions.
//!
//! Everything is asked for by digest, kept in the content store like what comes from registries, and verified before
//! anybody sees it: a client is trusted no more than a registry.

use std::io::Write as _;

use bytes::Bytes;
use cairn_session::content::{RemoteContent, layout_store};
use cairn_session::{LOOKUP_TIMEOUT, SessionError, SessionManager};
use cairn_solver::worker::{CallContext, LayoutStore};
use cairn_solver::{Digest, Platform};
use tokio::sync::mpsc;

use crate::content::{ContentError, ContentStore, Ingest};
use crate::image::{Content, Descriptor, Document, DocumentError, select};
use crate::registry::Progress;

/// Largest manifest or index.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Largest image config.
const MAX_CONFIG: u64 = 8 << 20;
/// An index of indexes is legal; deeper nesting is nobody's.
const MAX_NESTED_INDEXES: usize = 1;
/// How many chunks may wait between network and disk.
const QUEUE: usize = 32;

/// Why an image cannot be had from a client's layout.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    /// The client cannot be asked, or does not answer as it should.
    #[error("failed to read {digest} from OCI layout {store:?}")]
    Session {
        digest: Digest,
        store: String,
        source: SessionError,
    },
    /// The layout has no such blob.
    #[error("content {digest}: not found in OCI layout {store:?}")]
    NotFound { digest: Digest, store: String },
    /// The client sends more than there should be.
    #[error("{digest} from OCI layout {store:?} has more than {limit} bytes")]
    TooLarge { digest: Digest, store: String, limit: u64 },
    /// The blob cannot be kept, or is not what its digest says.
    #[error("failed to take {digest} from OCI layout {store:?}")]
    Content {
        digest: Digest,
        store: String,
        source: ContentError,
    },
    /// What should be a manifest or index is none.
    #[error("malformed image {digest} in OCI layout {store:?}")]
    Document {
        digest: Digest,
        store: String,
        source: DocumentError,
    },
    /// The index has nothing for the platform.
    #[error(
        "image {digest} in OCI layout {store:?}: no match for platform in manifest: not found: {platform} is wanted"
    )]
    NoPlatform {
        digest: Digest,
        store: String,
        platform: Box<Platform>,
    },
}

/// A layout, and the clients who may have it.
pub(super) struct Layout {
    sessions: SessionManager,
    /// Asked in this order.
    candidates: Vec<String>,
    /// For messages.
    store: String,
    /// What clients call it.
    name: String,
    content: ContentStore,
}

/// An image as its manifest describes it.
pub(super) struct LayoutImage {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Layout {
    /// The layout `store` of the session it names, or of any that waits for it.
    pub(super) fn new(
        sessions: &SessionManager,
        store: &LayoutStore,
        content: &ContentStore,
        context: &CallContext,
    ) -> Self {
        Self {
            sessions: sessions.clone(),
            candidates: match &store.session {
                Some(session) => vec![session.clone()],
                None => context.sessions.ids(),
            },
            name: layout_store(&store.store),
            store: store.store.clone(),
            content: content.clone(),
        }
    }

    /// A layout that clients who wait for something call `name`.
    pub(super) fn of_store(
        sessions: &SessionManager,
        name: String,
        content: &ContentStore,
        context: &CallContext,
    ) -> Self {
        Self {
            sessions: sessions.clone(),
            candidates: context.sessions.ids(),
            store: name.clone(),
            name,
            content: content.clone(),
        }
    }

    /// Finds the image for a platform, starting from a manifest or index.
    pub(super) async fn resolve(&self, root: Digest, platform: &Platform) -> Result<LayoutImage, LayoutError> {
        let mut document = self.document(root, None).await?;
        for _ in 0..=MAX_NESTED_INDEXES {
            let Content::Index { manifests } = &document.content else {
                break;
            };
            let chosen = select(manifests, platform).cloned();
            let chosen = chosen.ok_or_else(|| LayoutError::NoPlatform {
                digest: root,
                store: self.store.clone(),
                platform: Box::new(platform.clone()),
            })?;
            let media_type = Some(chosen.media_type.as_str()).filter(|kind| !kind.is_empty());
            document = self.document(chosen.digest, media_type).await?;
        }
        match document.content {
            Content::Manifest { config, layers } => Ok(LayoutImage {
                config: *config,
                layers,
            }),
            Content::Index { .. } => Err(self.malformed(
                root,
                DocumentError::Unsupported("index of indexes of indexes".to_owned()),
            )),
        }
    }

    /// Gets an image's config, raw.
    pub(super) async fn config(&self, config: &Descriptor) -> Result<Bytes, LayoutError> {
        if config.size > MAX_CONFIG {
            return Err(self.too_large(config.digest, MAX_CONFIG));
        }
        self.fetch_blob(config, None).await?;
        self.read(config.digest, MAX_CONFIG).await
    }

    /// Gets a blob into the content store, unless it is there.
    ///
    /// # Cancel safety
    /// Dropping the future stops the transfer and keeps what arrived for the next call.
    pub(super) async fn fetch_blob(&self, blob: &Descriptor, progress: Option<Progress>) -> Result<(), LayoutError> {
        let Some(mut ingest) = self.take(blob).await? else {
            return Ok(());
        };
        if ingest.offset() > blob.size {
            ingest
                .reset()
                .map_err(|source| self.content_error(blob.digest, source))?;
        }
        let ingest = self.receive(blob, ingest, progress).await?;
        let (digest, size) = (blob.digest, blob.size);
        self.blocking(digest, move || ingest.commit(Some(&digest), Some(size)).map(drop))
            .await
    }

    /// How many bytes a blob has, as the client says.
    pub(super) async fn size(&self, digest: Digest) -> Result<u64, LayoutError> {
        let size = self.ask(
            digest,
            move |remote| async move { remote.size(&digest.to_string()).await },
        );
        size.await?.ok_or_else(|| LayoutError::NotFound {
            digest,
            store: self.store.clone(),
        })
    }

    /// Gets a manifest or index.
    pub(super) async fn document(&self, digest: Digest, media_type: Option<&str>) -> Result<Document, LayoutError> {
        let content = self.content.clone();
        let stored = self.blocking(digest, move || content.contains(&digest)).await?;
        if !stored {
            let size = self.size(digest).await?;
            if size > MAX_DOCUMENT {
                return Err(self.too_large(digest, MAX_DOCUMENT));
            }
            self.fetch_blob(&Descriptor::new(String::new(), digest, size), None)
                .await?;
        }
        let bytes = self.read(digest, MAX_DOCUMENT).await?;
        Document::parse(bytes, media_type).map_err(|source| self.malformed(digest, source))
    }

    async fn read(&self, digest: Digest, limit: u64) -> Result<Bytes, LayoutError> {
        let content = self.content.clone();
        self.blocking(digest, move || content.read(&digest, limit).map(Bytes::from))
            .await
    }

    /// Opens the blob for writing as soon as nobody else does; `None` if it is there by then.
    async fn take(&self, blob: &Descriptor) -> Result<Option<Ingest>, LayoutError> {
        loop {
            let closed = self.content.closed();
            let (content, digest, size) = (self.content.clone(), blob.digest, blob.size);
            let taken = self.blocking(digest, move || {
                if content.size(&digest)? == Some(size) {
                    return Ok(None);
                }
                let ingest = content.resume(&format!("blob-{digest}"))?;
                if content.size(&digest)? == Some(size) {
                    ingest.abort();
                    return Ok(None);
                }
                Ok(Some(ingest))
            });
            match taken.await {
                Err(LayoutError::Content {
                    source: ContentError::Busy(_),
                    ..
                }) => closed.await,
                taken => return taken,
            }
        }
    }

    /// Moves what is missing of a blob to disk, where it is hashed and written on a thread of the blocking pool.
    async fn receive(
        &self,
        blob: &Descriptor,
        mut ingest: Ingest,
        progress: Option<Progress>,
    ) -> Result<Ingest, LayoutError> {
        let (chunks, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let received = ingest.offset();
        let writer = self.blocking(blob.digest, move || {
            while let Some(chunk) = queue.blocking_recv() {
                if let Err(error) = ingest.write_all(&chunk) {
                    return Err(ContentError::io("write", ingest.path())(error));
                }
            }
            Ok(ingest)
        });
        let digest = blob.digest;
        // Holds the sender, so that the writer ends with it whichever way it ends.
        let reader = async move {
            let (mut stream, mut received) = (None, received);
            while received < blob.size {
                let chunk = match &mut stream {
                    None => {
                        let first = self.ask(blob.digest, move |remote| async move {
                            let mut source = remote.read(&digest.to_string(), received)?;
                            let first = source.next().await?;
                            Ok((source, first))
                        });
                        let (source, first) = first.await?;
                        stream = Some(source);
                        first
                    }
                    Some(source) => source
                        .next()
                        .await
                        .map_err(|source| self.session(blob.digest, source))?,
                };
                // Too little shows when the blob is committed.
                let Some(chunk) = chunk else { break };
                received += chunk.len() as u64;
                if received > blob.size {
                    return Err(self.too_large(blob.digest, blob.size));
                }
                if chunks.send(chunk).await.is_err() {
                    break;
                }
                if let Some(progress) = &progress {
                    progress(received, blob.size);
                }
            }
            Ok(())
        };
        let (end, written) = tokio::join!(reader, writer);
        let written = written?;
        end?;
        Ok(written)
    }

    /// Asks one client after another; the last failure counts.
    async fn ask<T, F>(&self, digest: Digest, question: impl Fn(RemoteContent) -> F + Send) -> Result<T, LayoutError>
    where
        F: Future<Output = Result<T, SessionError>> + Send,
    {
        let mut failure = SessionError::NoSessions;
        for id in &self.candidates {
            let answer = match self.sessions.get(id, LOOKUP_TIMEOUT).await {
                Ok(session) => question(RemoteContent::new(&session, &self.name)).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(self.session(digest, failure))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        digest: Digest,
        work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, LayoutError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|source| self.content_error(digest, source)),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    fn session(&self, digest: Digest, source: SessionError) -> LayoutError {
        LayoutError::Session {
            digest,
            store: self.store.clone(),
            source,
        }
    }

    fn content_error(&self, digest: Digest, source: ContentError) -> LayoutError {
        LayoutError::Content {
            digest,
            store: self.store.clone(),
            source,
        }
    }

    fn malformed(&self, digest: Digest, source: DocumentError) -> LayoutError {
        LayoutError::Document {
            digest,
            store: self.store.clone(),
            source,
        }
    }

    fn too_large(&self, digest: Digest, limit: u64) -> LayoutError {
        LayoutError::TooLarge {
            digest,
            store: self.store.clone(),
            limit,
        }
    }
}
