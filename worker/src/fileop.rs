//! File operations: what FileOps do to root file systems.
//!
//! What it is: `mkdir`, `mkfile`, `symlink`, `rm` and `copy` as BuildKit's clients know them, on destinations and from
//! sources that nobody is trusted in. What it is not: the keeper of layers; whoever has them implements
//! [`FileOpMounts`].
//!
//! Reading order: [`apply`] runs the actions of one op; [`FileOpMounts`] is what it asks for; `dest` is where changes
//! go; `copy` holds the rules of copying and `place` makes single files.
//!
//! Most changes need no mount. They are written straight into the upper directory of a layer that is not mounted yet,
//! over a read-only look at what is below it (see `dest`); and there a file from a client's tree is *hard-linked*, not
//! copied. The first change that has to hide something below (removing, replacing by another type, extracting) mounts
//! the layer, and from then on everything goes through the mount.
//!
//! Invariants: every name is looked up inside its root; nothing in a layer is modified in place, because it may be a
//! link to a stored file; errors name paths from the root.

use std::path::Path;

use crate::sys::Root;
use crate::tree::{FileKey, Tree};

mod actions;
mod chain;
mod copy;
mod dest;
mod error;
mod layout;
mod mode;
mod mounts;
mod owner;
mod place;

pub use chain::apply;
pub use error::FileOpError;
pub(crate) use error::reason;
pub use mode::{ModeChange, ModeSyntax};
pub use mounts::{Base, FileOpMounts, LayerMount, MountError, Unpack};
pub use owner::Owner;

/// Lays a tree out in `dest`, an empty directory of a new layer: files are hard-linked where that is right.
///
/// `dest` must not be seen through an overlay yet. Returns the stored files it has links to, to be recorded if it becomes
/// a layer (see [`FileOpMounts::links_below`]). Blocks.
pub fn lay_out(tree: &Tree, dest: &Root, is_cancelled: &dyn Fn() -> bool) -> Result<Vec<FileKey>, FileOpError> {
    layout::lay_out(tree, Path::new(""), dest, is_cancelled)
}

#[cfg(test)]
mod tests;
