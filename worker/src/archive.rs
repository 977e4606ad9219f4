//! Tar streams: reading and writing them, unpacking layers into directories and making layers of directories.
//!
//! [`TarReader`] and [`TarWriter`] know the format and nothing of files. [`apply`] and [`pack`] translate between an
//! OCI layer and a *layer directory*: the upper directory of an overlay, in which a deleted name is a character
//! device 0/0 and a directory that hides what is below has the attribute `trusted.overlay.opaque`.
//!
//! Everything here blocks: call it from the blocking pool.

mod apply;
mod copy;
mod entry;
mod error;
mod header;
mod lower;
mod number;
mod pack;
mod pax;
mod reader;
mod settle;
mod sparse;
#[cfg(test)]
mod tests;
mod whiteout;
mod writer;

pub use apply::{Applied, ApplyOptions, apply, extract};
pub use copy::copy_entries;
pub use entry::{Device, Entry, EntryKind, Mtime, Segment};
pub use error::ArchiveError;
pub use pack::{PackOptions, Times, pack, pack_below};
pub use reader::{TarReader, is_tar_header};
pub use settle::{Settled, settle};
pub use whiteout::{OverlayXattrs, TIME_ALONE};
pub use writer::{TarWriter, padding, write_header};
