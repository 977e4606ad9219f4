//! Reading tar streams.
//!
//! One parser serves every use of an archive (unpacking, digests, listings), so that no two parts of the program
//! can disagree about what a stream contains. Where formats are ambiguous it reads what Go's `archive/tar` reads,
//! which is what every registry and engine sees: the size that counts is the extended header's, links and devices
//! have no data whatever their size says, global headers change nothing.

use std::io::{self, Read};

use super::entry::{BLOCK, Device, Entry, EntryKind, Mtime};
use super::error::ArchiveError;
use super::header::{self, Block, Dialect};
use super::pax::Overrides;
use super::{number, sparse};

/// The most an extended header or long name may take.
const MAX_META: u64 = 1 << 20;
/// The most headers that may stand in front of one entry.
const MAX_META_HEADERS: usize = 64;

/// Whether `start`, the first bytes of a file, is a tar's first header. An archive without entries does not count.
pub fn is_tar_header(start: &[u8]) -> bool {
    let block = start.first_chunk::<BLOCK>();
    block.is_some_and(|block| block.iter().any(|byte| *byte != 0) && header::checksum_holds(block))
}

/// Reads the entries of an archive in order; `Read` gives the current entry's data.
///
/// For a sparse entry the data is the packed segments, see [`Entry::sparse`].
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    /// Bytes consumed so far.
    position: u64,
    /// What is left of the current entry's data.
    remaining: u64,
    /// The padding behind it.
    padding: u64,
    finished: bool,
}

/// What stood in front of an entry.
#[derive(Default)]
struct Preamble {
    pax: Overrides,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    headers: usize,
}

impl<R: Read> TarReader<R> {
    /// Reads an uncompressed stream from its beginning.
    pub const fn new(inner: R) -> Self {
        Self {
            inner,
            position: 0,
            remaining: 0,
            padding: 0,
            finished: false,
        }
    }

