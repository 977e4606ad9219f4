//! Handing a cache over to a registry or a client.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_session::LOOKUP_TIMEOUT;
use cairn_session::content::{RemoteContent, cache_store};
use cairn_solver::worker::{CallContext, WorkerError};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::records::{Outputs, write_records};
use super::{Attrs, Place};
use crate::embedded::export::{BlobOptions, not_a_compression, not_a_number};
use crate::embedded::{EmbeddedWorker, blocking, failed};
use crate::image::{Descriptor, Document, Manifest, MediaTypes, assemble_index};
use crate::layer::{LayerId, LayerList, LayerRecord};
use crate::registry::{Reference, Registry};
use crate::remote_cache::{CONFIG_TYPE, CREATED_AT, CacheConfig, DIFF_ID, LayerChains};
use crate::service::{CacheExport, CacheExporter, CacheMode};

/// Layers that are packed, or blobs that are sent, at the same time.
const PARALLEL: usize = 4;
/// Bytes per message to a client.
const MESSAGE: u64 = 1 << 20;

/// Exports to one place.
pub(super) struct Exporter {
    worker: EmbeddedWorker,
    place: Place,
    name: String,
    mode: CacheMode,
    blobs: BlobOptions,
    media_types: MediaTypes,
    /// Whether the manifest looks like an image's; else like a list of images.
    is_image: bool,
}

impl Exporter {
    pub(super) fn new(worker: &EmbeddedWorker, place: Place, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let level = attrs.get("compression-level").map(str::parse::<i32>).transpose();
        let level = level.map_err(|_| {
            let value = attrs.get("compression-level").unwrap_or_default();
            attrs.error(not_a_number("compression-level", value))
        })?;
        let is_oci = attrs.flag("oci-mediatypes", true)?;
        let is_image = attrs.flag("image-manifest", is_oci)?;
        if is_image && !is_oci {
            return Err(attrs.error(
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
            ));
        }
        let compression = attrs.get("compression").unwrap_or("gzip");
        let blobs = BlobOptions::named(compression, level, attrs.flag("force-compression", false)?);
        let blobs = blobs.ok_or_else(|| attrs.error(not_a_compression(compression)))?;
        if matches!(compression, "zstd" | "estargz") && !is_oci {
            return Err(attrs.invalid("compression", "needs oci-mediatypes=true"));
        }
        let name = match &place {
            Place::Registry { reference, .. } => reference.to_string(),
            Place::Directory { dir } => format!("local:{dir}"),
        };
        Ok(Self {
            worker: worker.clone(),
            place,
            name,
            // As clients expect, anything else counts as the default.
            mode: match attrs.get("mode") {
                Some("max") => CacheMode::Max,
                _ => CacheMode::Min,
            },
            blobs,
            media_types: if is_oci { MediaTypes::Oci } else { MediaTypes::Docker },
            is_image,
        })
    }

    async fn sink(&self, context: &CallContext) -> Result<Sink, WorkerError> {
        match &self.place {
            Place::Registry { reference, is_insecure } => {
                let mut registry = self.worker.registry(context);
                if *is_insecure {
                    registry = registry.insecure();
                }
                Ok(Sink::Registry(registry, reference.clone()))
            }
            Place::Directory { dir } => {
                let mut failure = WorkerError::Failed("no client to export the cache to".to_owned());
                for id in context.sessions.ids() {
                    match self.worker.0.sessions.get(&id, LOOKUP_TIMEOUT).await {
                        Ok(session) => return Ok(Sink::Client(RemoteContent::new(&session, &cache_store(dir)))),
                        Err(error) => failure = failed(&error),
                    }
                }
                Err(failure)
            }
        }
    }

    /// The results of each record that leave.
    async fn chosen(&self, cache: &CacheExport) -> Result<Vec<Option<Outputs>>, WorkerError> {
        let (worker, mode) = (self.worker.clone(), self.mode);
        let (records, targets) = (cache.records.clone(), cache.targets.clone());
        blocking(move || {
            let targets = targets.iter().map(|target| worker.layers_of(Some(target)));
            let targets: Vec<LayerList> = targets.collect::<Result<_, _>>()?;
            let is_below = |layers: &LayerList| targets.iter().any(|target| target.ids().starts_with(layers.ids()));
            let outputs = records.iter().map(|record| {
                let outputs = worker.record_layers(record)?;
                Ok(outputs.filter(|outputs| mode == CacheMode::Max || outputs.iter().flatten().all(is_below)))
            });
            outputs.collect()
        })
        .await
    }

