//! Undoing compression, within limits.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Compression, CompressionError};

/// The largest window a zstd blob may ask the reader to keep (128 MiB, zstd's own default limit).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The most memory an xz archive may ask the reader for, in KiB: a dictionary of 128 MiB, twice that of `xz -9`, and the
/// decoder's own.
const XZ_MEMORY_MAX_KIB: u32 = 129 << 10;

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
    decoder: Decoder<R>,
    compressed: Arc<AtomicU64>,
    produced: u64,
    limits: Limits,
}

enum Decoder<R: Read> {
    None(BufReader<Counting<R>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Counting<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Counting<R>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<BufReader<Counting<R>>>>),
    Xz(Box<lzma_rust2::XzReader<BufReader<Counting<R>>>>),
}

impl<R: Read> fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("produced", &self.produced)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Recognises how a layer is compressed by its first bytes, and reads it uncompressed. The media type is not asked:
/// images exist whose media types are wrong.
///
/// # Errors
/// [`CompressionError::Start`] when the first bytes cannot be read. Reading fails with
/// [`io::ErrorKind::FileTooLarge`] past a limit and with another error on broken data.
pub fn decompress<R: Read>(blob: R, limits: Limits) -> Result<Decompressor<R>, CompressionError> {
    Decompressor::start(blob, limits, |start, reader| {
        layer_decoder(Compression::detect(start), reader)
    })
}

/// Like [`decompress`], for archives that users bring along: they may also be compressed in ways that layers never are,
/// with bzip2 and xz.
///
/// # Errors
/// Like [`decompress`].
pub fn decompress_archive<R: Read>(archive: R, limits: Limits) -> Result<Decompressor<R>, CompressionError> {
    Decompressor::start(archive, limits, |start, reader| match start {
        [b'B', b'Z', b'h', ..] => Ok(Decoder::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(reader)))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let decoder = lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY_MAX_KIB);
            Ok(Decoder::Xz(Box::new(decoder)))
        }
        start => layer_decoder(Compression::detect(start), reader),
    })
}

fn layer_decoder<R: Read>(kind: Compression, reader: BufReader<Counting<R>>) -> Result<Decoder<R>, CompressionError> {
    Ok(match kind {
        Compression::None => Decoder::None(reader),
        Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader).map_err(CompressionError::Start)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(CompressionError::Start)?;
            Decoder::Zstd(decoder)
        }
    })
}

impl<R: Read> Decompressor<R> {
    /// Begins with the decoder that `choose` makes after a look at the first bytes.
    fn start(
        blob: R,
        limits: Limits,
        choose: impl FnOnce(&[u8], BufReader<Counting<R>>) -> Result<Decoder<R>, CompressionError>,
    ) -> Result<Self, CompressionError> {
        /// What the longest mark takes.
        const MARK: usize = 6;
        let compressed = Arc::new(AtomicU64::new(0));
        let counting = Counting {
            inner: blob,
            count: compressed.clone(),
        };
        let mut reader = BufReader::with_capacity(128 * 1024, counting);
        let filled = reader.fill_buf().map_err(CompressionError::Start)?;
        let mut mark = [0; MARK];
        let known = filled.len().min(MARK);
        mark[..known].copy_from_slice(&filled[..known]);
        Ok(Self {
            decoder: choose(&mark[..known], reader)?,
            compressed,
            produced: 0,
            limits,
        })
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
            Decoder::Bzip2(decoder) => decoder.read(buf)?,
            Decoder::Xz(decoder) => decoder.read(buf)?,
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
