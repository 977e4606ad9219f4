//! From manifests to what a cache knows.

use std::collections::HashMap;

use bytes::Bytes;
use cairn_solver::Digest;
use serde::Deserialize;

use super::config::{CacheConfig, ConfigError, Contents, LayerEntry};
use super::{CONFIG_TYPE, DIFF_ID};
use crate::image::media_type::layer_compression;
use crate::image::{self, Content, Descriptor, Document};
use crate::layer::Blob;

/// Why a cache cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its config makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The image's config makes no sense.
    #[error("malformed image config: {0}")]
    Image(#[from] serde_json::Error),
    /// The cache records in the image are no base64.
    #[error("malformed cache records in the image config: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The image and its config disagree.
    #[error("the image has {layers} layers, but its config lists {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
}

/// What a manifest says where the cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheManifest {
    /// The config and the layers are blobs beside it.
    Config {
        /// The config.
        config: Descriptor,
        /// The layers, in no particular order.
        layers: Vec<Descriptor>,
    },
    /// An image, whose config may hold records.
    Image {
        /// The image's config.
        config: Descriptor,
        /// Its layers, bottom first.
        layers: Vec<Descriptor>,
    },
    /// A list of images.
    Images(Vec<Descriptor>),
}

impl CacheManifest {
    /// Tells what a document is.
    pub fn of(document: &Document) -> Self {
        match &document.content {
            Content::Manifest { config, layers } if config.media_type == CONFIG_TYPE => Self::Config {
                config: (**config).clone(),
                layers: layers.clone(),
            },
            Content::Manifest { config, layers } => Self::Image {
                config: (**config).clone(),
                layers: layers.clone(),
            },
            Content::Index { manifests } => match manifests.iter().find(|entry| entry.media_type == CONFIG_TYPE) {
                Some(config) => Self::Config {
                    config: config.clone(),
                    layers: manifests.iter().filter(|entry| *entry != config).cloned().collect(),
                },
                None => Self::Images(manifests.clone()),
            },
        }
    }
}

/// A layer of a cache.
pub type CacheLayer = Blob;

/// What a cache knows, ready to be asked.
#[derive(Debug, Default)]
pub struct LoadedCache {
    parts: Vec<Part>,
    records: HashMap<Digest, LoadedRecord>,
}

/// The layers of one config.
#[derive(Debug)]
struct Part {
    /// Without its records.
    config: CacheConfig,
    /// One per layer of the config; `None` where too little is known.
    layers: Vec<Option<CacheLayer>>,
}

/// What a cache knows about one digest.
#[derive(Debug)]
struct LoadedRecord {
    part: usize,
    outputs: Option<Vec<i64>>,
    contents: Vec<Contents>,
}

impl LoadedCache {
    /// The results under a digest, one list of layers per output, bottom first, empty for scratch. `None` if there are
    /// none, or if too little is known about a layer.
    pub fn outputs(&self, digest: &Digest) -> Option<Vec<Vec<CacheLayer>>> {
        let record = self.records.get(digest)?;
        let part = self.parts.get(record.part)?;
        record.outputs.as_ref()?.iter().map(|&tip| part.chain(tip)).collect()
    }

    /// What was selected in the results under a digest.
    pub fn contents(&self, digest: &Digest) -> &[Contents] {
        self.records.get(digest).map_or(&[], |record| &record.contents)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds what another knows; what is known already stays.
    pub fn merge(&mut self, other: Self) {
        let before = self.parts.len();
        self.parts.extend(other.parts);
        for (digest, record) in other.records {
            self.records.entry(digest).or_insert(LoadedRecord {
                part: before + record.part,
                ..record
            });
        }
    }

    fn of(mut config: CacheConfig, layer: impl Fn(usize, &LayerEntry) -> Option<CacheLayer>) -> Self {
        let records = std::mem::take(&mut config.records).into_iter().filter_map(|record| {
            // Whatever has no part of ours is somebody else's, and nothing we would look for.
            let (own, digest) = (record.cairn?, Digest::parse(&record.digest).ok()?);
            let record = LoadedRecord {
                part: 0,
                outputs: own.outputs,
                contents: own.contents,
            };
            Some((digest, record))
        });
        let records = records.collect();
        let layers = config.layers.iter().enumerate();
        let layers = layers.map(|(index, entry)| layer(index, entry)).collect();
        Self {
            parts: vec![Part { config, layers }],
            records,
        }
    }
}

impl Part {
    fn chain(&self, tip: i64) -> Option<Vec<CacheLayer>> {
        let Ok(tip) = usize::try_from(tip) else {
            return Some(Vec::new());
        };
        // A circle is no result.
        let chain = self.config.chain(tip).ok()?;
        chain.into_iter().map(|index| self.layers.get(index)?.clone()).collect()
    }
}

/// Reads the config of a cache whose layers are `layers`.
///
/// # Errors
/// [`ReadError`].
pub fn read_config(json: &[u8], layers: &[Descriptor]) -> Result<LoadedCache, ReadError> {
    let config = CacheConfig::parse(json)?;
    let blobs: HashMap<String, CacheLayer> = layers
        .iter()
        .filter_map(|layer| {
            let diff_id = Digest::parse(layer.annotations.get(DIFF_ID)?).ok()?;
            Some((layer.digest.to_string(), cache_layer(layer, diff_id)?))
        })
        .collect();
    Ok(LoadedCache::of(config, |_, entry| blobs.get(&entry.blob).cloned()))
}

/// Reads the records that an image carries; `None` if it carries none.
///
/// # Errors
/// [`ReadError`].
pub fn read_inline(image_config: &Bytes, layers: &[Descriptor]) -> Result<Option<LoadedCache>, ReadError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "moby.buildkit.cache.v0", default)]
        records: Option<String>,
    }
    let config: Config = serde_json::from_slice(image_config)?;
    let Some(records) = config.records.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let json = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, records)?;
    let layers = image_layers(image_config, layers)?;
    let config = CacheConfig::parse_inline(&json, layers.len())?;
    Ok(Some(LoadedCache::of(config, |index, _| {
        layers.get(index).cloned().flatten()
    })))
}

