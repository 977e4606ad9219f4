//! Images as sources.

mod recent;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::llb::{ImageSource, OciLayoutSource, ResolveMode};
use cairn_solver::progress::VertexProgress;
use cairn_solver::worker::{CallContext, ImageQuery, LayoutStore, Ref, ResolvedImage, ResolvedSource, WorkerError};
use cairn_solver::{Digest, Platform};

pub(super) use self::recent::RecentConfigs;
use super::layout::{Layout, LayoutError};
use super::{EmbeddedWorker, failed};
use crate::archive::{self, ApplyOptions, ArchiveError};
use crate::causes::with_causes;
use crate::compression::{self, Limits};
use crate::content::{ContentStore, HashingReader};
use crate::image::{self, Descriptor};
use crate::layer::{Blob, Describe, Unpacked, Unpacker};
use crate::registry::{Reference, Registry, RegistryError};
use crate::sys::Root;

/// Largest image config that is read for its list of layers.
const MAX_LAYERS: usize = 500;

impl EmbeddedWorker {
    /// Registries as the clients of a piece of work may use them.
    pub(super) fn registry(&self, context: &CallContext) -> Registry {
        self.0.registries.of(&context.sessions)
    }

    pub(super) fn platform(&self, platform: Option<&Platform>) -> Platform {
        platform.cloned().unwrap_or_else(Platform::host)
    }

    /// Finds out which manifest a reference stands for. One with a digest needs no registry.
    pub(super) async fn resolve_image_source(
        &self,
        source: &ImageSource,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let reference = parse_reference(&source.reference)?;
        let status = context.progress.begin(format!("resolve {reference}"));
        let digest = self.resolve_digest(&reference, source.resolve_mode, context).await?;
        drop(status);
        if let Some(wanted) = source.checksum.filter(|wanted| *wanted != digest) {
            return Err(WorkerError::Failed(format!(
                "image digest {digest} for {reference} does not match expected checksum {wanted}"
            )));
        }
        Ok(ResolvedSource {
            pin: self.image_pin(digest, platform, source.layer_limit),
            parts: BTreeMap::from([
                ("reference".to_owned(), source.reference.clone()),
                ("manifest".to_owned(), digest.to_string()),
            ]),
            result: None,
        })
    }

    /// Finds out which manifest of a client's layout is meant: its reference says so.
    pub(super) fn resolve_layout_source(
        &self,
        source: &OciLayoutSource,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        drop(context.progress.begin(format!("resolve {}", source.reference)));
        let digest = layout_digest(&source.reference)?;
        if let Some(wanted) = source.checksum.filter(|wanted| *wanted != digest) {
            return Err(WorkerError::Failed(format!(
                "image digest {digest} for {} does not match expected checksum {wanted}",
                source.reference
            )));
        }
        Ok(ResolvedSource {
            pin: self.image_pin(digest, platform, source.layer_limit),
            // Clients make up another name for every build.
            parts: BTreeMap::from([("manifest".to_owned(), digest.to_string())]),
            result: None,
        })
    }

    fn image_pin(&self, digest: Digest, platform: Option<&Platform>, layer_limit: Option<usize>) -> String {
        let platform = self.platform(platform);
        let limit = layer_limit.map(|limit| limit.to_string()).unwrap_or_default();
        format!("image {digest} {platform} {limit}")
    }

    /// Fetches a config for a reference and a platform.
    pub(super) async fn resolve_image_config(
        &self,
        query: &ImageQuery,
        context: &CallContext,
    ) -> Result<ResolvedImage, WorkerError> {
        let platform = self.platform(query.platform.as_ref());
        if let Some(store) = &query.layout {
            let digest = layout_digest(&query.reference)?;
            let layout = self.layout(store, context);
            let image = layout.resolve(digest, &platform).await;
            let config = layout
                .config(&image.map_err(|error| layout_error(&error))?.config)
                .await;
            return Ok(ResolvedImage {
                reference: query.reference.clone(),
                digest,
                config: config.map_err(|error| layout_error(&error))?,
            });
        }
        let reference = parse_reference(&query.reference)?;
        let digest = self.resolve_digest(&reference, query.mode, context).await?;
        let reference = reference.with_digest(digest);
        let config = match self.0.configs.get(&reference, &platform) {
            Some(config) => config,
            None => {
                let registry = self.registry(context);
                let image = registry.resolve(&reference, &platform, &self.0.content).await;
                let image = image.map_err(|error| registry_error(&error))?;
                let config = registry.config(&reference, &image.config, &self.0.content).await;
                let config = config.map_err(|error| registry_error(&error))?;
                self.0.configs.put(reference, platform, &config);
                config
            }
        };
        Ok(ResolvedImage {
            reference: query.reference.clone(),
            digest,
            config,
        })
    }

