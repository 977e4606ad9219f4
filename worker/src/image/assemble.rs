//! Making manifests and indexes.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::Platform;
use serde::Serialize;

use super::config::{ConfigError, ConfigOptions, ImageLayer, complete_config};
use super::descriptor::Descriptor;
use super::document::{Document, DocumentError};
use super::media_type::MediaTypes;
use crate::content::{ContentError, ContentStore};

/// What an image is assembled of.
#[derive(Debug, Clone, Copy)]
pub struct ImageParts<'a> {
    /// The frontend's config, if it supplied one.
    pub config: Option<&'a [u8]>,
    /// What the image is for.
    pub platform: &'a Platform,
    /// Bottom first.
    pub layers: &'a [ImageLayer],
    /// What else goes into the config.
    pub options: ConfigOptions<'a>,
    /// Whose media types to use.
    pub media_types: MediaTypes,
    /// Annotations of the manifest.
    pub annotations: &'a BTreeMap<String, String>,
}

/// An image whose config and manifest are in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledImage {
    /// The manifest.
    pub manifest: Document,
    /// The config blob.
    pub config: Descriptor,
}

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The config is malformed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The chosen media types have no name for a layer.
    #[error("layer {digest} of type {media_type:?} needs OCI media types")]
    LayerType {
        /// The layer.
        digest: cairn_solver::Digest,
        /// Its type.
        media_type: String,
    },
    /// The manifest cannot be written down.
    #[error("failed to write manifest")]
    Json(#[from] serde_json::Error),
    /// The made manifest is not valid.
    #[error("failed to make manifest")]
    Document(#[from] DocumentError),
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// A manifest in the order of its fields; also for artifacts such as attestations.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    /// What an artifact is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<&'a str>,
    /// The config, or for an artifact the empty descriptor.
    pub config: Descriptor,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
    /// What an artifact is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form notes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl<'a> Manifest<'a> {
    /// A manifest without the optional parts.
    pub const fn new(media_types: MediaTypes, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_types.manifest(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Writes it down, indented by two spaces, and stores it.
    ///
    /// # Errors
    /// [`AssembleError`].
    pub fn store(&self, store: &ContentStore) -> Result<Document, AssembleError> {
        store_document(self, self.media_type, store)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// Completes the config, writes the manifest, and stores both. The layers' blobs need not be stored.
///
/// # Errors
/// [`AssembleError`].
pub fn assemble_image(parts: &ImageParts<'_>, store: &ContentStore) -> Result<AssembledImage, AssembleError> {
    let config = complete_config(parts.config, parts.platform, parts.layers, &parts.options)?;
    let blob = store.put(&config)?;
    let config = Descriptor::new(parts.media_types.config(), blob.digest, blob.size);
    let layers = parts
        .layers
        .iter()
        .map(|layer| convert(&layer.descriptor, parts.media_types));
    let manifest = Manifest {
        annotations: parts.annotations.clone(),
        ..Manifest::new(parts.media_types, config.clone(), layers.collect::<Result<_, _>>()?)
    };
    Ok(AssembledImage {
        manifest: manifest.store(store)?,
        config,
    })
}

/// Writes and stores an index of `manifests`, whose order is kept.
///
/// # Errors
/// [`AssembleError`].
pub fn assemble_index(
    media_types: MediaTypes,
    manifests: &[Descriptor],
    annotations: &BTreeMap<String, String>,
    store: &ContentStore,
) -> Result<Document, AssembleError> {
    let index = Index {
        schema_version: 2,
        media_type: media_types.index(),
        manifests,
        annotations,
    };
    store_document(&index, media_types.index(), store)
}

fn convert(layer: &Descriptor, media_types: MediaTypes) -> Result<Descriptor, AssembleError> {
    let media_type = media_types
        .convert_layer(&layer.media_type)
        .ok_or_else(|| AssembleError::LayerType {
            digest: layer.digest,
            media_type: layer.media_type.clone(),
        })?;
    Ok(Descriptor {
        media_type,
        ..layer.clone()
    })
}

fn store_document(json: &impl Serialize, media_type: &str, store: &ContentStore) -> Result<Document, AssembleError> {
    let document = Document::parse(Bytes::from(serde_json::to_vec_pretty(json)?), Some(media_type))?;
    store.put(&document.bytes)?;
    Ok(document)
}
