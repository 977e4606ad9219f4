//! eStargz: gzip in which every file can be reached without reading what is in front of it.
//!
//! The blob is an ordinary gzip of an ordinary tar. Its data are cut into gzip members, so that each file, and each
//! 4 MiB of a large one, begins a member; the last file of the tar is a table of contents; and an empty member at the
//! end says where that is. See "eStargz: Standard-Compatible Extension to Container Image Layers".

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use base64::Engine as _;
use cairn_solver::Digest;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::Serialize;

use super::{CompressedLayer, Compression, CompressionError};
use crate::archive::{ArchiveError, Entry, EntryKind, Times, copy_entries, padding, write_header};
use crate::content::{ContentError, ContentStore, Ingest, Sha256Hasher};
use crate::text::replaced;

/// The tar entry with the table of contents.
const TOC_NAME: &str = "stargz.index.json";
/// First entry of a blob of which nothing is to be fetched ahead.
const NO_PREFETCH: &str = ".no.prefetch.landmark";
/// Entry up to which a blob is to be fetched ahead.
const PREFETCH: &str = ".prefetch.landmark";
/// What both of them hold.
const LANDMARK: [u8; 1] = [0xf];
/// Most bytes that a member holds of one file.
const CHUNK: u64 = 4 << 20;

/// Annotation of a layer: digest of its table of contents.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of a layer: its length when it is unpacked.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// A finished layer blob with a table of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EstargzLayer {
    /// The blob.
    pub layer: CompressedLayer,
    /// Digest of the table of contents.
    pub toc: Digest,
}

/// Why a blob with a table of contents cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EstargzError {
    /// The layer is no tar, or a broken one.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The blob cannot be written.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The table of contents cannot be written down.
    #[error("failed to write the table of contents")]
    Json(#[from] serde_json::Error),
}

impl From<ContentError> for EstargzError {
    fn from(error: ContentError) -> Self {
        Self::Compression(error.into())
    }
}

/// Writes the layer `tar`, which is not compressed, into `store`. It has two entries more there, so it is another layer.
///
/// # Errors
/// [`EstargzError`]; nothing is stored then.
pub fn estargz(
    tar: impl Read,
    level: Option<i32>,
    times: Times,
    store: &ContentStore,
) -> Result<EstargzLayer, EstargzError> {
    let level = Compression::Gzip.checked_level(level)?.unsigned_abs();
    let mut writer = Writer {
        members: Members {
            stage: Stage::Between(Counted {
                ingest: store.ingest()?,
                written: 0,
            }),
            level: flate2::Compression::new(level),
            plain: Sha256Hasher::new(),
        },
        toc: Vec::new(),
    };
    let landmark = Entry {
        size: LANDMARK.len() as u64,
        ..Entry::new(NO_PREFETCH, EntryKind::File, 0o644)
    };
    writer.entry(&landmark, &mut &LANDMARK[..])?;
    copy_entries(tar, times, |entry, data| {
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        // From a blob that was of this kind already.
        let is_ours = [TOC_NAME, NO_PREFETCH, PREFETCH]
            .iter()
            .any(|ours| name == ours.as_bytes());
        if is_ours { Ok(()) } else { writer.entry(entry, data) }
    })?;
    writer.finish()
}

#[derive(Serialize)]
struct Toc {
    version: u32,
    entries: Vec<TocEntry>,
}

/// An entry of the table of contents; fields that are zero are left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

struct Writer {
    members: Members,
    toc: Vec<TocEntry>,
}

impl Writer {
    fn entry(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), EstargzError> {
        write_header(entry, &mut self.members)?;
        let first = self.toc.len();
        self.toc.push(describe(entry));
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        if size == 0 {
            return Ok(());
        }
        let mut whole = Sha256Hasher::new();
        let mut done = 0;
        while done < size {
            let length = (size - done).min(CHUNK);
            let offset = self.members.next().map_err(CompressionError::Write)?;
            let digest = self.chunk(data, length, &mut whole, entry)?;
            if done > 0 {
                self.toc.push(TocEntry {
                    name: self.toc[first].name.clone(),
                    kind: "chunk",
                    chunk_offset: done,
                    ..TocEntry::default()
                });
            }
            if let Some(described) = self.toc.last_mut() {
                described.offset = offset;
                described.chunk_digest = Some(digest);
                // What is missing means: up to the end of the file.
                described.chunk_size = if length < size - done { length } else { 0 };
            }
            done += length;
        }
        self.toc[first].digest = Some(whole.digest());
        self.write(padding(size))
    }

