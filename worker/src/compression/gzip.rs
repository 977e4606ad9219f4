//! Parallel gzip: one member, made of blocks that are compressed independently.
//!
//! The input is cut into blocks of 1 MiB. Each is compressed with the 32 KiB in front of it as dictionary and ends
//! at a byte boundary (a sync flush), so the blocks' outputs are simply written one after another. This is the
//! scheme of pigz; every gzip reader reads it, and the bytes do not depend on the number of threads.
//!
//! Stretches that do not get smaller (archives, images, already compressed files) are recognised by a sample and
//! stored, which costs next to nothing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use flate2::{Compress, Crc, FlushCompress, Status};

/// What one task compresses.
const BLOCK: usize = 1 << 20;
/// How far back deflate can refer.
const WINDOW: usize = 32 * 1024;
/// The unit in which compressible and incompressible data are told apart.
const STRETCH: usize = 128 * 1024;
/// How much of a stretch is compressed on trial.
const SAMPLE: usize = 16 * 1024;
/// The most a stored deflate block can hold.
const STORED_MAX: usize = 65_535;

/// Magic, deflate, no flags, no time, no extra flags, unknown operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block with fixed codes.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A gzip encoder over `inner`, using rayon's threads.
pub(super) struct ParallelGzip<W> {
    inner: W,
    level: u32,
    header_written: bool,
    /// The block being filled.
    block: Vec<u8>,
    /// The one before it, whose end is the dictionary.
    previous: Arc<Vec<u8>>,
    /// Blocks on their way, oldest first.
    in_flight: VecDeque<Receiver<io::Result<Done>>>,
    crc: Crc,
}

struct Done {
    output: Vec<u8>,
    crc: Crc,
}

impl<W: Write> ParallelGzip<W> {
    pub(super) fn new(inner: W, level: u32) -> Self {
        Self {
            inner,
            level,
            header_written: false,
            block: Vec::with_capacity(BLOCK),
            previous: Arc::default(),
            in_flight: VecDeque::new(),
            crc: Crc::new(),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.dispatch()?;
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        self.write_header()?;
        self.inner.write_all(&LAST_BLOCK)?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }

    /// Hands the full block to a thread, first waiting for the oldest one when enough are under way.
    fn dispatch(&mut self) -> io::Result<()> {
        if self.in_flight.len() > 2 * rayon::current_num_threads() {
            self.collect()?;
        }
        let block = Arc::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        let previous = std::mem::replace(&mut self.previous, block.clone());
        let (sender, receiver) = sync_channel(1);
        let level = self.level;
        rayon::spawn(move || {
            let dictionary = &previous[previous.len().saturating_sub(WINDOW)..];
            // The receiver is gone only when nobody wants the result any more.
            drop(sender.send(compress_block(&block, dictionary, level)));
        });
        self.in_flight.push_back(receiver);
        Ok(())
    }

    /// Writes out the oldest block.
    fn collect(&mut self) -> io::Result<()> {
        let Some(oldest) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let done = oldest
            .recv()
            .map_err(|_| io::Error::other("a compression thread died"))??;
        self.write_header()?;
        self.crc.combine(&done.crc);
        self.inner.write_all(&done.output)
    }

    fn write_header(&mut self) -> io::Result<()> {
        if !self.header_written {
            self.header_written = true;
            self.inner.write_all(&HEADER)?;
        }
        Ok(())
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&buf[..n]);
        if self.block.len() == BLOCK {
            self.dispatch()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses one block into whole bytes of deflate blocks, none of them the last.
fn compress_block(block: &[u8], dictionary: &[u8], level: u32) -> io::Result<Done> {
    let mut output = Vec::with_capacity(block.len() / 2 + 1024);
    let mut start = 0;
    while start < block.len() {
        let (end, is_stored) = next_run(block, start, level);
        if is_stored {
            store(&block[start..end], &mut output);
        } else if start == 0 {
            deflate(&block[..end], dictionary, level, &mut output)?;
        } else {
            deflate(
                &block[start..end],
                &block[start.saturating_sub(WINDOW)..start],
                level,
                &mut output,
            )?;
        }
        start = end;
    }
    let mut crc = Crc::new();
    crc.update(block);
    Ok(Done { output, crc })
}

/// The end of the run of stretches that are all stored, or all compressed.
fn next_run(block: &[u8], start: usize, level: u32) -> (usize, bool) {
    let kind = |at: usize| level == 0 || is_incompressible(&block[at..block.len().min(at + STRETCH)]);
    let is_stored = kind(start);
    let mut end = start + STRETCH;
    while end < block.len() && kind(end) == is_stored {
        end += STRETCH;
    }
    (end.min(block.len()), is_stored)
}

/// Whether a sample from the middle of `stretch` hardly shrinks.
fn is_incompressible(stretch: &[u8]) -> bool {
    if stretch.len() < SAMPLE {
        return false;
    }
    let middle = (stretch.len() - SAMPLE) / 2;
    let sample = &stretch[middle..middle + SAMPLE];
    // Text and machine code do not come near this; only then is the trial worth its time.
    if !has_flat_histogram(sample) {
        return false;
    }
    let mut trial = Vec::with_capacity(SAMPLE + 1024);
    deflate(sample, &[], 1, &mut trial).is_ok() && trial.len() * 100 > SAMPLE * 98
}

/// Whether all byte values occur about equally often: the sum of squared counts of random bytes is close to
/// `n²/256`, anything with structure is well above.
fn has_flat_histogram(sample: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let squares: u64 = counts.iter().map(|n| n * n).sum();
    let n = sample.len() as u64;
    squares * 256 < n * n * 3 / 2
}

fn store(mut data: &[u8], output: &mut Vec<u8>) {
    while !data.is_empty() {
        let (chunk, rest) = data.split_at(data.len().min(STORED_MAX));
        let length = chunk.len() as u16; // at most STORED_MAX
        output.push(0);
        output.extend_from_slice(&length.to_le_bytes());
        output.extend_from_slice(&(!length).to_le_bytes());
        output.extend_from_slice(chunk);
        data = rest;
    }
}

fn deflate(data: &[u8], dictionary: &[u8], level: u32, output: &mut Vec<u8>) -> io::Result<()> {
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary).map_err(io::Error::other)?;
    }
    loop {
        output.reserve(64 * 1024);
        let consumed = usize::try_from(compress.total_in()).unwrap_or(data.len());
        let status = compress.compress_vec(&data[consumed..], output, FlushCompress::Sync);
        let is_done = compress.total_in() == data.len() as u64 && output.len() < output.capacity();
        match status.map_err(io::Error::other)? {
            // Room is left, so everything was consumed and flushed.
            Status::Ok | Status::BufError if is_done => return Ok(()),
            Status::Ok | Status::BufError => {}
            Status::StreamEnd => return Err(io::Error::other("deflate stream ended early")),
        }
    }
}
