//! Making the documents of an image.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cairn_solver::Digest;
use cairn_solver::imported::CacheRecord;
use cairn_solver::progress::VertexProgress;
use cairn_solver::worker::WorkerError;
use jiff::Timestamp;

use super::super::super::cache::inline_records;
use super::super::super::{blocking, failed};
use super::super::annotations::{Annotations, Levels};
use super::super::parts::{Part, parts};
use super::super::statements::{told, wanted};
use super::bom::LayerFiles;
use super::{ImageExporter, warn};
use crate::archive::Times;
use crate::image::{self, ConfigOptions, Descriptor, Document, ImageParts, MediaTypes, Subject, docker_purl};
use crate::layer::LayerList;
use crate::registry::Reference;
use crate::service::{ExportInput, ExportRefs};

/// An image whose documents and blobs are in the content store.
pub(super) struct Made {
    /// Its manifest or index.
    pub(super) root: Document,
    /// The config, if it is the image of one platform.
    pub(super) config: Option<Descriptor>,
    /// What its layers were made of, for each platform.
    pub(super) layers: Vec<LayerList>,
    /// The time that everything made has, if one was given.
    pub(super) epoch: Option<Timestamp>,
}

/// The image of one platform.
struct Single {
    manifest: Document,
    config: Descriptor,
    layers: LayerList,
    /// The blob of each layer.
    blobs: Vec<Digest>,
}

