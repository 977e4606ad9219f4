//! Results as images: in the local store, in registries, in tar files.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use cairn_session::filesend::ExportTarget;
use cairn_solver::Platform;
use cairn_solver::progress::VertexProgress;
use cairn_solver::worker::{CallContext, Ref, WorkerError};
use jiff::Timestamp;

use super::super::image::parse_reference;
use super::super::{EmbeddedWorker, blocking, failed};
use super::attrs::Attrs;
use super::blobs::BlobOptions;
use super::{Target, pipe};
use crate::compression::Compression;
use crate::image::{
    self, ConfigOptions, Descriptor, Document, ImageParts, LayoutKind, MediaTypes, PushEvent, PushOptions, StoredBlobs,
};
use crate::registry::Reference;
use crate::service::{ExportInput, ExportRefs, Exporter};

/// Key of a config in a frontend's metadata; followed by `/<platform>` where there are several.
const CONFIG: &str = "containerimage.config";

/// Where an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    /// The local store, and registries.
    Store,
    /// A tar file of the client.
    File(LayoutKind),
}

/// `type=image`, `type=oci` and `type=docker`.
pub(super) struct ImageExporter {
    target: Target,
    destination: Destination,
    /// Names as given; `*` stands for what the frontend says.
    names: Vec<String>,
    media_types: MediaTypes,
    blobs: BlobOptions,
    epoch: Option<Timestamp>,
    is_stored: bool,
    is_pushed: bool,
    by_digest: bool,
    is_insecure: bool,
    manifest_annotations: BTreeMap<String, String>,
    index_annotations: BTreeMap<String, String>,
}

impl ImageExporter {
    pub(super) fn new(target: Target, kind: &str, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let destination = match kind {
            "oci" => Destination::File(LayoutKind::Oci),
            "docker" => Destination::File(LayoutKind::Docker),
            _ => Destination::Store,
        };
        let compression = match attrs.get("compression") {
            None | Some("" | "gzip") => Compression::Gzip,
            Some("uncompressed") => Compression::None,
            Some("zstd") => Compression::Zstd,
            Some(_) => {
                return Err(attrs.invalid("compression", "expected gzip, zstd or uncompressed"));
            }
        };
        let level = match attrs.get("compression-level") {
            None | Some("") => None,
            Some(text) => {
                let level = text.parse::<i32>();
                Some(level.map_err(|_| attrs.invalid("compression-level", "expected a number"))?)
            }
        };
        let is_oci = attrs.flag("oci-mediatypes", true)? || destination == Destination::File(LayoutKind::Oci);
        if compression == Compression::Zstd && !is_oci {
            return Err(attrs.invalid("compression", "zstd needs oci-mediatypes=true"));
        }
        if !attrs.flag("tar", true)? {
            return Err(attrs.invalid("tar", "only tar output is supported by this worker"));
        }
        attrs.refuse(&["rewrite-timestamp", "prefer-nondist-layers", "name-canonical"])?;
        let mut exporter = Self {
            target,
            destination,
            names: attrs
                .get("name")
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            media_types: if is_oci { MediaTypes::Oci } else { MediaTypes::Docker },
            blobs: BlobOptions {
                compression,
                level,
                force: attrs.flag("force-compression", false)?,
            },
            epoch: attrs.epoch()?,
            is_stored: attrs.flag("store", true)?,
            is_pushed: attrs.flag("push", false)?,
            by_digest: attrs.flag("push-by-digest", false)?,
            is_insecure: attrs.flag("registry.insecure", false)?,
            manifest_annotations: BTreeMap::new(),
            index_annotations: BTreeMap::new(),
        };
        if exporter.is_pushed && exporter.names.is_empty() {
            return Err(attrs.invalid("push", "a name is needed to push to"));
        }
        for name in exporter.names.iter().filter(|name| *name != "*") {
            parse_reference(name)?;
        }
        exporter.read_annotations(attrs)?;
        Ok(exporter)
    }