    /// Copies `length` bytes of a file.
    fn chunk(
        &mut self,
        data: &mut dyn Read,
        length: u64,
        whole: &mut Sha256Hasher,
        entry: &Entry,
    ) -> Result<Digest, EstargzError> {
        let mut hasher = Sha256Hasher::new();
        let mut buffer = vec![0; usize::try_from(length.min(256 << 10)).unwrap_or(1)];
        let mut data = data.take(length);
        while hasher.length() < length {
            let n = data.read(&mut buffer).map_err(ArchiveError::Read)?;
            if n == 0 {
                let text = format!("\"{}\" ended early", entry.display_path());
                return Err(ArchiveError::Read(io::Error::new(io::ErrorKind::UnexpectedEof, text)).into());
            }
            hasher.update(&buffer[..n]);
            whole.update(&buffer[..n]);
            self.write(&buffer[..n])?;
        }
        Ok(hasher.digest())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), EstargzError> {
        self.members.write_all(bytes).map_err(CompressionError::Write)?;
        Ok(())
    }

    fn finish(mut self) -> Result<EstargzLayer, EstargzError> {
        let toc = serde_json::to_vec(&Toc {
            version: 1,
            entries: std::mem::take(&mut self.toc),
        })?;
        let offset = self.members.next().map_err(CompressionError::Write)?;
        let entry = Entry {
            size: toc.len() as u64,
            ..Entry::new(TOC_NAME, EntryKind::File, 0o644)
        };
        write_header(&entry, &mut self.members)?;
        self.write(&toc)?;
        self.write(padding(entry.size))?;
        self.write(&[0; 1024])?;
        let (mut counted, plain) = self.members.finish().map_err(CompressionError::Write)?;
        counted.write_all(&footer(offset)).map_err(CompressionError::Write)?;
        let blob = counted.ingest.commit(None, None)?;
        Ok(EstargzLayer {
            layer: CompressedLayer {
                digest: blob.digest,
                size: blob.size,
                diff_id: plain.digest(),
                uncompressed_size: plain.length(),
                compression: Compression::Gzip,
            },
            toc: Digest::sha256(&toc),
        })
    }
}

fn describe(entry: &Entry) -> TocEntry {
    let (kind, link, device) = match &entry.kind {
        EntryKind::File => ("reg", None, None),
        EntryKind::Directory => ("dir", None, None),
        EntryKind::Symlink(target) => ("symlink", Some(target), None),
        EntryKind::Hardlink(target) => ("hardlink", Some(target), None),
        EntryKind::CharDevice(device) => ("char", None, Some(device)),
        EntryKind::BlockDevice(device) => ("block", None, Some(device)),
        EntryKind::Fifo => ("fifo", None, None),
    };
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    // A time of zero is none.
    let time = Some(entry.mtime.seconds).filter(|seconds| *seconds != 0);
    TocEntry {
        name: replaced(&entry.path),
        kind,
        size: if kind == "reg" { entry.size } else { 0 },
        modtime: time
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .map(|time| time.to_string()),
        link_name: link.map(|link| replaced(link)).unwrap_or_default(),
        mode: entry.mode.into(),
        uid: entry.uid.into(),
        gid: entry.gid.into(),
        dev_major: device.map_or(0, |device| device.major.into()),
        dev_minor: device.map_or(0, |device| device.minor.into()),
        xattrs: entry
            .xattrs
            .iter()
            .map(|(name, value)| (replaced(name), encode(value)))
            .collect(),
        ..TocEntry::default()
    }
}

/// An empty gzip member whose extra field says where the table of contents begins.
fn footer(offset: u64) -> Vec<u8> {
    // Magic, deflate, an extra field, no time, no flags, unknown operating system; the field is 26 bytes long and
    // holds one subfield SG of 22.
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    footer.extend_from_slice(format!("{offset:016x}STARGZ").as_bytes());
    // A last block that stores nothing; checksum and length of nothing.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer.extend_from_slice(&[0; 8]);
    footer
}

/// Gzip members, one after another.
struct Members {
    stage: Stage,
    level: flate2::Compression,
    plain: Sha256Hasher,
}

enum Stage {
    Between(Counted),
    Inside(Box<GzEncoder<Counted>>),
    /// Writing failed; nothing more can be.
    Broken,
}

impl Members {
    /// Ends the member that is open, and says where the next one begins.
    fn next(&mut self) -> io::Result<u64> {
        let counted = match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Between(counted) => counted,
            Stage::Inside(encoder) => encoder.finish()?,
            Stage::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let offset = counted.written;
        self.stage = Stage::Between(counted);
        Ok(offset)
    }

    fn finish(mut self) -> io::Result<(Counted, Sha256Hasher)> {
        self.next()?;
        match self.stage {
            Stage::Between(counted) => Ok((counted, self.plain)),
            Stage::Inside(_) | Stage::Broken => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Write for Members {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Stage::Between(_) = self.stage
            && let Stage::Between(counted) = std::mem::replace(&mut self.stage, Stage::Broken)
        {
            self.stage = Stage::Inside(Box::new(GzEncoder::new(counted, self.level)));
        }
        let Stage::Inside(encoder) = &mut self.stage else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let n = encoder.write(buf)?;
        self.plain.update(&buf[..n]);
        Ok(n)
    }

    /// Does nothing: flushing in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blob in the making, and how long it is.
struct Counted {
    ingest: Ingest,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.ingest.write(buf)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ingest.flush()
    }
}
