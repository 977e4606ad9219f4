//! Layers as directories and blobs, mounted together as overlays.
//!
//! A *layer* is what one step changed. It has a directory (an overlay upper directory), a blob (a compressed tar known
//! by digest), or both; a directory is made from the blob only when something has to look inside. A *result* is a list
//! of layers, bottom first; merging results is concatenating lists.
//!
//! In reading order: [`LayerId`], [`Blob`] and the records; [`LayerList`], a list that keeps its layers from being
//! pruned while it lives; [`LayerStore`]; [`WritableLayer`], a layer in the making; [`Unpacker`], which makes
//! directories of blobs; [`PruneOptions`] and [`UsageRecord`]; [`CacheDir`], directories that outlive builds and belong
//! to no result.
//!
//! Invariants:
//! - A directory below `layers/` is complete: it is renamed there when it is finished, and recorded after that. Records
//!   of layers and results reach the disk a moment later, many at once; what a crash takes is made again. What is
//!   not recorded, or lies in `staging/`, is garbage that the next [`LayerStore::open`] removes.
//! - Directories below `layers/` never change again, so any number of mounts may share them.
//! - Writable mounts are volatile: a finished layer is marked as not durable until a later `syncfs`. After a host crash
//!   (the boot id differs) layers so marked are dropped with the results they are in.
//! - Nothing in a layer is reached by a path string; see [`crate::sys::Root`].

mod background;
mod cache_dir;
mod compare;
mod cover;
mod difference;
mod duplicate;
mod error;
mod list;
mod measure;
mod metadata;
mod mounted;
mod prune;
mod record;
mod seed;
mod store;
mod transient;
mod unpack;
mod usage;
mod writable;

pub use cache_dir::{CacheDir, CacheRequest};
pub use error::LayerError;
pub use list::LayerList;
pub use mounted::Mounted;
pub use prune::PruneOptions;
pub(crate) use record::random_hex as random_name;
pub use record::{Blob, BlobOrigin, Describe, LayerId, LayerRecord, ResultRecord};
pub use store::LayerStore;
pub use unpack::{Unpacked, Unpacker};
pub use usage::UsageRecord;
pub use writable::WritableLayer;

#[cfg(test)]
mod tests;