    /// Skips what is left of the current entry and reads the next one; `None` at the end of the archive.
    ///
    /// # Errors
    /// [`ArchiveError::Malformed`] or [`ArchiveError::Read`]. The reader is of no use afterwards.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut preamble = Preamble::default();
        loop {
            self.skip_data()?;
            let Some(block) = self.next_header()? else {
                return match preamble.headers {
                    0 => Ok(None),
                    _ => Err(self.malformed("extended header without an entry")),
                };
            };
            let size = self.unsigned(&block[header::SIZE], "size")?;
            match block[header::TYPE] {
                // Global headers are read over, as Go does: their records apply to nothing.
                b'g' => drop(self.read_meta(size)?),
                b'x' => {
                    let body = self.read_meta(size)?;
                    preamble.pax = Overrides::parse(&body).map_err(|problem| self.malformed(problem))?;
                }
                b'L' => preamble.long_name = Some(header::text(&self.read_meta(size)?).to_vec()),
                b'K' => preamble.long_link = Some(header::text(&self.read_meta(size)?).to_vec()),
                _ => return self.entry(&block, size, preamble).map(Some),
            }
            preamble.headers += 1;
            if preamble.headers > MAX_META_HEADERS {
                return Err(self.malformed("too many extended headers in front of an entry"));
            }
        }
    }

    /// Reads what follows the end marker, so that a hash over the stream covers all of it, and gives the stream back.
    ///
    /// # Errors
    /// [`ArchiveError::Read`] when the stream breaks.
    pub fn into_rest(mut self) -> Result<R, ArchiveError> {
        io::copy(&mut self.inner, &mut io::sink()).map_err(ArchiveError::Read)?;
        Ok(self.inner)
    }

    fn entry(&mut self, block: &Block, size: u64, preamble: Preamble) -> Result<Entry, ArchiveError> {
        let Preamble {
            pax,
            long_name,
            long_link,
            ..
        } = preamble;
        let path = long_name.or(pax.path).unwrap_or_else(|| header::full_name(block));
        let link = long_link
            .or(pax.link)
            .unwrap_or_else(|| header::text(&block[header::LINK]).to_vec());
        let kind = self.kind(block, &path, link)?;
        let has_data = kind == EntryKind::File;
        let size = if has_data { pax.size.unwrap_or(size) } else { 0 };
        self.start_data(size)?;
        let mut entry = Entry {
            path,
            kind,
            mode: self.signed(&block[header::MODE], "mode")? as u32 & 0o7777,
            uid: self.id(pax.uid, &block[header::UID], "owner")?,
            gid: self.id(pax.gid, &block[header::GID], "group")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => Mtime {
                    seconds: self.signed(&block[header::MTIME], "mtime")?,
                    nanos: 0,
                },
            },
            size,
            xattrs: pax.xattrs.into_iter().collect(),
            sparse: None,
        };
        if has_data {
            self.make_sparse(&mut entry, block, pax.sparse)?;
        }
        Ok(entry)
    }

    fn kind(&self, block: &Block, path: &[u8], link: Vec<u8>) -> Result<EntryKind, ArchiveError> {
        let needs_link = |link: Vec<u8>| match link.is_empty() {
            true => Err(self.malformed("link without a target")),
            false => Ok(link),
        };
        Ok(match block[header::TYPE] {
            // Before POSIX a trailing slash was what made a directory.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::Hardlink(needs_link(link)?),
            b'2' => EntryKind::Symlink(needs_link(link)?),
            b'3' => EntryKind::CharDevice(self.device(block)?),
            b'4' => EntryKind::BlockDevice(self.device(block)?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(self.malformed(format!("unsupported entry type {:?}", char::from(other)))),
        })
    }

    /// Replaces what the header says about a sparse file by what it means.
    fn make_sparse(
        &mut self,
        entry: &mut Entry,
        block: &Block,
        keys: super::pax::SparseKeys,
    ) -> Result<(), ArchiveError> {
        let map = if block[header::TYPE] == b'S' {
            if header::dialect(block) != Dialect::Gnu {
                return Err(self.malformed("sparse entry outside a GNU archive"));
            }
            // The map's continuation blocks are not counted in the entry's size.
            Some(sparse::read_gnu(block, || self.read_block())?)
        } else {
            sparse::read_pax(keys, || self.read_data_block())?
        };
        let Some(map) = map else { return Ok(()) };
        sparse::check(&map, self.remaining).map_err(|problem| self.malformed(problem))?;
        entry.size = map.real_size;
        entry.sparse = Some(map.segments);
        if let Some(name) = map.name {
            entry.path = name;
        }
        Ok(())
    }

    fn device(&self, block: &Block) -> Result<Device, ArchiveError> {
        let number = |field| {
            let value = self.unsigned(field, "device number")?;
            u32::try_from(value).map_err(|_| self.malformed("device number out of range"))
        };
        if header::dialect(block) == Dialect::V7 {
            return Err(self.malformed("device without a device number"));
        }
        Ok(Device {
            major: number(&block[header::DEV_MAJOR])?,
            minor: number(&block[header::DEV_MINOR])?,
        })
    }

    /// An owner or group: what the kernel can store, and not its "leave unchanged" value.
    fn id(&self, pax: Option<i64>, field: &[u8], what: &str) -> Result<u32, ArchiveError> {
        let id = match pax {
            Some(id) => id,
            None => self.signed(field, what)?,
        };
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| self.malformed(format!("{what} {id} out of range")))
    }

    /// The next header block, or `None` at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Block>, ArchiveError> {
        if self.finished {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        // An archive may end without its end marker, at a block boundary.
        if !self.fill(&mut block)? {
            self.finished = true;
            return Ok(None);
        }
        if block.iter().all(|b| *b == 0) {
            let another = self.fill(&mut block)?;
            if another && block.iter().any(|b| *b != 0) {
                return Err(self.malformed("data behind an empty block"));
            }
            self.finished = true;
            return Ok(None);
        }
        if !header::checksum_holds(&block) {
            return Err(self.malformed("wrong header checksum"));
        }
        Ok(Some(block))
    }

    fn read_block(&mut self) -> Result<Block, ArchiveError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            true => Ok(block),
            false => Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// One block out of the current entry's data.
    fn read_data_block(&mut self) -> Result<Block, ArchiveError> {
        if self.remaining < BLOCK as u64 {
            return Err(self.malformed("sparse map longer than its entry"));
        }
        let mut block = [0; BLOCK];
        self.read_exact(&mut block).map_err(ArchiveError::Read)?;
        Ok(block)
    }

    /// Reads one block; `false` at the end of the stream.
    fn fill(&mut self, block: &mut Block) -> Result<bool, ArchiveError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(ArchiveError::Read(err)),
            }
        }
        self.position += BLOCK as u64;
        Ok(true)
    }

    fn read_meta(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_META {
            return Err(self.malformed(format!("extended header of {size} bytes")));
        }
        self.start_data(size)?;
        let mut body = Vec::new();
        io::copy(self, &mut body).map_err(ArchiveError::Read)?;
        Ok(body)
    }

    fn start_data(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .filter(|padded| *padded <= i64::MAX as u64);
        let padded = padded.ok_or_else(|| self.malformed(format!("entry of {size} bytes")))?;
        self.remaining = size;
        self.padding = padded - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        let skip = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(skip), &mut io::sink()).map_err(ArchiveError::Read)?;
        self.position += skipped;
        (self.remaining, self.padding) = (0, 0);
        if skipped < skip {
            return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn signed(&self, field: &[u8], what: &str) -> Result<i64, ArchiveError> {
        number::parse(field).ok_or_else(|| self.malformed(format!("broken {what} field")))
    }

    fn unsigned(&self, field: &[u8], what: &str) -> Result<u64, ArchiveError> {
        let value = self.signed(field, what)?;
        u64::try_from(value).map_err(|_| self.malformed(format!("negative {what}")))
    }

    fn malformed(&self, problem: impl Into<String>) -> ArchiveError {
        ArchiveError::Malformed {
            offset: self.position,
            problem: problem.into(),
        }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}
