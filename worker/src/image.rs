//! Images: descriptors, manifests, configs, and ways to hand an image over.
//!
//! [`assemble_image`] and [`assemble_index`] make documents out of layers; [`write_layout`] and [`push_image`] hand
//! over what was made. A [`Document`] keeps the bytes it was read from: digests are about bytes.

mod assemble;
mod attestation;
mod config;
mod descriptor;
mod document;
mod json;
mod layout;
pub mod media_type;
mod purl;
mod push;
mod select;
mod tree;

#[cfg(test)]
mod tests;

pub use assemble::{AssembleError, AssembledImage, ImageParts, Manifest, assemble_image, assemble_index};
pub(crate) use attestation::{ATTESTATION_MANIFEST, PREDICATE_TYPE, REFERENCE_DIGEST, REFERENCE_TYPE};
pub use attestation::{AttestationForm, STATEMENT_TYPE, Statement, Subject, assemble_attestations};
pub use config::{ConfigError, ConfigOptions, ImageLayer, complete_config, diff_ids};
pub use descriptor::Descriptor;
pub use document::{Content, Document, DocumentError};
pub use layout::{LayoutError, LayoutKind, familiar_name, write_layout};
pub use media_type::MediaTypes;
pub use purl::docker_purl;
pub use push::{BlobError, BlobSource, PushError, PushEvent, PushOptions, PushProgress, push_image};
pub use select::select;
pub use tree::{ImageTree, TreeError};
