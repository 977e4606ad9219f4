//! Compressing into the content store in one pass.

use std::fmt;
use std::io::{self, Write};

use cairn_solver::Digest;

use super::gzip::ParallelGzip;
use super::{Compression, CompressionError};
use crate::content::{ContentStore, Ingest, Sha256Hasher};

/// A finished layer blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedLayer {
    /// Digest of the blob, which is in the content store.
    pub digest: Digest,
    /// Size of the blob.
    pub size: u64,
    /// Digest of the uncompressed tar: the layer's `diff_id`.
    pub diff_id: Digest,
    /// Size of the uncompressed tar.
    pub uncompressed_size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

impl CompressedLayer {
    /// The layer's OCI media type.
    pub const fn media_type(&self) -> &'static str {
        self.compression.oci_media_type()
    }
}

/// Takes a tar by [`Write`] and stores it compressed.
pub struct Compressor {
    kind: Compression,
    plain: Sha256Hasher,
    encoder: Encoder,
}

enum Encoder {
    None(Ingest),
    Gzip(ParallelGzip<Ingest>),
    Zstd(zstd::stream::write::Encoder<'static, Ingest>),
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("kind", &self.kind)
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

impl Compressor {
    /// Starts a blob. Dropping the compressor leaves nothing behind.
    ///
    /// # Errors
    /// [`CompressionError::Level`]; see [`Compression::checked_level`].
    pub fn new(kind: Compression, level: Option<i32>, store: &ContentStore) -> Result<Self, CompressionError> {
        let level = kind.checked_level(level)?;
        let ingest = store.ingest()?;
        let encoder = match kind {
            Compression::None => Encoder::None(ingest),
            Compression::Gzip => Encoder::Gzip(ParallelGzip::new(ingest, level.unsigned_abs())),
            Compression::Zstd => Encoder::Zstd(zstd_encoder(ingest, level).map_err(CompressionError::Write)?),
        };
        Ok(Self {
            kind,
            plain: Sha256Hasher::new(),
            encoder,
        })
    }

    /// Completes the blob and makes it visible in the store.
    ///
    /// # Errors
    /// [`CompressionError::Write`] or [`CompressionError::Content`].
    pub fn finish(self) -> Result<CompressedLayer, CompressionError> {
        let ingest = match self.encoder {
            Encoder::None(ingest) => ingest,
            Encoder::Gzip(gzip) => gzip.finish().map_err(CompressionError::Write)?,
            Encoder::Zstd(zstd) => zstd.finish().map_err(CompressionError::Write)?,
        };
        let blob = ingest.commit(None, None)?;
        Ok(CompressedLayer {
            digest: blob.digest,
            size: blob.size,
            diff_id: self.plain.digest(),
            uncompressed_size: self.plain.length(),
            compression: self.kind,
        })
    }
}

impl Write for Compressor {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = match &mut self.encoder {
            Encoder::None(ingest) => ingest.write(buf)?,
            Encoder::Gzip(gzip) => gzip.write(buf)?,
            Encoder::Zstd(zstd) => zstd.write(buf)?,
        };
        self.plain.update(&buf[..n]);
        Ok(n)
    }

    /// Does nothing: flushing in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// With any number of workers above zero zstd cuts its input the same way, so the bytes do not depend on it.
fn zstd_encoder(ingest: Ingest, level: i32) -> io::Result<zstd::stream::write::Encoder<'static, Ingest>> {
    let workers = rayon::current_num_threads().clamp(1, 8);
    let mut encoder = zstd::stream::write::Encoder::new(ingest, level)?;
    encoder.multithread(u32::try_from(workers).unwrap_or(1))?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}