    fn read_annotations(&mut self, attrs: &Attrs<'_>) -> Result<(), WorkerError> {
        for (key, value) in attrs.iter() {
            let Some((scope, name)) = key.strip_prefix("annotation").and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            match scope {
                "" | "-manifest" => self.manifest_annotations.insert(name.to_owned(), value.to_owned()),
                "-index" => self.index_annotations.insert(name.to_owned(), value.to_owned()),
                _ => return Err(attrs.invalid(key, "annotations of this scope are not supported by this worker")),
            };
        }
        Ok(())
    }

    fn names(&self, metadata: &BTreeMap<String, Bytes>) -> Result<Vec<Reference>, WorkerError> {
        let mut names = Vec::new();
        for name in &self.names {
            if name == "*" {
                let said = metadata.get("image.name").map(|said| String::from_utf8_lossy(said));
                for name in said.unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
                    names.push(parse_reference(name)?);
                }
            } else {
                names.push(parse_reference(name)?);
            }
        }
        Ok(names)
    }

    /// Makes the image for one platform; its blobs, config and manifest are in the content store then.
    async fn assemble(
        &self,
        result: Option<&Ref>,
        platform: &Platform,
        config: Option<Bytes>,
    ) -> Result<(Document, Descriptor), WorkerError> {
        let (worker, result) = (self.target.worker.clone(), result.cloned());
        let list = blocking(move || worker.layers_of(result.as_ref())).await?;
        let layers = self.target.worker.image_layers(&list, self.blobs).await?;
        let (content, platform) = (self.target.worker.0.content.clone(), platform.clone());
        let (epoch, media_types) = (self.epoch, self.media_types);
        let annotations = self.manifest_annotations.clone();
        let made = blocking(move || {
            let parts = ImageParts {
                config: config.as_deref(),
                platform: &platform,
                layers: &layers,
                options: ConfigOptions {
                    epoch,
                    inline_cache: None,
                },
                media_types,
                annotations: &annotations,
            };
            image::assemble_image(&parts, &content).map_err(|error| failed(&error))
        })
        .await?;
        Ok((made.manifest, made.config))
    }

    /// Makes the image; the second part is the config's digest, if it is the image of one platform.
    async fn make(
        &self,
        input: &ExportInput,
        progress: &VertexProgress,
    ) -> Result<(Document, Option<Descriptor>), WorkerError> {
        let status = progress.begin("exporting layers");
        let results = match &input.refs {
            ExportRefs::Single(result) => {
                let config = input.metadata.get(CONFIG).cloned();
                let platform = config.as_deref().and_then(platform_of).unwrap_or_else(Platform::host);
                let (mut manifest, config) = self.assemble(result.as_ref(), &platform, config).await?;
                manifest.descriptor.platform = Some(platform);
                drop(status);
                return Ok((manifest, Some(config)));
            }
            ExportRefs::Platforms(results) => results,
        };
        let images = results.iter().map(async |(id, result)| {
            let platform: Platform = id
                .parse()
                .map_err(|error| WorkerError::Invalid(format!("result for platform {id:?}: {error}")))?;
            let config = input.metadata.get(&format!("{CONFIG}/{id}")).cloned();
            let (manifest, _) = self.assemble(result.as_ref(), &platform, config).await?;
            Ok::<_, WorkerError>(Descriptor {
                platform: Some(platform),
                ..manifest.descriptor
            })
        });
        let manifests = futures_util::future::try_join_all(images).await?;
        drop(status);
        let (content, media_types) = (self.target.worker.0.content.clone(), self.media_types);
        let annotations = self.index_annotations.clone();
        let index = blocking(move || {
            image::assemble_index(media_types, &manifests, &annotations, &content).map_err(|error| failed(&error))
        })
        .await?;
        Ok((index, None))
    }

    async fn push(&self, root: &Document, name: &Reference, context: &CallContext) -> Result<(), WorkerError> {
        let worker = &self.target.worker;
        let mut registry = worker.registry(context);
        if self.is_insecure {
            registry = registry.insecure();
        }
        let status = context.progress.begin("pushing layers");
        let statuses = parking_lot::Mutex::new((Some(status), None));
        let progress = context.progress.clone();
        let title = format!("pushing manifest for {name}@{}", root.digest());
        let report = move |event: PushEvent| {
            if matches!(event, PushEvent::Manifests) {
                *statuses.lock() = (None, Some(progress.begin(title.as_str())));
            }
        };
        let options = PushOptions {
            by_digest: self.by_digest,
            progress: Some(Arc::new(report)),
        };
        let content = &worker.0.content;
        let pushed = image::push_image(&registry, name, root, content, &StoredBlobs, &options).await;
        pushed.map_err(|error| failed(&error))
    }

    async fn send(
        &self,
        kind: LayoutKind,
        root: &Document,
        names: Vec<Reference>,
        response: &BTreeMap<String, String>,
        progress: &VertexProgress,
    ) -> Result<(), WorkerError> {
        let session = self.target.session().await?;
        let target = ExportTarget {
            exporter: self.target.index,
            is_multi_platform: false,
            metadata: response.clone(),
        };
        let _status = progress.begin("sending tarball");
        let (root, content) = (root.clone(), self.target.worker.0.content.clone());
        let created = self.epoch.or_else(|| Some(Timestamp::now()));
        pipe::send(&session, &target, move |writer| {
            let written = image::write_layout(kind, &root, &names, created, &content, writer);
            written.map(drop).map_err(|error| failed(&error))
        })
        .await
    }
}

