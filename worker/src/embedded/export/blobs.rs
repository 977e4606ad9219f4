//! Layers as blobs, each made once.

use cairn_solver::Digest;
use cairn_solver::flight::Flight;
use cairn_solver::worker::WorkerError;

use super::super::{EmbeddedWorker, blocking, failed};
use crate::archive::{self, ArchiveError, PackOptions, TarWriter, Times, copy_entries};
use crate::causes::with_causes;
use crate::compression::{self, CompressedLayer, Compression, Compressor, EstargzLayer, Limits};
use crate::image::{Descriptor, ImageLayer, media_type};
use crate::layer::{Blob, LayerId, LayerList, LayerRecord};

/// Layers being packed, by layer and form.
pub(in super::super) type LayerBlobs = Flight<(LayerId, LayerForm), (), Result<PackedLayer, WorkerError>>;

/// In which form layers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(in super::super) struct LayerForm {
    pub(super) format: LayerFormat,
    /// How hard to compress; `None` as usual.
    pub(super) level: Option<i32>,
    pub(super) times: Times,
}

/// What a layer's blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LayerFormat {
    /// A tar.
    Tar(Compression),
    /// A tar with a table of contents.
    Estargz,
}

impl Default for LayerFormat {
    fn default() -> Self {
        Self::Tar(Compression::default())
    }
}

impl LayerFormat {
    /// How its bytes are compressed.
    pub(super) const fn compression(self) -> Compression {
        match self {
            Self::Tar(compression) => compression,
            Self::Estargz => Compression::Gzip,
        }
    }
}

/// A layer's blob.
#[derive(Clone, Debug)]
pub(in super::super) struct PackedLayer {
    blob: Blob,
    /// For a blob with a table of contents: its digest, and the length of the tar.
    toc: Option<(Digest, u64)>,
}

/// What layers are to be like.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct BlobOptions {
    pub(super) form: LayerForm,
    /// Whether layers that are blobs already are compressed anew.
    pub(super) force: bool,
    /// Whether layers that may not be distributed stay such layers.
    pub(super) keep_foreign: bool,
}

impl BlobOptions {
    /// Layers compressed as clients call it; `None` if there is no such way.
    pub(in super::super) fn named(compression: &str, level: Option<i32>, force: bool) -> Option<Self> {
        let format = match compression {
            "gzip" => LayerFormat::Tar(Compression::Gzip),
            "zstd" => LayerFormat::Tar(Compression::Zstd),
            "estargz" => LayerFormat::Estargz,
            "uncompressed" => LayerFormat::Tar(Compression::None),
            _ => return None,
        };
        Some(Self {
            form: LayerForm {
                format,
                level,
                times: Times::Keep,
            },
            force,
            keep_foreign: false,
        })
    }

    /// Whether a layer's blob is as wanted.
    pub(super) fn fits(&self, blob: &Blob) -> bool {
        let LayerFormat::Tar(wanted) = self.form.format else {
            return false;
        };
        let is_other = media_type::layer_compression(&blob.media_type) != Some(wanted);
        self.form.times == Times::Keep && !(self.force && is_other)
    }
}

impl EmbeddedWorker {
    /// A layer by itself, with the digest of its tar. Its blob is in the content store then.
    pub(in super::super) async fn layer_blob(
        &self,
        id: &LayerId,
        record: &LayerRecord,
        options: BlobOptions,
    ) -> Result<(Descriptor, Digest), WorkerError> {
        let packed = self.blob(id, record, options).await?;
        Ok((describe(&packed, options)?, packed.blob.diff_id))
    }

    /// The layers of a result as an image has them; those without a blob get one, all at the same time. `base` has the
    /// base image's layers, whose contents stay as they are.
    pub(super) async fn image_layers(
        &self,
        list: &LayerList,
        base: &[Digest],
        options: BlobOptions,
    ) -> Result<Vec<ImageLayer>, WorkerError> {
        let records = self.0.layers.records(list).map_err(|error| failed(&error))?;
        let inherited = records
            .iter()
            .zip(base)
            .take_while(|(record, base)| record.blob.as_ref().is_some_and(|blob| blob.diff_id == **base))
            .count();
        let layers = list.ids().iter().zip(records).enumerate();
        let layers = layers.map(async |(place, (id, record))| {
            let mut options = options;
            if place < inherited {
                options.form.times = Times::Keep;
            }
            let packed = self.blob(id, &record, options).await?;
            Ok(ImageLayer {
                descriptor: describe(&packed, options)?,
                diff_id: packed.blob.diff_id,
                created: Some(record.created),
                description: record.describe.description,
            })
        });
        futures_util::future::try_join_all(layers).await
    }

    async fn blob(&self, id: &LayerId, record: &LayerRecord, options: BlobOptions) -> Result<PackedLayer, WorkerError> {
        if let Some(blob) = self.usable(record, options)? {
            return Ok(PackedLayer { blob, toc: None });
        }
        let form = options.form;
        let (ticket, _) = self.0.packing.join(
            (id.clone(), form),
            || (),
            |(), _| {
                let (worker, id, record) = (self.clone(), id.clone(), record.clone());
                blocking(move || {
                    worker.pack(&id, &record, form).map_err(|error| {
                        WorkerError::Failed(format!("failed to pack layer {id}: {}", with_causes(&*error)))
                    })
                })
            },
        );
        match ticket.wait().await {
            Ok(outcome) => outcome,
            Err(lost) => Err(WorkerError::Failed(format!("internal error: {lost}"))),
        }
    }

