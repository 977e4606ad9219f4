//! Content digests of paths in trees and under mounted roots.
//!
//! What keys are made of where an op depends on an input *by content*: names, types, permissions, owners, sizes, link
//! targets, extended attributes and bytes of everything that a [`ContentSelector`] names; no times. The same files have
//! the same digest whether they are in a [`Tree`](crate::tree::Tree) (where no file is touched) or under a
//! [`Root`](crate::sys::Root) (where files are hashed on all processors).
//!
//! Reading order: [`digest`], [`select`] (what a selector names; copies use it too), `walk` (the hash of a directory),
//! [`compare`] (what differs, for people).

use cairn_patterns::PatternError;
use cairn_solver::Digest;
use cairn_solver::worker::ContentSelector;

use crate::causes::system_words;
use crate::tree::identity::Parts;
use crate::tree::view::{self, Links, View};

mod compare;
mod near;
pub mod select;
mod walk;

pub use compare::compare;
pub use select::Filter;

/// Why a digest could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("failed to calculate checksum of ref {reference}: {cause}")]
pub struct ChecksumError {
    /// The result that was looked at.
    pub reference: String,
    /// Why.
    pub cause: ChecksumCause,
}

/// What kept a digest from being computed.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumCause {
    /// There is nothing at a path, or a pattern matches nothing.
    #[error("{path:?}: not found{}", near.as_deref().map(|near| format!(" (did you mean {near}?)")).unwrap_or_default())]
    NotFound {
        /// The path asked for, from the root.
        path: String,
        /// What is there and was probably meant.
        near: Option<String>,
    },
    /// A wildcard is malformed.
    #[error("invalid path pattern: {0}")]
    Wildcard(PatternError),
    /// An include pattern is malformed.
    #[error("invalid includepatterns: {0}")]
    Include(PatternError),
    /// An exclude pattern is malformed.
    #[error("invalid excludepatterns: {0}")]
    Exclude(PatternError),
    /// An include pattern means nothing.
    #[error("failed to match includepatterns: {0}")]
    MatchInclude(PatternError),
    /// An exclude pattern means nothing.
    #[error("failed to match excludepatterns: {0}")]
    MatchExclude(PatternError),
    /// A file could not be read.
    #[error("failed to read {path:?}: {}", read_problem(source))]
    Read {
        /// Path from the root.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

fn read_problem(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        // As clients know it.
        Some(libc::ELOOP) => "too many links".to_owned(),
        _ => system_words(error),
    }
}

impl ChecksumError {
    /// Whether the user named something that is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.cause, ChecksumCause::NotFound { .. })
    }
}

/// Digests everything that `selector` names in `view`, which is called `reference` in errors. Blocks.
pub fn digest(view: &dyn View, reference: &str, selector: &ContentSelector) -> Result<Digest, ChecksumError> {
    compute(view, selector).map_err(|cause| ChecksumError {
        reference: reference.to_owned(),
        cause,
    })
}

/// What there is to see in scratch: the same as in an empty directory.
pub fn digest_scratch(reference: &str, selector: &ContentSelector) -> Result<Digest, ChecksumError> {
    digest(&crate::tree::view::Empty, reference, selector)
}

fn compute(view: &dyn View, selector: &ContentSelector) -> Result<Digest, ChecksumCause> {
    let filter = Filter::new(&selector.include, &selector.exclude)?;
    let found = select::select(view, &selector.path, selector.wildcard, selector.follow_links)?;
    if found.is_empty() && !selector.allow_empty {
        return Err(ChecksumCause::NotFound {
            path: select::shown(&selector.path),
            near: None,
        });
    }
    let mut parts = Parts::new("selection");
    for found in &found {
        // Without a pattern the name is known from the op; with one it decides what the copy is called.
        if selector.wildcard {
            parts.bytes(found.named.as_os_str().as_encoded_bytes());
        }
        parts.bytes(&walk::content(view, &found.at, filter.as_ref())?.0);
        if selector.link_targets && found.at.node.is_symlink() {
            let target = view::find(view, &found.named, Links::Follow);
            let target = target.map_err(|source| select::read_error(&found.named, source))?;
            if let Some(file) = target.filter(|at| at.node.is_file()) {
                parts.bytes(&walk::content(view, &file, None)?.0);
            }
        }
    }
    Ok(Digest::sha256(&parts.finish()))
}

#[cfg(test)]
mod tests;
