//! Cache keys: what the result of a vertex depends on, and nothing else.
//!
//! A key is the blake3 hash of its [`Preimage`], which is kept beside every result, so that two keys can be compared
//! by what went into them. Every field is named, prefixed with its length, and in a fixed order. What enters the key of
//! each kind of op, and why, is listed in `docs/cache-keys.md`, which a test holds against the code; in short:
//!
//! | op | own fields | inputs |
//! |---|---|---|
//! | source | what it resolved to | – |
//! | exec | all that the process can notice | mounts that become no result by content, others by identity |
//! | file | platform, every action with all its options | copied-from by content, changed by identity |
//! | merge, diff, passthrough | order of inputs | by identity |
//! | build | none | what the nested definition asks for, by identity |
//!
//! Not in any key: names, progress groups, source locations, proxies, addresses of extra hosts, secret values, control
//! group settings, ids of cache mounts and what they hold, times of copied files.

mod dependencies;
mod op_fields;
mod preimage;
mod texts;

use std::fmt;
use std::str::FromStr;

pub use self::dependencies::{Dependency, dependencies};
pub use self::preimage::{Fields, InputPart, Preimage};

use self::op_fields::op_fields;
use crate::Platform;
use crate::llb::Vertex;
use crate::worker::{ContentSelector, ResolvedSource, ResultId};

/// Finds results: equal keys have interchangeable results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Wraps the bytes of a key read from an index.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for an index.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 64];
        hex::encode_to_slice(self.0, &mut hex).map_err(|_| fmt::Error)?;
        f.write_str("blake3:")?;
        f.write_str(str::from_utf8(&hex).map_err(|_| fmt::Error)?)
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is \"blake3:\" and 64 hexadecimal digits")]
pub struct CacheKeyError;

impl FromStr for CacheKey {
    type Err = CacheKeyError;

    fn from_str(text: &str) -> Result<Self, CacheKeyError> {
        let hex = text.strip_prefix("blake3:").ok_or(CacheKeyError)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| CacheKeyError)?;
        Ok(Self(bytes))
    }
}

impl serde::Serialize for CacheKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CacheKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of a vertex that is no source: the one of its [`op_preimage`], without making that.
pub fn op_key(vertex: &Vertex, platform: Option<&Platform>, inputs: &[InputPart]) -> CacheKey {
    let (kind, fields) = op_fields(vertex, platform);
    preimage::key(kind, &fields, inputs)
}

/// The key under which the content digest of `selector` under an input is remembered.
///
/// `result` is what the input was made into (`None` is scratch): made again, it may have other content.
pub fn content_key(input: &CacheKey, output: usize, result: Option<&ResultId>, selector: &ContentSelector) -> CacheKey {
    let yes_or_no = |flag: bool| if flag { "true" } else { "false" };
    // Most of them fit in.
    let mut fields = Fields::with_capacity(512);
    fields.put("result", result.map_or("", ResultId::as_str));
    fields.put("path", &selector.path);
    fields.put("wildcard", yes_or_no(selector.wildcard));
    fields.put("allow_empty", yes_or_no(selector.allow_empty));
    fields.put("follow_links", yes_or_no(selector.follow_links));
    if selector.link_targets {
        fields.put("link_targets", "true");
    }
    fields.put_all("include", &selector.include);
    fields.put_all("exclude", &selector.exclude);
    preimage::key("content", &fields, &[InputPart::Identity { key: *input, output }])
}

/// The preimage of a source's key.
pub fn source_preimage(resolved: &ResolvedSource) -> Preimage {
    let mut fields = Fields::default();
    fields.put("pin", &resolved.pin);
    for (name, value) in &resolved.parts {
        fields.put(name, value);
    }
    Preimage {
        kind: "source".into(),
        fields,
        inputs: Vec::new(),
    }
}

/// The preimage of any other vertex's key. `platform` is what it runs on, if that is known.
pub fn op_preimage(vertex: &Vertex, platform: Option<&Platform>, inputs: Vec<InputPart>) -> Preimage {
    let (kind, fields) = op_fields(vertex, platform);
    Preimage {
        kind: kind.into(),
        fields,
        inputs,
    }
}

#[cfg(test)]
mod tests;