impl ImageExporter {
    /// Makes the image.
    pub(super) async fn make(
        &self,
        input: &ExportInput,
        metadata: &BTreeMap<String, Bytes>,
        names: &[Reference],
        progress: &VertexProgress,
    ) -> Result<Made, WorkerError> {
        let parts = parts(input, metadata)?;
        let annotations = self.annotations(metadata)?;
        let is_list = matches!(input.refs, ExportRefs::Platforms(_));
        self.check_platforms(&annotations, &parts, is_list, progress)?;
        // Those for the index alone need not make one, and are in it where there is one anyway.
        let makes_index = |part: &Part| {
            wanted(&part.attestations, self.settings.with_inline_only)
                .next()
                .is_some()
        };
        let is_list = is_list || parts.iter().any(makes_index);
        let is_carried = |part: &Part| {
            wanted(&part.attestations, !self.settings.without_inline_only)
                .next()
                .is_some()
        };
        let is_attested = is_list && parts.iter().any(is_carried);
        let mut media_types = self.settings.media_types;
        if media_types == MediaTypes::Docker && (annotations.need_oci() || is_attested) {
            let what = if is_attested { "attestations" } else { "annotations" };
            warn(
                progress,
                &format!("using OCI media types: Docker's have no place for {what}"),
            );
            media_types = MediaTypes::Oci;
        }
        let epoch = self
            .settings
            .epoch
            .or_else(|| parts.first().and_then(|part| part.epoch));
        let rewriting = epoch.filter(|_| self.settings.rewrites_times).map(|epoch| {
            let (seconds, date) = (epoch.as_second(), epoch.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"));
            progress.begin(format!("rewriting layers with source-date-epoch {seconds} ({date})"))
        });
        if self.settings.rewrites_times && rewriting.is_none() {
            warn(progress, "rewrite-timestamp does nothing without source-date-epoch");
        }
        if input.inline_cache.is_some() {
            drop(progress.begin("preparing layers for inline cache"));
        }
        let status = progress.begin("exporting layers");
        let images = parts.iter().map(|part| {
            let levels = annotations.of(&part.platform);
            self.single(part, media_types, levels, input.inline_cache.clone())
        });
        let images = futures_util::future::try_join_all(images).await?;
        drop((status, rewriting));
        for image in &images {
            drop(progress.begin(format!("exporting manifest {}", image.manifest.digest())));
            drop(progress.begin(format!("exporting config {}", image.config.digest)));
        }
        let layers = images.iter().map(|image| image.layers.clone()).collect();
        if !is_list {
            let levels = &annotations.general;
            if !levels.index.is_empty() || !levels.index_descriptor.is_empty() {
                return Err(WorkerError::Invalid(
                    "index annotations not supported for single platform export".to_owned(),
                ));
            }
            let image = images.into_iter().next();
            let image = image.ok_or_else(|| WorkerError::Invalid("no result to export".to_owned()))?;
            return Ok(Made {
                root: image.manifest,
                config: Some(image.config),
                layers,
                epoch,
            });
        }
        let attested = parts.iter().zip(&images);
        let attested = attested.map(|(part, image)| self.attest(part, image, names));
        let attested = futures_util::future::try_join_all(attested).await?;
        let mut manifests: Vec<Descriptor> = images.into_iter().map(|image| image.manifest.descriptor).collect();
        for entry in attested.into_iter().flatten() {
            drop(progress.begin(format!("exporting attestation manifest {}", entry.digest)));
            manifests.push(entry);
        }
        let content = self.target.worker.0.content.clone();
        let Levels {
            index,
            index_descriptor,
            ..
        } = annotations.general;
        let mut root = blocking(move || {
            image::assemble_index(media_types, &manifests, &index, &content).map_err(|error| failed(&error))
        })
        .await?;
        root.descriptor.annotations = index_descriptor;
        drop(progress.begin(format!("exporting manifest list {}", root.digest())));
        Ok(Made {
            root,
            config: None,
            layers,
            epoch,
        })
    }

    /// The annotations of client and frontend.
    fn annotations(&self, metadata: &BTreeMap<String, Bytes>) -> Result<Annotations, WorkerError> {
        let mut annotations = Annotations::default();
        for (key, value) in metadata {
            let value = String::from_utf8_lossy(value);
            annotations.take(key, &value).map_err(WorkerError::Invalid)?;
        }
        annotations.extend(&self.settings.annotations);
        Ok(annotations)
    }

    fn check_platforms(
        &self,
        annotations: &Annotations,
        parts: &[Part],
        is_list: bool,
        progress: &VertexProgress,
    ) -> Result<(), WorkerError> {
        let present: BTreeSet<String> = parts.iter().map(|part| part.platform.to_string()).collect();
        for platform in annotations.unknown_platforms(&present) {
            if is_list {
                return Err(WorkerError::Invalid(format!(
                    "invalid annotation: no platform {platform} found in source"
                )));
            }
            // Clients ask this for builds of several platforms, of which this is one.
            warn(
                progress,
                &format!("annotations for {platform} are left out: it is not built"),
            );
        }
        Ok(())
    }

    /// Makes the image of one platform.
    async fn single(
        &self,
        part: &Part,
        media_types: MediaTypes,
        levels: Levels,
        records: Option<Arc<Vec<CacheRecord>>>,
    ) -> Result<Single, WorkerError> {
        let (worker, result) = (self.target.worker.clone(), part.result.clone());
        let list = blocking(move || worker.layers_of(result.as_ref())).await?;
        let epoch = self.settings.epoch.or(part.epoch);
        let mut options = self.settings.blobs;
        if let Some(epoch) = epoch.filter(|_| self.settings.rewrites_times) {
            options.form.times = Times::AtMost(epoch.as_second());
        }
        let base = part.base_config.as_deref().map(image::diff_ids);
        // One in another form says nothing of its layers.
        let base = base.and_then(Result::ok).unwrap_or_default();
        let layers = self.target.worker.image_layers(&list, &base, options).await?;
        let blobs = layers.iter().map(|layer| layer.descriptor.digest).collect();
        let (worker, part, below) = (self.target.worker.clone(), part.clone(), list.clone());
        let made = blocking(move || {
            let content = &worker.0.content;
            let cache = records.map(|records| inline_records(&worker, &records, &below));
            let cache = cache.transpose()?;
            let parts = ImageParts {
                config: part.config.as_deref(),
                platform: &part.platform,
                layers: &layers,
                options: ConfigOptions {
                    epoch,
                    base: part.base_config.as_deref(),
                    inline_cache: cache.as_deref(),
                },
                media_types,
                annotations: &levels.manifest,
            };
            let mut made = image::assemble_image(&parts, content).map_err(|error| failed(&error))?;
            made.manifest.descriptor.platform = Some(part.platform);
            made.manifest.descriptor.annotations = levels.manifest_descriptor;
            Ok(made)
        })
        .await?;
        Ok(Single {
            manifest: made.manifest,
            config: made.config,
            layers: list,
            blobs,
        })
    }

    /// Makes the manifest of what is stated of one platform's image; `None` if that is nothing.
    async fn attest(
        &self,
        part: &Part,
        image: &Single,
        names: &[Reference],
    ) -> Result<Option<Descriptor>, WorkerError> {
        let (layers, blobs) = (image.layers.clone(), image.blobs.clone());
        let image = image.manifest.descriptor.clone();
        let attestations = told(wanted(&part.attestations, !self.settings.without_inline_only)).await?;
        if attestations.is_empty() {
            return Ok(None);
        }
        let names = names.iter().map(|name| docker_purl(name, Some(&part.platform)));
        let mut subjects: Vec<Subject> = names.map(|name| Subject::new(name, &image.digest)).collect();
        if subjects.is_empty() {
            subjects.push(Subject::new("_", &image.digest));
        }
        let (worker, form) = (self.target.worker.clone(), self.settings.attestation_form);
        blocking(move || {
            let named = worker.statements(&attestations, &subjects)?;
            if named.is_empty() {
                return Ok(None);
            }
            let files = LayerFiles::open(&worker.0.layers, &layers, &blobs);
            let statements = named.into_iter().map(|mut named| {
                if named.is_core
                    && let Ok(files) = &files
                {
                    files.note_layers(&mut named.statement);
                }
                named.statement
            });
            let statements: Vec<_> = statements.collect();
            let entry = image::assemble_attestations(&image, &statements, form, &worker.0.content);
            entry.map(Some).map_err(|error| failed(&error))
        })
        .await
    }
}
