//! Images: descriptors, manifests, configs, and ways to hand an image over.

mod descriptor;
mod document;
pub mod media_type;
mod select;

pub use descriptor::Descriptor;
pub use document::{Content, Document, DocumentError};
pub use media_type::MediaTypes;
pub use select::select;