    /// Which manifest or index a reference stands for: at the registry, or among the images that were built here.
    ///
    /// What is here counts first only if the client says so; else it stands in for a registry that does not have it,
    /// or does not answer.
    async fn resolve_digest(
        &self,
        reference: &Reference,
        mode: ResolveMode,
        context: &CallContext,
    ) -> Result<Digest, WorkerError> {
        let built_here = match mode {
            ResolveMode::Pull => None,
            ResolveMode::Default | ResolveMode::Local => self.built_here(reference)?,
        };
        let Some(built_here) = built_here else {
            let digest = self.registry(context).resolve_digest(reference).await;
            return digest.map_err(|error| registry_error(&error));
        };
        if mode == ResolveMode::Local {
            return Ok(built_here);
        }
        let registry = self.0.registries.hasty(&context.sessions);
        Ok(registry.resolve_digest(reference).await.unwrap_or(built_here))
    }

    fn built_here(&self, reference: &Reference) -> Result<Option<Digest>, WorkerError> {
        let named = self.0.images.get(reference).map_err(|error| failed(&error))?;
        Ok(named.map(|image| image.target.digest))
    }

    /// Fetches and unpacks an image's layers.
    pub(super) async fn make_image(
        &self,
        source: &ImageSource,
        platform: Option<&Platform>,
        resolved: Option<&ResolvedSource>,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        let reference = parse_reference(&source.reference)?;
        let reference = match resolved.and_then(|resolved| resolved.parts.get("manifest")) {
            Some(digest) => {
                let digest = Digest::parse(digest).map_err(|error| WorkerError::Failed(error.to_string()))?;
                reference.with_digest(digest)
            }
            None => reference,
        };
        let registry = self.registry(context);
        let platform = self.platform(platform);
        let image = registry.resolve(&reference, &platform, &self.0.content).await;
        let image = image.map_err(|error| registry_error(&error))?;
        let config = registry.config(&reference, &image.config, &self.0.content).await;
        let config = config.map_err(|error| registry_error(&error))?;
        let wanted = Wanted {
            name: reference.to_string(),
            config,
            layers: image.layers,
            layer_limit: source.layer_limit,
            describe: Describe {
                description: format!("pulled from {}", source.reference),
                record_type: if source.record_type.is_empty() {
                    "regular".to_owned()
                } else {
                    source.record_type.clone()
                },
            },
        };
        self.unpack_image(wanted, Origin::Registry { registry, reference }, context)
            .await
    }

    /// Fetches and unpacks the layers of an image in a client's layout.
    pub(super) async fn make_layout_image(
        &self,
        source: &OciLayoutSource,
        platform: Option<&Platform>,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        let store = LayoutStore {
            session: source.session.clone(),
            store: source.store.clone(),
        };
        let layout = self.layout(&store, context);
        let digest = layout_digest(&source.reference)?;
        let image = layout.resolve(digest, &self.platform(platform)).await;
        let image = image.map_err(|error| layout_error(&error))?;
        let config = layout.config(&image.config).await;
        let wanted = Wanted {
            name: source.reference.clone(),
            config: config.map_err(|error| layout_error(&error))?,
            layers: image.layers,
            layer_limit: source.layer_limit,
            describe: Describe {
                description: format!("pulled from {}", source.reference),
                record_type: "regular".to_owned(),
            },
        };
        self.unpack_image(wanted, Origin::Layout(layout), context).await
    }

    pub(super) fn layout(&self, store: &LayoutStore, context: &CallContext) -> Layout {
        Layout::new(&self.0.sessions, store, &self.0.content, context)
    }

