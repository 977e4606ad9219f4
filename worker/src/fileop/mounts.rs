//! What file operations ask of whoever keeps layers.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::sys::Root;
use crate::tree::{FileKey, View};

/// Why a layer could not be begun, mounted or committed.
pub type MountError = Box<dyn Error + Send + Sync>;

/// What an action works on.
#[derive(Debug)]
pub enum Base<'a, R> {
    /// Nothing.
    Scratch,
    /// An input of the vertex.
    Input(usize),
    /// What an earlier action led to.
    Result(&'a R),
}

// Not derived: that would ask `R` to be `Copy`, too.
impl<R> Clone for Base<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Base<'_, R> {}

/// Keeps the layers of one file operation. Its methods block.
pub trait FileOpMounts {
    /// A layer that is being changed. Dropped without a commit, it is thrown away.
    type Layer: LayerMount;
    /// A finished state.
    type Result: Clone;

    /// Begins a new, empty layer on top of `base`.
    fn begin(&mut self, base: Base<'_, Self::Result>) -> Result<Self::Layer, MountError>;

    /// The files of `of`, to copy from. A client's directory is best given as its tree: files are linked then.
    fn source(&mut self, of: Base<'_, Self::Result>) -> Result<Arc<dyn View>, MountError>;

    /// The root file system of `of`, to look users up in.
    fn accounts(&mut self, of: Base<'_, Self::Result>) -> Result<Arc<Root>, MountError>;

    /// Finishes a layer.
    fn commit(&mut self, layer: Self::Layer) -> Result<Self::Result, MountError>;

    /// Told of the action that failed, and of what it left, if that could be kept.
    fn failed(&mut self, _action: usize, _left: Option<Self::Result>) {}

    /// The stored files that the layers of `base` hold links to, as told to [`FileOpMounts::remember_links`].
    ///
    /// They are copied, not linked once more: under one mount, two names of one stored file look like hard links to
    /// each other wherever they come from, and `cp` refuses to copy one over the other.
    fn links_below(&mut self, _base: Base<'_, Self::Result>) -> Result<HashSet<FileKey>, MountError> {
        Ok(HashSet::new())
    }

    /// Told of the stored files that the topmost layer of a new result holds links to.
    /// [`crate::tree::TreeStore::record_links`] keeps them.
    fn remember_links(&mut self, _result: &Self::Result, _files: &[FileKey]) -> Result<(), MountError> {
        Ok(())
    }
}

/// A layer that is being changed.
pub trait LayerMount {
    /// The directory that holds the layer's own files. Used until [`LayerMount::mount`] is called.
    fn upper(&self) -> &Root;

    /// Read-only look at everything below the layer; `None` if there is nothing.
    fn lower(&self) -> Option<&Root>;

    /// Mounts layer and everything below as one, to be written through. Called at most once, and only if there is
    /// something below.
    fn mount(&mut self) -> Result<Root, MountError>;
}

/// Extracts archives.
pub trait Unpack: Sync {
    /// Whether `file`, at its beginning, is a tar archive, perhaps compressed. May leave the position anywhere.
    fn is_archive(&self, file: &mut File) -> io::Result<bool>;

    /// Extracts `file`, at its beginning, into `into`, from which nothing leads outside. Files there are replaced,
    /// never written to in place. `owner` replaces the owner of every entry.
    fn extract(&self, file: File, into: &Root, owner: Option<(u32, u32)>) -> io::Result<()>;
}
