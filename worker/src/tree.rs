//! Files received from clients, kept once each, and the trees made of them.
//!
//! What it is: a [`FileStore`] of immutable files, and directory objects ([`Dir`]) that point into it and at one
//! another. A client's directory is a [`Tree`]: one object's digest, and a pin that keeps everything below it. What it
//! is not: a place for layers. A layer gets *hard links* to stored files ([`crate::fileop`]).
//!
//! Reading order: [`node`] and [`identity`] (what is known about a file, and its two digests), [`view`] (files to
//! read, in a tree or under a root, in one way), [`dir`], [`files`], [`store`], [`receive`].
//!
//! Invariants:
//! - A stored file never changes: it is only ever seen through a lower layer of an overlay, and nobody modifies a
//!   layer's file in place.
//! - One stored file is linked at most once into one layer, and into one stack of layers ([`links`]), so that neither
//!   exports nor processes see hard links that nobody made.
//! - Whoever names a stored file or object without holding it through a pinned tree has registered it first, so that
//!   collection leaves it alone.
//! - A tree is found after a crash only if its files are whole.

pub mod dir;
pub mod export;
pub mod files;
pub mod identity;
pub mod links;
pub mod node;
pub mod receive;
pub mod store;
pub mod view;

mod assembly;
mod codec;
mod error;
mod handle;
mod intake;
mod listing;
mod pins;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod usage;

pub use dir::{Body, Dir, Entry, FileBody};
pub use error::TreeError;
pub use export::ViewSender;
pub use files::FileStore;
pub use handle::Tree;
pub use identity::{ContentHash, FileKey, FileMeta, TreeDigest};
pub use listing::ListingReceiver;
pub use node::{Node, NodeKind, Origin, Xattrs};
pub use receive::{Receiver, SourceKey};
pub use store::{TreeRecord, TreeStore};
pub use sweep::Swept;
pub use view::{Links, Located, View};
