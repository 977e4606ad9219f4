//! Names of layers, and what is remembered about them.

use std::fmt;

use cairn_solver::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::registry::Reference;

/// Names a layer in its store: lower-case letters and digits, so always fit to be a file name.
///
/// Layers known by a blob are named after the digest of their uncompressed tar, so that equal layers of different
/// images are one; layers made here have random names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

impl LayerId {
    /// A name nobody has.
    pub(super) fn random() -> Self {
        Self(format!("n{}", random_hex()))
    }

    /// The name of the layer whose uncompressed tar has this digest.
    pub fn of_diff(diff_id: &Digest) -> Self {
        Self(format!("d{}", diff_id.hex()))
    }

    /// Parses a name; `None` if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            (2..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        fits.then(|| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LayerId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no layer name"))
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 128 random bits as text.
pub(crate) fn random_hex() -> String {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        // Only fails before the system's random pool is ready, and then waits instead.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    hex::encode(bytes)
}

/// A layer's content as a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Digest of the blob as stored and transferred.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// OCI or Docker media type.
    pub media_type: String,
    /// Bytes as stored.
    pub size: u64,
}

/// Where a blob is to be had that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobOrigin {
    /// In a repository of a registry.
    Registry {
        /// A reference into the repository.
        reference: String,
        /// Whether unverified https and plain http will do.
        insecure: bool,
    },
    /// In a content store that clients offer under this name.
    Client {
        /// The name.
        store: String,
    },
}

impl BlobOrigin {
    /// The repository, if it is one of `registry`.
    pub fn repository_of(&self, registry: &str) -> Option<String> {
        let Self::Registry { reference, .. } = self else {
            return None;
        };
        let reference = Reference::parse(reference).ok()?;
        (reference.registry() == registry).then(|| reference.repository().to_owned())
    }
}

/// What a layer or result is to a person who looks at disk usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Describe {
    /// Such as `mount / from exec /bin/sh -c make`.
    pub description: String,
    /// One of the API's record types, such as `regular` or `source.local`.
    pub record_type: String,
}

/// What is remembered about a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// For people.
    #[serde(flatten)]
    pub describe: Describe,
    /// The content as a blob, if it is known.
    pub blob: Option<Blob>,
    /// Where the blob is, if it was never brought here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<BlobOrigin>,
    /// Whether its directory holds others of which only the time is another than below, which no blob has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_times: bool,
    /// Whether there is a directory.
    pub unpacked: bool,
    /// Boot of the host in which the directory was made, until it is durable.
    pub unsynced: Option<String>,
    /// Bytes on disk of the directory, once measured.
    pub size: Option<u64>,
    /// When it was first recorded.
    pub created: Timestamp,
    /// When it was last in a result that was used.
    pub last_used: Timestamp,
    /// How often.
    pub usage_count: u64,
}

impl LayerRecord {
    /// Whether nothing of the layer was ever unpacked, and somebody else has its blob.
    pub const fn is_remote(&self) -> bool {
        !self.unpacked && self.origin.is_some()
    }
}

/// What is remembered about a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Bottom first.
    pub layers: Vec<LayerId>,
    /// When it was first recorded.
    pub created: Timestamp,
    /// Whether it goes when nobody holds it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
}

/// What is remembered about a cache directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheDirRecord {
    /// Hash of the name it is asked for by.
    pub key: String,
    /// Hash of the name alone, if there was content from the beginning, which is in `key` as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeded_name: Option<String>,
    /// For people.
    pub description: String,
    /// Bytes on disk when it was last given back.
    pub size: Option<u64>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last asked for.
    pub last_used: Timestamp,
    /// How often.
    pub usage_count: u64,
}
