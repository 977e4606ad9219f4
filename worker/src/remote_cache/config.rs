//! The config of a cache: layers in chains, and records.

use std::collections::HashMap;

use cairn_solver::Digest;
use serde::{Deserialize, Serialize};

/// Largest config that is read.
pub const MAX_CONFIG: u64 = 16 << 20;
/// Most layers or records of one config.
const MAX_ENTRIES: usize = 200_000;
/// Most layers of one result, as many as an image may have.
const MAX_CHAIN: usize = 500;

/// A cache as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Layers, each over its parent.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<LayerEntry>,
    /// What is known.
    #[serde(default, deserialize_with = "null_is_default")]
    pub records: Vec<Record>,
}

/// A layer over another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// Digest of the blob.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blob: String,
    /// Index of the layer below; -1 if there is none.
    #[serde(default = "no_parent")]
    pub parent: i64,
}

/// What is known under a digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is found by.
    pub digest: String,
    /// Results: each the layer on top of a chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub layers: Vec<Tip>,
    /// For each input, what it may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub inputs: Vec<Vec<Input>>,
    /// What only we read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cairn: Option<OwnPart>,
}

/// A result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tip {
    /// Index of the layer on top.
    pub layer: usize,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// A record that an input may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What of it counts; empty for everything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Index of the record.
    pub link: usize,
}

/// What the format has no place for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnPart {
    /// One per output: index of the layer on top, -1 for scratch. Missing if there are no results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<i64>>,
    /// What was selected in the results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<Contents>,
}

/// The digest of what a selector names in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Which output.
    pub output: usize,
    /// Digest of the selector.
    pub selector: Digest,
    /// The content.
    pub digest: Digest,
}

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON of the right shape.
    #[error("malformed cache config: {0}")]
    Json(#[from] serde_json::Error),
    /// It has more entries than any build.
    #[error("cache config has {0} entries")]
    TooMany(usize),
    /// It refers to something that is not in it.
    #[error("cache config refers to {what} {index}, which it does not have")]
    Dangling {
        /// `layer` or `record`.
        what: &'static str,
        /// Which.
        index: i64,
    },
    /// Layers are over one another in a circle, or too many.
    #[error("layer {0} of the cache config is over itself, or over more than 500 others")]
    Chain(usize),
}

fn no_parent() -> i64 {
    -1
}

/// Go writes lists without entries as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

impl CacheConfig {
    /// Reads a config and checks that whatever it refers to is there.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(json)?;
        config.check()?;
        Ok(config)
    }

    /// Reads the records that an image carries, whose layers are `count` layers in one chain.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse_inline(json: &[u8], count: usize) -> Result<Self, ConfigError> {
        let layers = (0..count).map(|n| LayerEntry {
            blob: String::new(),
            parent: i64::try_from(n).unwrap_or(i64::MAX) - 1,
        });
        let config = Self {
            layers: layers.collect(),
            records: Option::<Vec<Record>>::deserialize(&mut serde_json::Deserializer::from_slice(json))?
                .unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let count = self.layers.len().max(self.records.len());
        if count > MAX_ENTRIES {
            return Err(ConfigError::TooMany(count));
        }
        let layer = |index: i64| match usize::try_from(index) {
            Ok(known) if known < self.layers.len() => Ok(()),
            _ if index == -1 => Ok(()),
            _ => Err(ConfigError::Dangling { what: "layer", index }),
        };
        self.layers.iter().try_for_each(|entry| layer(entry.parent))?;
        for record in &self.records {
            for tip in &record.layers {
                layer(i64::try_from(tip.layer).unwrap_or(i64::MAX))?;
            }
            let own = record.cairn.as_ref().and_then(|own| own.outputs.as_ref());
            own.into_iter().flatten().try_for_each(|&tip| layer(tip))?;
            for input in record.inputs.iter().flatten() {
                if input.link >= self.records.len() {
                    return Err(ConfigError::Dangling {
                        what: "record",
                        index: i64::try_from(input.link).unwrap_or(i64::MAX),
                    });
                }
            }
        }
        Ok(())
    }

    /// The layers of the chain that ends with `tip`, as indexes, bottom first.
    ///
    /// # Errors
    /// [`ConfigError::Chain`].
    pub fn chain(&self, tip: usize) -> Result<Vec<usize>, ConfigError> {
        let mut chain = Vec::new();
        let mut next = Some(tip);
        while let Some(index) = next {
            if chain.len() == MAX_CHAIN {
                return Err(ConfigError::Chain(tip));
            }
            chain.push(index);
            next = self
                .layers
                .get(index)
                .and_then(|entry| usize::try_from(entry.parent).ok());
        }
        chain.reverse();
        Ok(chain)
    }
}

/// Layers as chains, each written down once.
#[derive(Debug, Default)]
pub struct LayerChains {
    entries: Vec<LayerEntry>,
    known: HashMap<(Digest, i64), i64>,
}

impl LayerChains {
    /// Index of the last of `blobs`, bottom first, over one another; -1 if there are none.
    pub fn add(&mut self, blobs: impl IntoIterator<Item = Digest>) -> i64 {
        blobs.into_iter().fold(-1, |parent, blob| {
            *self.known.entry((blob, parent)).or_insert_with(|| {
                self.entries.push(LayerEntry {
                    blob: blob.to_string(),
                    parent,
                });
                i64::try_from(self.entries.len()).unwrap_or(i64::MAX) - 1
            })
        })
    }

    /// All layers.
    pub fn into_entries(self) -> Vec<LayerEntry> {
        self.entries
    }
}

#[cfg(test)]
mod tests;