#[async_trait]
impl Exporter for ImageExporter {
    fn title(&self) -> &'static str {
        match self.destination {
            Destination::Store => "exporting to image",
            Destination::File(LayoutKind::Oci) => "exporting to oci image format",
            Destination::File(LayoutKind::Docker) => "exporting to docker image format",
        }
    }

    async fn export(
        &self,
        input: &ExportInput,
        context: &CallContext,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        if matches!(input.refs, ExportRefs::Platforms(_)) && self.destination == Destination::File(LayoutKind::Docker) {
            return Err(failed(&image::LayoutError::IndexForDocker));
        }
        let names = self.names(&input.metadata)?;
        let progress = &context.progress;
        let (root, config) = self.make(input, progress).await?;
        let kind = if config.is_some() { "manifest" } else { "manifest list" };
        drop(progress.begin(format!("exporting {kind} {}", root.digest())));
        let mut response = BTreeMap::from([("containerimage.digest".to_owned(), root.digest().to_string())]);
        if let Some(config) = config {
            drop(progress.begin(format!("exporting config {}", config.digest)));
            response.insert("containerimage.config.digest".to_owned(), config.digest.to_string());
        }
        let descriptor = serde_json::to_vec(&root.descriptor).map_err(|error| failed(&error))?;
        let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor);
        response.insert("containerimage.descriptor".to_owned(), descriptor);
        if !names.is_empty() {
            let text: Vec<String> = match self.destination {
                Destination::Store => self.names.clone(),
                Destination::File(_) => names.iter().map(ToString::to_string).collect(),
            };
            response.insert("image.name".to_owned(), text.join(","));
        }
        match self.destination {
            Destination::File(kind) => self.send(kind, &root, names, &response, progress).await?,
            Destination::Store => {
                if self.is_stored {
                    for name in &names {
                        let _status = progress.begin(format!("naming to {name}"));
                        name_image(&self.target.worker, name, &root).await?;
                    }
                }
                if self.is_pushed {
                    for name in &names {
                        self.push(&root, name, context).await?;
                    }
                }
            }
        }
        Ok(response)
    }
}

/// What an image config says the image is for.
fn platform_of(config: &[u8]) -> Option<Platform> {
    let platform: Platform = serde_json::from_slice(config).ok()?;
    Some(platform.normalized())
}

async fn name_image(worker: &EmbeddedWorker, name: &Reference, root: &Document) -> Result<(), WorkerError> {
    let (worker, name, descriptor) = (worker.clone(), name.clone(), root.descriptor.clone());
    blocking(move || {
        let named = worker.0.images.put(&name, descriptor);
        named.map_err(|error| failed(&error))
    })
    .await
}
