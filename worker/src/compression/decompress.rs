//! Undoing compression, within limits.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Compression, CompressionError};

/// The largest window a zstd blob may ask the reader to keep (128 MiB, zstd's own default limit).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What a blob may unpack to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most uncompressed bytes.
    pub max_size: u64,
    /// The most uncompressed bytes per compressed byte, once there are more than [`Limits::ratio_from`] of them.
    pub max_ratio: u64,
    /// Up to this many uncompressed bytes any ratio is fine.
    pub ratio_from: u64,
}

impl Default for Limits {
    /// 1 TiB; above 1 GiB a ratio of at most 2000, which deflate (at most 1032) never reaches.
    fn default() -> Self {
        Self {
            max_size: 1 << 40,
            max_ratio: 2000,
            ratio_from: 1 << 30,
        }
    }
}

/// A reader of the uncompressed bytes of a blob.
pub struct Decompressor<R: Read> {
    kind: Compression,
    decoder: Decoder<R>,
    compressed: Arc<AtomicU64>,
    produced: u64,
    limits: Limits,
}

enum Decoder<R: Read> {
    None(BufReader<Counting<R>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Counting<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Counting<R>>>),
}

impl<R: Read> fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("kind", &self.kind)
            .field("produced", &self.produced)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Recognises how `blob` is compressed by its first bytes, and reads it uncompressed. The media type is not asked:
/// images exist whose media types are wrong.
///
/// # Errors
/// [`CompressionError::Start`] when the first bytes cannot be read. Reading fails with
/// [`io::ErrorKind::FileTooLarge`] past a limit and with another error on broken data.
pub fn decompress<R: Read>(blob: R, limits: Limits) -> Result<Decompressor<R>, CompressionError> {
    let compressed = Arc::new(AtomicU64::new(0));
    let mut reader = BufReader::with_capacity(
        128 * 1024,
        Counting {
            inner: blob,
            count: compressed.clone(),
        },
    );
    let start = reader.fill_buf().map_err(CompressionError::Start)?;
    let kind = Compression::detect(start);
    let decoder = match kind {
        Compression::None => Decoder::None(reader),
        Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader).map_err(CompressionError::Start)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(CompressionError::Start)?;
            Decoder::Zstd(decoder)
        }
    };
    Ok(Decompressor {
        kind,
        decoder,
        compressed,
        produced: 0,
        limits,
    })
}

impl<R: Read> Decompressor<R> {
    /// How the blob is compressed.
    pub const fn kind(&self) -> Compression {
        self.kind
    }

    fn check(&self) -> io::Result<()> {
        let compressed = self.compressed.load(Ordering::Relaxed);
        let is_bomb =
            self.produced > self.limits.ratio_from && self.produced / compressed.max(1) > self.limits.max_ratio;
        if is_bomb || self.produced > self.limits.max_size {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "{compressed} compressed bytes unpack to more than {} bytes",
                    self.produced
                ),
            ));
        }
        Ok(())
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.decoder {
            Decoder::None(reader) => reader.read(buf)?,
            Decoder::Gzip(decoder) => decoder.read(buf)?,
            Decoder::Zstd(decoder) => decoder.read(buf)?,
        };
        self.produced += n as u64;
        self.check()?;
        Ok(n)
    }
}

/// Counts what is read, where the outside can see it.
struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
