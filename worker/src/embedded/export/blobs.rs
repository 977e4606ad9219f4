//! Layers as blobs, each made once.

use cairn_solver::flight::Flight;
use cairn_solver::worker::WorkerError;

use super::super::EmbeddedWorker;
use crate::archive::{self, PackOptions};
use crate::causes::with_causes;
use crate::compression::{self, Compression, Compressor, Limits};
use crate::image::{Descriptor, ImageLayer};
use crate::layer::{Blob, LayerId, LayerList, LayerRecord};

/// Layers being packed, by layer and compression.
pub(in super::super) type LayerBlobs = Flight<(LayerId, Compression, Option<i32>), (), Result<Blob, WorkerError>>;

/// How layers are to be compressed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlobOptions {
    pub(super) compression: Compression,
    pub(super) level: Option<i32>,
    /// Whether layers that are blobs already are compressed anew.
    pub(super) force: bool,
}

impl EmbeddedWorker {
    /// The layers of a result as an image has them; those without a blob get one, all at the same time.
    pub(super) async fn image_layers(
        &self,
        list: &LayerList,
        options: BlobOptions,
    ) -> Result<Vec<ImageLayer>, WorkerError> {
        let records = self
            .0
            .layers
            .records(list)
            .map_err(|error| super::super::failed(&error))?;
        let layers = list.ids().iter().zip(records).map(async |(id, record)| {
            let blob = self.blob(id, &record, options).await?;
            Ok(ImageLayer {
                descriptor: Descriptor::new(blob.media_type, blob.digest, blob.size),
                diff_id: blob.diff_id,
                created: Some(record.created),
                description: record.describe.description,
            })
        });
        futures_util::future::try_join_all(layers).await
    }

    async fn blob(&self, id: &LayerId, record: &LayerRecord, options: BlobOptions) -> Result<Blob, WorkerError> {
        if let Some(blob) = self.usable(record, options)? {
            return Ok(blob);
        }
        let key = (id.clone(), options.compression, options.level);
        let (ticket, _) = self.0.packing.join(
            key,
            || (),
            |(), _| {
                let (worker, id, record) = (self.clone(), id.clone(), record.clone());
                super::super::blocking(move || worker.pack(&id, &record, options))
            },
        );
        match ticket.wait().await {
            Ok(outcome) => outcome,
            Err(lost) => Err(WorkerError::Failed(format!("internal error: {lost}"))),
        }
    }

    /// The blob that there is, if it will do: it must be at hand, or be had from where it came.
    fn usable(&self, record: &LayerRecord, options: BlobOptions) -> Result<Option<Blob>, WorkerError> {
        let Some(blob) = &record.blob else {
            return Ok(None);
        };
        let is_other = crate::image::media_type::layer_compression(&blob.media_type) != Some(options.compression);
        if options.force && is_other {
            return Ok(None);
        }
        let stored = self.0.content.contains(&blob.digest);
        let stored = stored.map_err(|error| super::super::failed(&error))?;
        Ok(stored.then(|| blob.clone()))
    }

    fn pack(&self, id: &LayerId, record: &LayerRecord, options: BlobOptions) -> Result<Blob, WorkerError> {
        let fail = |error: &(dyn std::error::Error + 'static)| {
            WorkerError::Failed(format!("failed to pack layer {id}: {}", with_causes(error)))
        };
        let content = &self.0.content;
        let compressed = match &record.blob {
            // The same bytes, compressed differently: the layer keeps its identity.
            Some(blob) if content.contains(&blob.digest).map_err(|error| fail(&error))? => {
                let blob = content.reader(&blob.digest).map_err(|error| fail(&error))?;
                let tar = compression::decompress(blob, Limits::default()).map_err(|error| fail(&error))?;
                compression::compress(options.compression, options.level, tar, content)
            }
            _ => {
                let root = self.0.layers.layer_root(id).map_err(|error| fail(&error))?;
                let compressor = Compressor::new(options.compression, options.level, content);
                let compressor = compressor.map_err(|error| fail(&error))?;
                let packed = archive::pack(&root, &PackOptions::default(), compressor);
                packed.map_err(|error| fail(&error))?.finish()
            }
        };
        let compressed = compressed.map_err(|error| fail(&error))?;
        let blob = Blob {
            digest: compressed.digest,
            diff_id: compressed.diff_id,
            media_type: compressed.media_type().to_owned(),
            size: compressed.size,
        };
        // One made on special request does not replace the usual one.
        if record.blob.is_none() {
            self.0.layers.set_blob(id, blob.clone()).map_err(|error| fail(&error))?;
        }
        Ok(blob)
    }
}
