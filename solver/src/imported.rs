//! Results that were made elsewhere, and what leaves for elsewhere.
//!
//! A cache that is exported holds *records*. A record is found by the digest of a [`CacheKey`] ([`record_digest`]); it
//! may hold results, and the digests of what was selected in them by those that depend on them by content. The latter
//! are all that identifying needs, so that a build whose target is known elsewhere takes over that one result.
//!
//! # Names of results
//! Workers name results as they like, and remembered content digests belong to a result, not to a key. So contents are
//! exported beside the results that they were found in, and count for whatever the importing worker calls those.

use async_trait::async_trait;

use crate::Digest;
use crate::cache_key::CacheKey;
use crate::worker::{CallContext, ContentSelector, Ref, WorkerError};

/// Part of every digest that leaves: other builders' caches never seem to be ours, nor do other versions of ours.
const SALT: &[u8] = b"cairn.cache.v1\0";

/// A cache that was imported: it answers without asking anybody.
#[async_trait]
pub trait ImportedCache: Send + Sync {
    /// The digest of what `selector` names in an output of what is recorded under `key`.
    fn content(&self, key: &CacheKey, output: usize, selector: &ContentSelector) -> Option<Digest>;

    /// Takes the results over that are recorded under `key`, one per output, `None` for scratch. Files stay where they
    /// are until somebody needs them. `None` if there are none.
    async fn adopt(&self, key: &CacheKey, context: &CallContext) -> Result<Option<Vec<Option<Ref>>>, WorkerError>;
}

/// A vertex as it leaves.
#[derive(Clone, Debug)]
pub struct CacheRecord {
    /// What it is found by.
    pub digest: Digest,
    /// One result per output; `None` if the vertex has not been made and its results are not known.
    pub outputs: Option<Vec<Option<Ref>>>,
    /// What was selected in its results.
    pub contents: Vec<SelectedContent>,
    /// The records of its inputs.
    pub inputs: Vec<InputLink>,
}

/// The digest of what a selector names in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SelectedContent {
    /// Which output.
    pub output: usize,
    /// The selector, as [`selector_digest`].
    pub selector: Digest,
    /// The content.
    pub digest: Digest,
}

/// An input of an exported vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLink {
    /// Position of the input's record.
    pub record: usize,
    /// What of it counts, if not everything does.
    pub selector: Option<Digest>,
}

/// What the record of a key is found by.
pub fn record_digest(key: &CacheKey) -> Digest {
    let mut text = SALT.to_vec();
    text.extend_from_slice(key.as_bytes());
    Digest::sha256(&text)
}

/// A name for a selector that tells nothing about it.
pub fn selector_digest(selector: &ContentSelector) -> Digest {
    let mut text = SALT.to_vec();
    let mut put = |field: &[u8]| {
        text.extend_from_slice(&(field.len() as u64).to_le_bytes());
        text.extend_from_slice(field);
    };
    let ContentSelector {
        path,
        wildcard,
        allow_empty,
        follow_links,
        link_targets,
        include,
        exclude,
    } = selector;
    put(path.as_bytes());
    put(&[u8::from(*wildcard), u8::from(*allow_empty), u8::from(*follow_links)]);
    if *link_targets {
        put(b"link targets");
    }
    for patterns in [include, exclude] {
        put(&(patterns.len() as u64).to_le_bytes());
        patterns.iter().for_each(|pattern| put(pattern.as_bytes()));
    }
    Digest::sha256(&text)
}
