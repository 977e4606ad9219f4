//! Output that is too much for memory.
//!
//! Output is written to a file in the order in which it came, a piece at a time, and without holding the lock of the
//! log it belongs to. Until a piece is written it is read from memory.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Event, Log};
use crate::Digest;
use crate::llb::VertexDigest;

/// Where logs are kept that are too much for memory.
pub trait Spools: fmt::Debug + Send + Sync + 'static {
    /// Makes a place for one log. Nothing is left of it when it is dropped, nor after a crash.
    ///
    /// # Errors
    /// That of the file system.
    fn create(&self) -> io::Result<Arc<dyn Spool>>;
}

/// Where one log is kept: bytes by their offset.
pub trait Spool: fmt::Debug + Send + Sync + 'static {
    /// Writes all of `data` at `offset`: behind everything written before, or in place of what failed to be written.
    ///
    /// # Errors
    /// That of the file system; nothing is written then, or a part.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer` with what was written at `offset`.
    ///
    /// # Errors
    /// That of the file system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// What output costs besides its data.
pub(super) const LOG_OVERHEAD: usize = 64;
/// Size of what precedes data: vertex, stream, time and length.
const HEADER: usize = 32 + 1 + 8 + 4;
/// Most data in one frame; more is written as several.
const MAX_FRAME: usize = 64 << 10;
/// What is written at once.
const PIECE: usize = 64 << 10;
/// What is read at once; there is a whole frame in it.
const CHUNK: u64 = 256 << 10;
/// Most that waits to be written. What comes when it is full is lost: memory is bounded before logs are complete.
const MAX_WAITING: usize = 1 << 20;
/// How much is lost between attempts to go on.
const RETRY: usize = 1 << 20;

/// The part of a log that is not in memory, or not for long.
#[derive(Debug, Default)]
pub(super) struct Spill {
    spools: Option<Arc<dyn Spools>>,
    file: Option<Arc<dyn Spool>>,
    /// Length of what is in the file.
    written: u64,
    /// What is being written behind that.
    writing: Option<Arc<Vec<u8>>>,
    /// What comes behind that.
    waiting: Vec<u8>,
    /// Set while output is lost.
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Lost {
    /// Since the last attempt to go on.
    bytes: usize,
}

/// A piece to write.
pub(super) struct Keep {
    spools: Arc<dyn Spools>,
    file: Option<Arc<dyn Spool>>,
    offset: u64,
    data: Arc<Vec<u8>>,
}

impl Keep {
    pub(super) fn run(self) -> io::Result<Arc<dyn Spool>> {
        let file = match self.file {
            Some(file) => file,
            None => self.spools.create()?,
        };
        file.write_at(&self.data, self.offset)?;
        Ok(file)
    }
}

impl Spill {
    pub(super) fn new(spools: Option<Arc<dyn Spools>>) -> Self {
        Self {
            spools,
            ..Self::default()
        }
    }

    /// Whether there is a place for anything.
    pub(super) fn is_possible(&self) -> bool {
        self.spools.is_some()
    }

    /// Length of everything.
    pub(super) fn end(&self) -> u64 {
        let writing = self.writing.as_ref().map_or(0, |data| data.len());
        self.written + (writing + self.waiting.len()) as u64
    }

    #[cfg(test)]
    pub(super) fn bytes_in_memory(&self) -> usize {
        let writing = self.writing.as_ref().map_or(0, |data| data.len());
        writing + self.waiting.capacity()
    }

    /// Adds output; `false` if it is lost.
    pub(super) fn add(&mut self, vertex: VertexDigest, log: &Log) -> bool {
        if let Some(lost) = &mut self.lost {
            lost.bytes += log.data.len() + HEADER;
            return false;
        }
        if self.writing.is_some() && self.waiting.len() + log.data.len() > MAX_WAITING {
            self.lose(vertex, "it comes faster than it can be written");
            return true;
        }
        for data in log.data.chunks(MAX_FRAME) {
            self.frame(vertex, log.stream, log.timestamp, data);
        }
        true
    }

    fn frame(&mut self, vertex: VertexDigest, stream: u8, timestamp: SystemTime, data: &[u8]) {
        let time = timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.waiting.extend_from_slice(vertex.as_bytes());
        self.waiting.push(stream);
        self.waiting.extend_from_slice(&time.to_le_bytes());
        self.waiting.extend_from_slice(&len.to_le_bytes());
        self.waiting.extend_from_slice(data);
    }

    /// Keeps nothing more for now, and says so.
    fn lose(&mut self, vertex: VertexDigest, why: &str) {
        let note = format!("\n[output is not kept from here on: {why}]\n");
        self.frame(vertex, 2, SystemTime::now(), note.as_bytes());
        self.lost = Some(Lost { bytes: 0 });
    }

