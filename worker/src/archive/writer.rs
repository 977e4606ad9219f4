//! Writing tar streams.
//!
//! The bytes are a function of the entries alone. Headers are POSIX ustar; an extended header precedes an entry only
//! when something does not fit there, as Go's `archive/tar` does in PAX format.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::entry::{BLOCK, Device, Entry, EntryKind, Mtime};
use super::error::ArchiveError;
use super::header::{self, Block};
use super::{number, pax};

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes entries one after another. Call [`TarWriter::finish`] for the end marker.
#[derive(Debug)]
pub struct TarWriter<W> {
    inner: W,
}

impl<W: Write> TarWriter<W> {
    /// Writes an uncompressed stream to `inner`.
    pub const fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes one entry; `data` must give exactly `entry.size` bytes. Holes are written out as zeros.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`] for an entry that tar cannot express, [`ArchiveError::Read`] when `data` is
    /// shorter or fails, [`ArchiveError::Write`].
    pub fn append(&mut self, entry: &Entry, data: impl Read) -> Result<(), ArchiveError> {
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        self.header(entry, size)?;
        let mut buffer = vec![0; usize::try_from(size.clamp(1, 256 * 1024)).unwrap_or(1)];
        let mut data = data.take(size);
        let mut written = 0;
        while written < size {
            let n = data.read(&mut buffer).map_err(ArchiveError::Read)?;
            if n == 0 {
                return Err(ArchiveError::Read(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("\"{}\" shrank while it was archived", entry.display_path()),
                )));
            }
            self.write(&buffer[..n])?;
            written += n as u64;
        }
        self.pad(size)
    }

    /// Writes the end marker and gives the stream back.
    ///
    /// # Errors
    /// [`ArchiveError::Write`].
    pub fn finish(mut self) -> Result<W, ArchiveError> {
        self.write(&ZEROS)?;
        self.write(&ZEROS)?;
        self.inner.flush().map_err(ArchiveError::Write)?;
        Ok(self.inner)
    }

    fn header(&mut self, entry: &Entry, size: u64) -> Result<(), ArchiveError> {
        let mut records = extended_records(entry, size)?;
        // A path that has room in two fields needs no record, unless there are others.
        let parts = split(&entry.path).filter(|_| records.len() == 1);
        if parts.is_some() {
            records.clear();
        }
        if !records.is_empty() {
            let mut body = Vec::new();
            for (key, value) in &records {
                pax::push_record(&mut body, key, value);
            }
            let mut block = new_block(&extended_name(&entry.path), b'x');
            number::write_octal(&mut block[header::SIZE], body.len() as u64);
            header::set_checksum(&mut block);
            self.write(&block)?;
            self.write(&body)?;
            self.pad(body.len() as u64)?;
        }
        let (prefix, name) = parts.unwrap_or((b"", &entry.path));
        let block = entry_block(entry, size, prefix, name);
        self.write(&block)
    }

    fn pad(&mut self, size: u64) -> Result<(), ArchiveError> {
        self.write(padding(size))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.inner.write_all(bytes).map_err(ArchiveError::Write)
    }
}

/// Writes only what stands in front of an entry's data, for those who write the data themselves.
///
/// # Errors
/// [`ArchiveError::Refused`] for an entry that tar cannot express, [`ArchiveError::Write`].
pub fn write_header(entry: &Entry, writer: impl Write) -> Result<(), ArchiveError> {
    let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
    TarWriter::new(writer).header(entry, size)
}

/// What follows `size` bytes of data up to the next block.
pub fn padding(size: u64) -> &'static [u8] {
    match (size % BLOCK as u64) as usize {
        0 => &[],
        over => &ZEROS[over..],
    }
}

/// What of `entry` does not fit an ustar header, sorted by key.
fn extended_records(entry: &Entry, size: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, ArchiveError> {
    let mut records = BTreeMap::new();
    let mut add = |key: &[u8], value: Vec<u8>| drop(records.insert(key.to_vec(), value));
    if entry.path.is_empty() || entry.path.contains(&0) {
        return Err(ArchiveError::refused(&entry.path, "empty name, or NUL in the name"));
    }
    if !fits_text(&entry.path, header::NAME.len()) {
        add(b"path", entry.path.clone());
    }
    let link = link_of(entry);
    if link.contains(&0) {
        return Err(ArchiveError::refused(&entry.path, "NUL in the link target"));
    }
    if !fits_text(link, header::LINK.len()) {
        add(b"linkpath", link.to_vec());
    }
    if !number::fits(12, size) {
        add(b"size", size.to_string().into_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if !number::fits(8, u64::from(id)) {
            add(key, id.to_string().into_bytes());
        }
    }
    if !fits_time(entry.mtime) {
        add(b"mtime", pax::format_time(entry.mtime).into_bytes());
    }
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return Err(ArchiveError::refused(
                &entry.path,
                "extended attribute name that tar cannot express",
            ));
        }
        add(&[pax::XATTR, name].concat(), value.clone());
    }
    match device_of(entry) {
        Some(Device { major, minor }) if !number::fits(8, u64::from(major)) || !number::fits(8, u64::from(minor)) => {
            Err(ArchiveError::refused(
                &entry.path,
                "device number that tar cannot express",
            ))
        }
        _ => Ok(records),
    }
}

fn entry_block(entry: &Entry, size: u64, prefix: &[u8], name: &[u8]) -> Block {
    let or_zero = |width, value| if number::fits(width, value) { value } else { 0 };
    let mut block = new_block(name, type_of(entry));
    write_text(&mut block[header::PREFIX], prefix);
    number::write_octal(&mut block[header::MODE], u64::from(entry.mode & 0o7777));
    number::write_octal(&mut block[header::UID], or_zero(8, u64::from(entry.uid)));
    number::write_octal(&mut block[header::GID], or_zero(8, u64::from(entry.gid)));
    number::write_octal(&mut block[header::SIZE], or_zero(12, size));
    let seconds = u64::try_from(entry.mtime.seconds).unwrap_or_default();
    number::write_octal(&mut block[header::MTIME], or_zero(12, seconds));
    write_text(&mut block[header::LINK], link_of(entry));
    let device = device_of(entry).unwrap_or(Device { major: 0, minor: 0 });
    number::write_octal(&mut block[header::DEV_MAJOR], u64::from(device.major));
    number::write_octal(&mut block[header::DEV_MINOR], u64::from(device.minor));
    header::set_checksum(&mut block);
    block
}

/// A header with a name, and all numbers zero but those of a device, which extended headers do not have.
fn new_block(name: &[u8], kind: u8) -> Block {
    let mut block = [0; BLOCK];
    write_text(&mut block[header::NAME], name);
    for field in [header::MODE, header::UID, header::GID] {
        number::write_octal(&mut block[field], 0);
    }
    for field in [header::SIZE, header::MTIME] {
        number::write_octal(&mut block[field], 0);
    }
    block[header::TYPE] = kind;
    block[header::MAGIC].copy_from_slice(header::USTAR);
    header::set_checksum(&mut block);
    block
}

/// The name of the extended header itself, for readers that do not know what it is.
fn extended_name(path: &[u8]) -> Vec<u8> {
    // Of a directory's path, which ends in a slash, the base is empty.
    let base = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let (dir, base) = path.split_at(base);
    let mut name = [dir, b"PaxHeaders.0/", base].concat();
    name.retain(u8::is_ascii);
    name.truncate(header::NAME.len());
    while name.last() == Some(&b'/') {
        name.pop();
    }
    name
}

/// A path that is too long for one field, as what goes into the prefix and into the name: at the last slash that leaves
/// no more than the prefix has room for, as in Go's `archive/tar`.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= header::NAME.len() || !path.is_ascii() {
        return None;
    }
    let within = if path.len() > header::PREFIX.len() + 1 {
        &path[..=header::PREFIX.len()]
    } else {
        path.strip_suffix(b"/").unwrap_or(path)
    };
    let slash = within.iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && !name.is_empty() && name.len() <= header::NAME.len()).then_some((prefix, name))
}

/// Writes what fits of the ASCII part of `text`. A cut name must not end in a slash: old readers would take the
/// entry for a directory.
fn write_text(field: &mut [u8], text: &[u8]) {
    let ascii: Vec<u8> = text.iter().copied().filter(u8::is_ascii).collect();
    let mut cut = &ascii[..ascii.len().min(field.len())];
    if ascii.len() > field.len() {
        while let Some(shorter) = cut.strip_suffix(b"/") {
            cut = shorter;
        }
    }
    field[..cut.len()].copy_from_slice(cut);
}

fn fits_text(text: &[u8], width: usize) -> bool {
    text.len() <= width && text.is_ascii()
}

fn fits_time(mtime: Mtime) -> bool {
    mtime.nanos == 0 && u64::try_from(mtime.seconds).is_ok_and(|seconds| number::fits(12, seconds))
}

const fn type_of(entry: &Entry) -> u8 {
    match entry.kind {
        EntryKind::File => b'0',
        EntryKind::Hardlink(_) => b'1',
        EntryKind::Symlink(_) => b'2',
        EntryKind::CharDevice(_) => b'3',
        EntryKind::BlockDevice(_) => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

fn link_of(entry: &Entry) -> &[u8] {
    match &entry.kind {
        EntryKind::Hardlink(target) | EntryKind::Symlink(target) => target,
        _ => b"",
    }
}

const fn device_of(entry: &Entry) -> Option<Device> {
    match entry.kind {
        EntryKind::CharDevice(device) | EntryKind::BlockDevice(device) => Some(device),
        _ => None,
    }
}
