//! Compressed blobs: recognising and undoing compression, and compressing layers.
//!
//! A layer is written in one pass: bytes of a tar go into a [`Compressor`], which hashes them, compresses them and
//! hashes the result on its way into the content store. What comes out depends only on the bytes, the kind and the
//! level, never on the number of threads. It blocks on rayon's threads: call it from the blocking pool, not from rayon.

use std::io::{self, Read};

use crate::content::{ContentError, ContentStore};

mod compressor;
mod decompress;
mod estargz;
mod gzip;
#[cfg(test)]
mod tests;

pub use compressor::{CompressedLayer, Compressor};
pub use decompress::{Decompressor, Limits, decompress, decompress_archive};
pub use estargz::{EstargzError, EstargzLayer, TOC_DIGEST, UNCOMPRESSED_SIZE, estargz};

/// How a layer blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, what every consumer understands.
    #[default]
    Gzip,
    /// RFC 8878; faster and smaller, needs OCI media types.
    Zstd,
}

impl Compression {
    /// Recognises what `start`, the first bytes of a blob, is compressed with.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame in front, as seekable zstd has it.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The layer media type of OCI for this compression.
    pub const fn oci_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// The level to compress with: the given one, or the usual one. Without compression there are none.
    ///
    /// # Errors
    /// [`CompressionError::Level`] for a level outside gzip's 0 to 9 or zstd's 0 to 22.
    pub fn checked_level(self, level: Option<i32>) -> Result<i32, CompressionError> {
        let (usual, max) = match self {
            Self::None => return Ok(0),
            Self::Gzip => (6, 9),
            // Level 3 of zstd is smaller than gzip's 6 and many times faster.
            Self::Zstd => (3, 22),
        };
        match level.unwrap_or(usual) {
            level if (0..=max).contains(&level) => Ok(level),
            level => Err(CompressionError::Level { level, min: 0, max }),
        }
    }
}

/// What can go wrong with compressing or decompressing.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// The source could not be read.
    #[error("failed to read the data to compress")]
    Read(#[source] io::Error),
    /// The result could not be written.
    #[error("failed to write compressed data")]
    Write(#[source] io::Error),
    /// The blob's head could not be read, or its decoder not be set up.
    #[error("failed to start decompressing")]
    Start(#[source] io::Error),
    /// The level is outside what the kind of compression knows.
    #[error("compression level {level} is not between {min} and {max}")]
    Level {
        /// What was asked for.
        level: i32,
        /// Lowest level.
        min: i32,
        /// Highest level.
        max: i32,
    },
    /// The content store refused.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// Compresses all of `tar` into `store`. Without a level, each kind's usual one.
///
/// # Errors
/// [`CompressionError`]; nothing is stored then.
pub fn compress(
    kind: Compression,
    level: Option<i32>,
    mut tar: impl Read,
    store: &ContentStore,
) -> Result<CompressedLayer, CompressionError> {
    let mut compressor = Compressor::new(kind, level, store)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => return compressor.finish(),
            Ok(n) => io::Write::write_all(&mut compressor, &buffer[..n]).map_err(CompressionError::Write)?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(CompressionError::Read(err)),
        }
    }
}