    /// A layer as the cache has it; `None` if it is elsewhere and cannot be had.
    async fn layer(&self, id: &LayerId, sink: &Sink, context: &CallContext) -> Result<Option<Descriptor>, WorkerError> {
        let (worker, id) = (self.worker.clone(), id.clone());
        let (record, is_here) = blocking({
            let id = id.clone();
            let worker = worker.clone();
            move || {
                let record = worker.0.layers.layer(&id).map_err(|error| failed(&error))?;
                let record = record.ok_or_else(|| WorkerError::Failed(format!("layer {id} is not there any more")))?;
                let stored = record
                    .blob
                    .as_ref()
                    .map(|blob| worker.0.content.contains(&blob.digest))
                    .transpose();
                let is_stored = stored.map_err(|error| failed(&error))?.unwrap_or(false);
                let is_here = record.unpacked || is_stored;
                Ok((record, is_here))
            }
        })
        .await?;
        let (mut descriptor, diff_id) = match record.blob.clone().filter(|_| !is_here) {
            None => worker.layer_blob(&id, &record, self.blobs).await?,
            Some(blob) => {
                let descriptor = Descriptor::new(blob.media_type, blob.digest, blob.size);
                if !sink.has(&descriptor, &record, &worker).await?
                    && let Err(error) = worker
                        .fetch_blob(&descriptor, record.origin.as_ref(), context, None)
                        .await
                {
                    tracing::warn!(%error, digest = %blob.digest, "results with this layer are not exported");
                    return Ok(None);
                }
                (descriptor, blob.diff_id)
            }
        };
        descriptor.media_type = self.media_types.convert_layer(&descriptor.media_type).ok_or_else(|| {
            let Descriptor { digest, media_type, .. } = &descriptor;
            WorkerError::Failed(format!("layer {digest} of type {media_type} needs OCI media types"))
        })?;
        descriptor.annotations.extend([
            (DIFF_ID.to_owned(), diff_id.to_string()),
            (CREATED_AT.to_owned(), record.created.to_string()),
        ]);
        Ok(Some(descriptor))
    }

    /// Writes the cache down. Returns its config, and its layers, each once.
    async fn prepare(
        &self,
        cache: &CacheExport,
        sink: &Sink,
        context: &CallContext,
    ) -> Result<(Vec<u8>, Vec<Descriptor>), WorkerError> {
        let chosen = self.chosen(cache).await?;
        let mut ids: Vec<LayerId> = Vec::new();
        let mut seen = HashSet::new();
        for list in chosen.iter().flatten().flatten().flatten() {
            ids.extend(list.ids().iter().filter(|id| seen.insert((*id).clone())).cloned());
        }
        let layers = ids.into_iter().map(|id| async move {
            let layer = self.layer(&id, sink, context).await?;
            Ok::<_, WorkerError>((id, layer))
        });
        // In order, so that equal builds make equal caches.
        let layers = futures_util::stream::iter(layers).buffered(PARALLEL);
        let layers: Vec<(LayerId, Option<Descriptor>)> = layers.try_collect().await?;
        let mut blobs = HashSet::new();
        let unique: Vec<Descriptor> = layers
            .iter()
            .filter_map(|(_, layer)| layer.clone())
            .filter(|layer| blobs.insert(layer.digest))
            .collect();
        let by_id: HashMap<LayerId, Descriptor> = layers
            .into_iter()
            .filter_map(|(id, layer)| Some((id, layer?)))
            .collect();
        let mut chains = LayerChains::default();
        let mut tip = |output: &Option<LayerList>| match output {
            None => Some(-1),
            Some(list) => {
                let blobs = list.ids().iter().map(|id| Some(by_id.get(id)?.digest));
                Some(chains.add(blobs.collect::<Option<Vec<_>>>()?))
            }
        };
        let tips: Vec<Option<Vec<i64>>> = chosen
            .iter()
            .map(|outputs| outputs.as_ref()?.iter().map(&mut tip).collect())
            .collect();
        let config = CacheConfig {
            records: write_records(&cache.records, &tips),
            layers: chains.into_entries(),
        };
        let json = serde_json::to_vec(&config).map_err(|error| failed(&error))?;
        Ok((json, unique))
    }

    /// Makes the manifest, and puts it into the content store.
    async fn manifest(&self, config: Descriptor, layers: Vec<Descriptor>) -> Result<Document, WorkerError> {
        let (content, media_types, is_image) = (self.worker.0.content.clone(), self.media_types, self.is_image);
        blocking(move || {
            let made = if is_image {
                Manifest::new(media_types, config, layers).store(&content)
            } else {
                let entries: Vec<Descriptor> = layers.into_iter().chain([config]).collect();
                assemble_index(media_types, &entries, &BTreeMap::new(), &content)
            };
            made.map_err(|error| failed(&error))
        })
        .await
    }
}

