//! Caches as they are kept in registries, in directories of clients and inside images.
//!
//! The format is BuildKit's `cacheconfig.v0`, so that registries and tools treat our caches like others: a list of layers
//! in chains, and records that name a chain as their result. Records are found by opaque digests; ours are salted, so
//! that caches of other builders can be read, and never hit. What the format has no place for is in one more member of
//! a record, `cairn`, which others ignore.
//!
//! Everything read here comes from outside: it is bounded and checked before it is used.

mod config;
mod read;

pub use config::{
    CacheConfig, ConfigError, Contents, Input, LayerChains, LayerEntry, MAX_CONFIG, OwnPart, Record, Tip,
};
pub use read::{CacheLayer, CacheManifest, LoadedCache, ReadError, read_config, read_inline};

/// Media type of a config.
pub const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Annotation of a layer: digest of its uncompressed tar.
pub const DIFF_ID: &str = "containerd.io/uncompressed";
/// Annotation of a layer: when it was made.
pub const CREATED_AT: &str = "buildkit/createdat";
