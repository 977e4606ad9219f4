//! Getting to know a cache, and taking results over from it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_session::content::cache_store;
use cairn_solver::Digest;
use cairn_solver::cache_key::CacheKey;
use cairn_solver::imported::{ImportedCache, record_digest, selector_digest};
use cairn_solver::worker::{CallContext, ContentSelector, Ref, WorkerError};

use super::{Attrs, Place};
use crate::embedded::layout::Layout;
use crate::embedded::{EmbeddedWorker, blocking, failed};
use crate::image::{Descriptor, Document};
use crate::layer::{BlobOrigin, Describe};
use crate::registry::{Reference, Registry};
use crate::remote_cache::{CacheManifest, LoadedCache, MAX_CONFIG, read_config, read_inline};
use crate::service::CacheImporter;

/// Most images of a list that are searched for cache records.
const MAX_IMAGES: usize = 16;

/// Imports from one place.
pub(super) struct Importer {
    worker: EmbeddedWorker,
    place: Place,
    name: String,
    /// Of a local cache: its manifest.
    digest: Option<Digest>,
}

impl Importer {
    pub(super) fn new(worker: &EmbeddedWorker, place: Place, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let (name, digest) = match &place {
            Place::Registry { .. } => (attrs.required("ref")?.to_owned(), None),
            Place::Directory { dir } => {
                let digest = attrs.required("digest")?;
                let digest = Digest::parse(digest).map_err(|_| attrs.invalid("digest", "expected a digest"))?;
                (format!("local:{dir}"), Some(digest))
            }
        };
        Ok(Self {
            worker: worker.clone(),
            place,
            name,
            digest,
        })
    }
}

/// Documents and configs of one place.
enum Reader {
    Registry(Registry, Reference),
    Client(Layout),
}

impl Reader {
    async fn document(&self, worker: &EmbeddedWorker, digest: Option<Digest>) -> Result<Document, WorkerError> {
        match (self, digest) {
            (Self::Registry(registry, reference), digest) => {
                let reference = digest.map_or_else(|| reference.clone(), |digest| reference.with_digest(digest));
                let document = registry.document(&reference, &worker.0.content).await;
                document.map_err(|error| crate::embedded::image::registry_error(&error))
            }
            (Self::Client(layout), Some(digest)) => {
                let document = layout.document(digest, None).await;
                document.map_err(|error| crate::embedded::image::layout_error(&error))
            }
            (Self::Client(_), None) => Err(WorkerError::Invalid("a local cache is found by a digest".to_owned())),
        }
    }

    async fn config(&self, worker: &EmbeddedWorker, config: &Descriptor) -> Result<Bytes, WorkerError> {
        if config.size > MAX_CONFIG {
            return Err(WorkerError::Failed(format!(
                "cache config {} has {} bytes, more than {MAX_CONFIG}",
                config.digest, config.size
            )));
        }
        match self {
            Self::Registry(registry, reference) => {
                let config = registry.config(reference, config, &worker.0.content).await;
                config.map_err(|error| crate::embedded::image::registry_error(&error))
            }
            Self::Client(layout) => {
                let config = layout.config(config).await;
                config.map_err(|error| crate::embedded::image::layout_error(&error))
            }
        }
    }

    /// What a manifest and all that belongs to it know.
    async fn read(&self, worker: &EmbeddedWorker, manifest: CacheManifest) -> Result<LoadedCache, WorkerError> {
        let mut images = Vec::new();
        match manifest {
            CacheManifest::Config { config, layers } => {
                let json = self.config(worker, &config).await?;
                return read(move || read_config(&json, &layers)).await;
            }
            CacheManifest::Image { config, layers } => images.push((config, layers)),
            CacheManifest::Images(manifests) => {
                let is_image = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|p| p.os != "unknown");
                for entry in manifests.iter().filter(is_image).take(MAX_IMAGES) {
                    let document = self.document(worker, Some(entry.digest)).await?;
                    if let CacheManifest::Image { config, layers } = CacheManifest::of(&document) {
                        images.push((config, layers));
                    }
                }
            }
        }
        let mut cache = LoadedCache::default();
        for (config, layers) in images {
            let config = self.config(worker, &config).await?;
            if let Some(found) = read(move || read_inline(&config, &layers)).await? {
                cache.merge(found);
            }
        }
        Ok(cache)
    }
}

/// Parses where it holds nobody up.
async fn read<T: Send + 'static>(
    parse: impl FnOnce() -> Result<T, crate::remote_cache::ReadError> + Send + 'static,
) -> Result<T, WorkerError> {
    blocking(move || parse().map_err(|error| failed(&error))).await
}

#[async_trait]
impl CacheImporter for Importer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn load(&self, context: &CallContext) -> Result<Arc<dyn ImportedCache>, WorkerError> {
        let worker = &self.worker;
        let (reader, kind) = match &self.place {
            Place::Registry { reference, is_insecure } => {
                // Whoever does not answer is not worth waiting for.
                let mut registry = worker.0.registries.hasty(&context.sessions);
                if *is_insecure {
                    registry = registry.insecure();
                }
                (Reader::Registry(registry, reference.clone()), "registry")
            }
            Place::Directory { dir } => {
                let layout = Layout::of_store(&worker.0.sessions, cache_store(dir), &worker.0.content, context);
                (Reader::Client(layout), "local")
            }
        };
        let loading = async {
            let document = reader.document(worker, self.digest).await?;
            let media_type = &document.descriptor.media_type;
            drop(
                context
                    .progress
                    .begin(format!("inferred cache manifest type: {media_type}")),
            );
            reader.read(worker, CacheManifest::of(&document)).await
        };
        let cache = loading.await.map_err(|error| explain(kind, error))?;
        if cache.is_empty() {
            drop(context.progress.begin("no records that this daemon could use"));
        }
        Ok(Arc::new(Imported {
            worker: worker.clone(),
            name: self.name.clone(),
            origin: self.place.origin(),
            cache,
        }))
    }
}

fn explain(kind: &str, error: WorkerError) -> WorkerError {
    let what = format!("failed to configure {kind} cache importer");
    match error {
        WorkerError::NotFound(text) => WorkerError::NotFound(format!("{what}: {text}")),
        WorkerError::Failed(text) => WorkerError::Failed(format!("{what}: {text}")),
        error => error,
    }
}

/// A cache that is known, with its layers where they were.
struct Imported {
    worker: EmbeddedWorker,
    name: String,
    origin: BlobOrigin,
    cache: LoadedCache,
}

#[async_trait]
impl ImportedCache for Imported {
    fn content(&self, key: &CacheKey, output: usize, selector: &ContentSelector) -> Option<Digest> {
        let selector = selector_digest(selector);
        let mut contents = self.cache.contents(&record_digest(key)).iter();
        let found = contents.find(|content| content.output == output && content.selector == selector)?;
        Some(found.digest)
    }

    async fn adopt(&self, key: &CacheKey, _: &CallContext) -> Result<Option<Vec<Option<Ref>>>, WorkerError> {
        let Some(outputs) = self.cache.outputs(&record_digest(key)) else {
            return Ok(None);
        };
        let (worker, origin) = (self.worker.clone(), self.origin.clone());
        let describe = Describe {
            description: format!("imported from {}", self.name),
            record_type: "regular".to_owned(),
        };
        blocking(move || {
            let results = outputs.iter().map(|layers| {
                let list = worker.0.layers.add_remote_blobs(layers, &describe, &origin);
                worker.record(&list.map_err(|error| failed(&error))?)
            });
            results.collect::<Result<_, _>>().map(Some)
        })
        .await
    }
}