#[async_trait]
impl CacheExporter for Exporter {
    fn title(&self) -> &'static str {
        match self.place {
            Place::Registry { .. } => "exporting cache to registry",
            Place::Directory { .. } => "exporting cache to client directory",
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn export(
        &self,
        cache: &CacheExport,
        context: &CallContext,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        let work = async {
            let progress = &context.progress;
            let sink = self.sink(context).await?;
            let status = progress.begin("preparing build cache for export");
            let (json, layers) = self.prepare(cache, &sink, context).await?;
            drop(status);
            let content = &self.worker.0.content;
            let writes = layers.iter().map(|layer| {
                let status = progress.begin(format!("writing layer {}", layer.digest));
                let sink = &sink;
                async move {
                    let written = sink.write(layer, &self.worker).await;
                    drop(status);
                    written
                }
            });
            let writes: Vec<_> = writes.collect();
            futures_util::stream::iter(writes)
                .buffer_unordered(PARALLEL)
                .try_collect::<Vec<()>>()
                .await?;
            let config = Descriptor::of(CONFIG_TYPE, &json);
            let stored = content.clone();
            blocking(move || stored.put(&json).map(drop).map_err(|error| failed(&error))).await?;
            let status = progress.begin(format!("writing config {}", config.digest));
            sink.write(&config, &self.worker).await?;
            drop(status);
            let manifest = self.manifest(config, layers).await?;
            let what = if self.is_image {
                "cache image manifest"
            } else {
                "cache manifest"
            };
            let status = progress.begin(format!("writing {what} {}", manifest.digest()));
            sink.finish(&manifest, &self.worker).await?;
            drop(status);
            let descriptor = serde_json::to_string(&manifest.descriptor).map_err(|error| failed(&error))?;
            Ok(BTreeMap::from([("cache.manifest".to_owned(), descriptor)]))
        };
        tokio::select! {
            done = work => done,
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        }
    }
}

/// Where blobs go.
enum Sink {
    Registry(Registry, Reference),
    Client(RemoteContent),
}

impl Sink {
    /// Whether a blob need not be sent.
    async fn has(&self, blob: &Descriptor, record: &LayerRecord, worker: &EmbeddedWorker) -> Result<bool, WorkerError> {
        match self {
            Self::Registry(registry, target) => {
                let origin = record.origin.as_ref();
                let known = origin.and_then(|origin| origin.repository_of(target.registry()));
                let known: Vec<String> = known.into_iter().collect();
                let found = registry.find_blob(target, &blob.digest, &worker.0.content, &known);
                let found = found.await.map_err(|error| failed(&error))?;
                Ok(found.is_some())
            }
            Self::Client(store) => {
                let size = store.size(&blob.digest.to_string()).await;
                Ok(size.map_err(|error| failed(&error))? == Some(blob.size))
            }
        }
    }

    /// Sends a blob of the content store, unless it is there.
    async fn write(&self, blob: &Descriptor, worker: &EmbeddedWorker) -> Result<(), WorkerError> {
        let content = &worker.0.content;
        match self {
            Self::Registry(registry, target) => {
                let pushed = registry.push_blob(target, blob, content, &[], None).await;
                pushed.map(drop).map_err(|error| failed(&error))
            }
            Self::Client(store) => {
                let digest = blob.digest.to_string();
                let size = store.size(&digest).await.map_err(|error| failed(&error))?;
                if size == Some(blob.size) {
                    return Ok(());
                }
                let writer = store.write(&digest, blob.size).await.map_err(|error| failed(&error))?;
                let Some(mut writer) = writer else { return Ok(()) };
                let (reader, digest) = (content.clone(), blob.digest);
                let file = blocking(move || reader.reader(&digest).map_err(|error| failed(&error))).await?;
                let file = Arc::new(file);
                loop {
                    let file = file.clone();
                    let chunk = blocking(move || {
                        let mut chunk = Vec::new();
                        let read = (&*file).take(MESSAGE).read_to_end(&mut chunk);
                        read.map_err(|error| failed(&error))?;
                        Ok(Bytes::from(chunk))
                    })
                    .await?;
                    if chunk.is_empty() {
                        break;
                    }
                    writer.send(chunk).await.map_err(|error| failed(&error))?;
                }
                writer.commit().await.map_err(|error| failed(&error))
            }
        }
    }

    /// Puts the manifest where the cache is found by.
    async fn finish(&self, manifest: &Document, worker: &EmbeddedWorker) -> Result<(), WorkerError> {
        match self {
            Self::Registry(registry, target) => {
                let pushed = registry.push_manifest(target, manifest).await;
                pushed.map_err(|error| failed(&error))
            }
            // The client enters it into its index itself.
            Self::Client(_) => self.write(&manifest.descriptor, worker).await,
        }
    }
}