    /// The blob that there is, if it will do: it must be at hand, or be elsewhere like the layer itself, which then is
    /// exported as it is.
    fn usable(&self, record: &LayerRecord, options: BlobOptions) -> Result<Option<Blob>, WorkerError> {
        let Some(blob) = record.blob.as_ref().filter(|blob| options.fits(blob)) else {
            return Ok(None);
        };
        let is_there = record.is_remote() || self.0.content.contains(&blob.digest).map_err(|error| failed(&error))?;
        Ok(is_there.then(|| blob.clone()))
    }

    /// Sees to it that the layers of results have directories.
    pub(super) async fn expect_unpacked(&self, lists: &[LayerList]) -> Result<(), WorkerError> {
        for list in lists {
            let records = self.0.layers.records(list).map_err(|error| failed(&error))?;
            // Whatever makes layers makes directories: there is nothing to unpack, only something to promise.
            if let Some(place) = records.iter().position(|record| !record.unpacked) {
                let id = &list.ids()[place];
                return Err(WorkerError::Failed(format!("layer {id} of the image is not unpacked")));
            }
        }
        Ok(())
    }

    /// Makes a layer's blob. Blocks.
    fn pack(&self, id: &LayerId, record: &LayerRecord, form: LayerForm) -> Result<PackedLayer, PackError> {
        let content = &self.0.content;
        let stored = match &record.blob {
            Some(blob) if content.contains(&blob.digest)? => Some(blob.digest),
            _ => None,
        };
        let layer = match (stored, form.format) {
            (None, LayerFormat::Tar(compression)) => {
                let root = self.0.layers.layer_root(id)?;
                let options = PackOptions { times: form.times };
                let compressor = Compressor::new(compression, form.level, content)?;
                archive::pack(&root, &options, compressor)?.finish()?
            }
            // The same bytes, compressed differently: the layer keeps its identity.
            (Some(blob), LayerFormat::Tar(compression)) if form.times == Times::Keep => {
                let tar = compression::decompress(content.reader(&blob)?, Limits::default())?;
                compression::compress(compression, form.level, tar, content)?
            }
            (Some(blob), LayerFormat::Tar(compression)) => {
                let old = compression::decompress(content.reader(&blob)?, Limits::default())?;
                let mut new = TarWriter::new(Compressor::new(compression, form.level, content)?);
                copy_entries::<ArchiveError>(old, form.times, |entry, data| new.append(entry, data))?;
                new.finish()?.finish()?
            }
            (stored, LayerFormat::Estargz) => {
                let blob = match stored {
                    Some(blob) => blob,
                    None => self.pack(id, record, LayerForm::default())?.blob.digest,
                };
                let tar = compression::decompress(content.reader(&blob)?, Limits::default())?;
                let EstargzLayer { layer, toc } = compression::estargz(tar, form.level, form.times, content)?;
                return Ok(PackedLayer {
                    blob: blob_of(&layer),
                    toc: Some((toc, layer.uncompressed_size)),
                });
            }
        };
        let blob = blob_of(&layer);
        // One made on special request does not replace the usual one.
        if record.blob.is_none() && form.times == Times::Keep {
            self.0.layers.set_blob(id, blob.clone())?;
        }
        Ok(PackedLayer { blob, toc: None })
    }
}

/// Why a layer cannot be packed: something of the stores, of archives or of compression.
type PackError = Box<dyn std::error::Error + Send + Sync>;

fn blob_of(layer: &CompressedLayer) -> Blob {
    Blob {
        digest: layer.digest,
        diff_id: layer.diff_id,
        media_type: layer.media_type().to_owned(),
        size: layer.size,
    }
}

/// The annotation of layers whose times were rewritten, by which BuildKit knows them.
const REWRITTEN_TIMESTAMP: &str = "buildkit/rewritten-timestamp";

fn describe(packed: &PackedLayer, options: BlobOptions) -> Result<Descriptor, WorkerError> {
    let blob = &packed.blob;
    let mut descriptor = Descriptor::new(blob.media_type.clone(), blob.digest, blob.size);
    if let Some(ordinary) = media_type::distributable(&blob.media_type) {
        if options.keep_foreign {
            return Err(WorkerError::Unsupported(format!(
                "layer {} may not be distributed, and where it is to be had is not kept by this worker: export it \
                 without prefer-nondist-layers",
                blob.digest
            )));
        }
        descriptor.media_type = ordinary;
    }
    if let Some((digest, size)) = &packed.toc {
        descriptor.annotations = [
            (compression::TOC_DIGEST.to_owned(), digest.to_string()),
            (compression::UNCOMPRESSED_SIZE.to_owned(), size.to_string()),
        ]
        .into();
    }
    if let Times::AtMost(seconds) = options.form.times {
        let rewritten = (REWRITTEN_TIMESTAMP.to_owned(), seconds.to_string());
        descriptor.annotations.extend([rewritten]);
    }
    Ok(descriptor)
}