    async fn unpack_image(
        &self,
        wanted: Wanted,
        origin: Origin,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        let Wanted { name, layers, .. } = &wanted;
        let diff_ids = diff_ids(name, &wanted.config)?;
        if diff_ids.len() != layers.len() {
            return Err(WorkerError::Failed(format!(
                "image {name} lists {} layers, but its config {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        if let Some(limit) = wanted.layer_limit.filter(|limit| *limit > layers.len()) {
            return Err(WorkerError::Failed(format!(
                "layer limit {limit} is greater than the number of layers in the image {}",
                layers.len()
            )));
        }
        let blobs: Vec<Blob> = layers
            .iter()
            .zip(diff_ids)
            .take(wanted.layer_limit.unwrap_or(usize::MAX))
            .map(|(layer, diff_id)| Blob {
                digest: layer.digest,
                diff_id,
                media_type: layer.media_type.clone(),
                size: layer.size,
            })
            .collect();
        let list = self
            .0
            .layers
            .add_blobs(&blobs, &wanted.describe)
            .map_err(|error| failed(&error))?;
        let unpacker: Arc<dyn Unpacker> = Arc::new(ImageUnpacker {
            origin,
            content: self.0.content.clone(),
            progress: context.progress.clone(),
        });
        let unpacked = self.0.layers.ensure_unpacked(&list, &unpacker).await;
        unpacked.map_err(|error| failed(&error))?;
        let worker = self.clone();
        super::blocking(move || worker.record(&list)).await
    }
}

/// An image that was resolved and is to be unpacked.
struct Wanted {
    /// For messages.
    name: String,
    config: Bytes,
    /// Bottom first.
    layers: Vec<Descriptor>,
    /// Only that many of the lowest.
    layer_limit: Option<usize>,
    describe: Describe,
}

/// The digest in a reference to an image in a layout, which must have one.
fn layout_digest(reference: &str) -> Result<Digest, WorkerError> {
    let (_, digest) = reference
        .rsplit_once('@')
        .ok_or_else(|| WorkerError::Invalid(format!("reference {reference:?} must have digest")))?;
    Digest::parse(digest)
        .map_err(|error| WorkerError::Invalid(format!("could not parse oci-layout reference {reference:?}: {error}")))
}

pub(super) fn layout_error(error: &LayoutError) -> WorkerError {
    match error {
        LayoutError::NotFound { .. } => WorkerError::NotFound(with_causes(error)),
        error => failed(error),
    }
}

/// Parses a reference as users write it: `debian` is `docker.io/library/debian:latest`.
pub(super) fn parse_reference(text: &str) -> Result<Reference, WorkerError> {
    let parsed = Reference::parse(text);
    parsed.map_err(|error| WorkerError::Invalid(format!("failed to parse image reference {text:?}: {error}")))
}

/// An error as clients get it. Which servers were asked in vain is for the log: clients know the short words.
pub(super) fn registry_error(error: &RegistryError) -> WorkerError {
    match error {
        RegistryError::NotFound { reference, .. } => {
            tracing::debug!("{}", with_causes(error));
            WorkerError::NotFound(format!("{reference}: not found"))
        }
        error => failed(error),
    }
}

fn diff_ids(reference: &str, config: &[u8]) -> Result<Vec<Digest>, WorkerError> {
    let malformed =
        |error: String| WorkerError::Failed(format!("the config of image {reference} is malformed: {error}"));
    let diff_ids = image::diff_ids(config).map_err(|error| malformed(error.to_string()))?;
    if diff_ids.len() > MAX_LAYERS {
        return Err(malformed(format!("more than {MAX_LAYERS} layers")));
    }
    Ok(diff_ids)
}

/// Where an image's layers come from.
enum Origin {
    Registry { registry: Registry, reference: Reference },
    Layout(Layout),
}

/// Fetches and unpacks the layers of one image.
struct ImageUnpacker {
    origin: Origin,
    content: ContentStore,
    progress: VertexProgress,
}

#[async_trait]
impl Unpacker for ImageUnpacker {
    async fn unpack(
        &self,
        blob: &Blob,
        dir: Root,
        lowers: Option<Vec<Root>>,
    ) -> Result<Unpacked, Box<dyn std::error::Error + Send + Sync>> {
        let status = Arc::new(self.progress.begin(blob.digest.to_string()));
        let reported = status.clone();
        let descriptor = Descriptor::new(blob.media_type.clone(), blob.digest, blob.size);
        let progress: crate::registry::Progress = Arc::new(move |done, total| reported.update(done, total));
        match &self.origin {
            Origin::Registry { registry, reference } => {
                let fetched = registry.fetch_blob(reference, &descriptor, &self.content, Some(progress));
                fetched.await?;
            }
            Origin::Layout(layout) => layout.fetch_blob(&descriptor, Some(progress)).await?,
        }
        drop(status);
        let status = self
            .progress
            .begin_action(format!("extracting {}", blob.digest), "extracting");
        let (content, digest, diff_id) = (self.content.clone(), blob.digest, blob.diff_id);
        let unpacked =
            tokio::task::spawn_blocking(move || unpack(&content, digest, diff_id, &dir, lowers.as_deref())).await??;
        drop(status);
        Ok(unpacked)
    }
}

/// Unpacks a blob and verifies what the config says of it.
pub(super) fn unpack(
    content: &ContentStore,
    digest: Digest,
    diff_id: Digest,
    dir: &Root,
    lowers: Option<&[Root]>,
) -> Result<Unpacked, Box<dyn std::error::Error + Send + Sync>> {
    let tar = compression::decompress(content.reader(&digest)?, Limits::default())?;
    let mut tar = HashingReader::new(tar);
    let below: Vec<&Root> = lowers.into_iter().flatten().collect();
    let applied = match archive::apply(&mut tar, dir, &ApplyOptions::over(&below)) {
        Err(ArchiveError::MissingLink { .. }) if lowers.is_none() => return Ok(Unpacked::NeedsLowers),
        applied => applied?,
    };
    let (actual, _) = tar.finish();
    if actual != diff_id {
        return Err(format!("layer {digest} unpacks to {actual}, but its image says {diff_id}").into());
    }
    Ok(Unpacked::Whole {
        implied: applied.implied,
        marked: applied.marked,
    })
}