    /// What is to be written now, if that is enough and nobody writes. [`Spill::kept`] must be called with its outcome.
    pub(super) fn keep(&mut self) -> Option<Keep> {
        let is_due = match &mut self.lost {
            None => self.waiting.len() >= PIECE,
            Some(lost) => lost.bytes >= RETRY,
        };
        if !is_due || self.writing.is_some() {
            return None;
        }
        if let Some(lost) = &mut self.lost {
            lost.bytes = 0;
        }
        let data = Arc::new(std::mem::take(&mut self.waiting));
        self.writing = Some(data.clone());
        Some(Keep {
            spools: self.spools.clone()?,
            file: self.file.clone(),
            offset: self.written,
            data,
        })
    }

    /// Takes note of what became of what was to be written. Returns the vertex that something was said about then.
    pub(super) fn kept(&mut self, outcome: io::Result<Arc<dyn Spool>>) -> Option<VertexDigest> {
        let data = self.writing.take()?;
        let vertex = frames(&data).next().map(|frame| frame.vertex)?;
        match outcome {
            Ok(file) => {
                self.file = Some(file);
                self.written += data.len() as u64;
                self.lost.take().map(|_| {
                    self.frame(vertex, 2, SystemTime::now(), b"\n[output is kept again]\n");
                    vertex
                })
            }
            Err(error) => {
                let behind = std::mem::take(&mut self.waiting);
                self.waiting = Arc::unwrap_or_clone(data);
                self.waiting.extend(behind);
                let is_new = self.lost.is_none();
                is_new.then(|| {
                    tracing::warn!(%error, "the log of a build cannot be kept");
                    self.lose(vertex, &error.to_string());
                    vertex
                })
            }
        }
    }

    /// What there is between two frames' beginnings, or the first part of it.
    pub(super) fn look(&self, from: u64, to: u64) -> Chunk {
        let end = to.min(from + CHUNK);
        let none = Arc::default();
        let writing = self.writing.as_ref().unwrap_or(&none);
        let waiting_from = self.written + writing.len() as u64;
        // Frames are never divided between the three.
        if let Some(file) = &self.file
            && from < self.written
        {
            let len = end.min(self.written) - from;
            return Chunk::File(file.clone(), from, len, to.min(self.written) - from);
        }
        if from < waiting_from {
            let len = end.min(waiting_from) - from;
            return Chunk::Piece(writing.clone(), from - self.written, len);
        }
        let part = &self.waiting[offset(from - waiting_from)..offset(end - waiting_from)];
        Chunk::Bytes(part.to_vec())
    }
}

/// Bytes in memory are counted by `usize`.
fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A part of a spill that begins with a frame.
pub(super) enum Chunk {
    /// In a file: from where, how much, and how much there is before anything is somewhere else.
    File(Arc<dyn Spool>, u64, u64, u64),
    /// In what is being written: from where, and how much.
    Piece(Arc<Vec<u8>>, u64, u64),
    Bytes(Vec<u8>),
}

impl Chunk {
    /// The output in it, and how far that is in bytes. What cannot be read is passed over, with a notice for `vertex`.
    pub(super) fn read(self, vertex: VertexDigest) -> (Vec<Event>, u64) {
        let read;
        let bytes = match &self {
            Self::Bytes(bytes) => &bytes[..],
            Self::Piece(piece, from, len) => &piece[offset(*from)..offset(from + len)],
            Self::File(file, from, len, all) => {
                let mut buffer = vec![0; offset(*len)];
                if let Err(error) = file.read_at(&mut buffer, *from) {
                    tracing::warn!(%error, "the log of a build cannot be read");
                    let note = format!("\n[{all} bytes of output cannot be read: {error}]\n");
                    let log = Log {
                        stream: 2,
                        timestamp: SystemTime::now(),
                        data: note.into(),
                    };
                    return (vec![Event::Log(vertex, log)], *all);
                }
                read = buffer;
                &read[..]
            }
        };
        let mut done = 0;
        let events = frames(bytes).map(|frame| {
            done += HEADER + frame.data.len();
            let log = Log {
                stream: frame.stream,
                timestamp: frame.timestamp,
                data: Bytes::copy_from_slice(frame.data),
            };
            Event::Log(frame.vertex, log)
        });
        let events = events.collect();
        (events, done as u64)
    }
}

struct Frame<'a> {
    vertex: VertexDigest,
    stream: u8,
    timestamp: SystemTime,
    data: &'a [u8],
}

/// The whole frames at the beginning of `bytes`.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (vertex, rest) = bytes.split_first_chunk::<32>()?;
        let (&[stream], rest) = rest.split_first_chunk::<1>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(offset(u32::from_le_bytes(*len).into()))?;
        bytes = rest;
        Some(Frame {
            vertex: Digest::from_sha256(*vertex),
            stream,
            timestamp: SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::from_le_bytes(*time)),
            data,
        })
    })
}