/// An image's layers with what its config says of them.
fn image_layers(image_config: &Bytes, layers: &[Descriptor]) -> Result<Vec<Option<CacheLayer>>, ReadError> {
    let diff_ids = image::diff_ids(image_config)?;
    if diff_ids.len() != layers.len() {
        return Err(ReadError::Layers {
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let layers = layers.iter().zip(diff_ids);
    Ok(layers.map(|(layer, diff_id)| cache_layer(layer, diff_id)).collect())
}

/// A layer as a descriptor tells it; `None` for what is no layer that could be unpacked.
fn cache_layer(layer: &Descriptor, diff_id: Digest) -> Option<CacheLayer> {
    layer_compression(&layer.media_type)?;
    Some(CacheLayer {
        digest: layer.digest,
        diff_id,
        media_type: layer.media_type.clone(),
        size: layer.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};

    fn layer(name: &str, diff_id: Option<&str>) -> Descriptor {
        let mut layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", name.as_bytes());
        if let Some(diff_id) = diff_id {
            layer.annotations.insert(DIFF_ID.to_owned(), diff_id.to_owned());
        }
        layer
    }

    fn document(json: &serde_json::Value) -> Document {
        Document::parse(serde_json::to_vec(json).unwrap().into(), None).unwrap()
    }

    #[test]
    fn every_form_of_manifest_is_told_apart() {
        let config = Descriptor::of(CONFIG_TYPE, b"{}");
        let layers = vec![layer("a", None)];
        let image = document(&serde_json::json!({"mediaType": OCI_MANIFEST, "config": config, "layers": layers}));
        let index = serde_json::json!({"mediaType": OCI_INDEX, "manifests": [layers[0], config]});
        let wanted = CacheManifest::Config {
            config,
            layers: layers.clone(),
        };
        assert_eq!(CacheManifest::of(&image), wanted);
        assert_eq!(CacheManifest::of(&document(&index)), wanted);
        let plain = Descriptor::of(OCI_CONFIG, b"{}");
        let plain = document(&serde_json::json!({"mediaType": OCI_MANIFEST, "config": plain, "layers": layers}));
        assert!(matches!(CacheManifest::of(&plain), CacheManifest::Image { .. }));
        let images = document(&serde_json::json!({"mediaType": OCI_INDEX, "manifests": [plain.descriptor]}));
        assert_eq!(
            CacheManifest::of(&images),
            CacheManifest::Images(vec![plain.descriptor])
        );
    }

    #[test]
    fn results_with_layers_that_are_not_described_are_none() {
        let diff_id = Digest::sha256(b"tar");
        let layers = [
            layer("a", Some(&diff_id.to_string())),
            layer("b", None),
            layer("c", Some("nonsense")),
        ];
        let name = |n: u8| Digest::sha256(&[n]).to_string();
        let json = serde_json::json!({
            "layers": [
                {"blob": layers[0].digest, "parent": -1},
                {"blob": layers[1].digest, "parent": 0},
                {"blob": layers[2].digest, "parent": 0},
                {"blob": "sha256:unheard-of", "parent": 0},
            ],
            "records": [
                {"digest": name(0), "cairn": {"outputs": [0, -1]}},
                {"digest": name(1), "cairn": {"outputs": [1]}},
                {"digest": name(2), "cairn": {"outputs": [2]}},
                {"digest": name(3), "cairn": {"outputs": [3]}},
                {"digest": name(4), "cairn": {}},
                {"digest": name(5), "layers": [{"layer": 0}]},
                {"digest": "random:x", "cairn": {"outputs": [0]}},
            ],
        });
        let cache = read_config(&serde_json::to_vec(&json).unwrap(), &layers).unwrap();
        let outputs = |n: u8| cache.outputs(&Digest::sha256(&[n]));
        let known = cache_layer(&layers[0], diff_id).unwrap();
        assert_eq!(outputs(0), Some(vec![vec![known], vec![]]));
        for n in 1..=5 {
            assert_eq!(outputs(n), None, "{n}");
        }
        assert_eq!(cache.len(), 5);
    }

    #[test]
    fn images_may_carry_records() {
        let records = serde_json::json!([{"digest": Digest::sha256(b"r"), "cairn": {"outputs": [0]}}]);
        let records = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            serde_json::to_vec(&records).unwrap(),
        );
        let diff_id = Digest::sha256(b"tar");
        let config = |records: &str| {
            let config = serde_json::json!({"rootfs": {"diff_ids": [diff_id]}, "moby.buildkit.cache.v0": records});
            Bytes::from(serde_json::to_vec(&config).unwrap())
        };
        let layers = [layer("a", None)];
        let cache = read_inline(&config(&records), &layers).unwrap().unwrap();
        assert!(cache.outputs(&Digest::sha256(b"r")).is_some());
        assert!(read_inline(&config(""), &layers).unwrap().is_none());
        assert!(read_inline(&config("?"), &layers).is_err());
        assert!(read_inline(&config(&records), &[]).is_err());
        assert!(read_inline(&Bytes::from_static(b"7"), &layers).is_err());
    }
}
