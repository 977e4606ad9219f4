//! Going through an archive to write it anew.

use std::io::{self, Read};

use super::entry::{Entry, Segment};
use super::error::ArchiveError;
use super::pack::Times;
use super::reader::TarReader;

/// Hands every entry of the uncompressed archive `tar` and its data to `each`, in order. Files with holes come without:
/// their data are as long as the file.
///
/// # Errors
/// Those of [`TarReader`], and of `each`.
pub fn copy_entries<E: From<ArchiveError>>(
    tar: impl Read,
    times: Times,
    mut each: impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = TarReader::new(tar);
    while let Some(mut entry) = reader.next_entry()? {
        entry.mtime = times.apply(entry.mtime);
        match entry.sparse.take() {
            None => each(&entry, &mut reader)?,
            Some(segments) => each(&entry, &mut Filled::new(&mut reader, segments, entry.size))?,
        }
    }
    // So that whatever is wrong with the end of the stream is seen, too.
    reader.into_rest()?;
    Ok(())
}

/// A file with zeros in the place of its holes.
struct Filled<R> {
    packed: R,
    /// What is left of the segments, last one first.
    segments: Vec<Segment>,
    position: u64,
    size: u64,
}

impl<R: Read> Filled<R> {
    fn new(packed: R, mut segments: Vec<Segment>, size: u64) -> Self {
        segments.reverse();
        Self {
            packed,
            segments,
            position: 0,
            size,
        }
    }
}

impl<R: Read> Read for Filled<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(segment) = self.segments.last() {
            if self.position < segment.offset + segment.length {
                break;
            }
            self.segments.pop();
        }
        let (end, is_hole) = match self.segments.last() {
            Some(segment) if self.position < segment.offset => (segment.offset, true),
            Some(segment) => (segment.offset + segment.length, false),
            None => (self.size, true),
        };
        let left = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let n = if is_hole {
            buf[..wanted].fill(0);
            wanted
        } else {
            self.packed.read(&mut buf[..wanted])?
        };
        if n == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EntryKind, Mtime, TarWriter};
    use super::*;

    #[test]
    fn holes_are_filled() {
        let segment = |offset, length| Segment { offset, length };
        for (segments, packed, want) in [
            (vec![], &b""[..], &b"\0\0\0\0\0\0\0\0"[..]),
            (vec![segment(0, 2), segment(4, 1)], b"abc", b"ab\0\0c\0\0\0"),
            (vec![segment(3, 5)], b"abcde", b"\0\0\0abcde"),
            (
                vec![segment(0, 0), segment(2, 1), segment(3, 1), segment(8, 0)],
                b"xy",
                b"\0\0xy\0\0\0\0",
            ),
        ] {
            let mut read = Vec::new();
            Filled::new(packed, segments, 8).read_to_end(&mut read).unwrap();
            assert_eq!(read, want);
        }
        let mut short = Filled::new(&b"a"[..], vec![segment(0, 2)], 2);
        assert!(short.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn only_later_times_change() {
        let mut tar = TarWriter::new(Vec::new());
        for (name, seconds, nanos) in [("old", 5, 9), ("edge", 10, 0), ("just", 10, 1), ("new", 99, 0)] {
            let entry = Entry {
                mtime: Mtime { seconds, nanos },
                size: 1,
                ..Entry::new(name, EntryKind::File, 0o644)
            };
            tar.append(&entry, &b"x"[..]).unwrap();
        }
        let bytes = tar.finish().unwrap();
        let times = |times| {
            let mut seen = Vec::new();
            copy_entries::<ArchiveError>(&bytes[..], times, |entry, data| {
                assert_eq!(data.read_to_end(&mut Vec::new()).unwrap(), 1);
                seen.push((entry.mtime.seconds, entry.mtime.nanos));
                Ok(())
            })
            .unwrap();
            seen
        };
        assert_eq!(times(Times::Keep), [(5, 9), (10, 0), (10, 1), (99, 0)]);
        assert_eq!(times(Times::AtMost(10)), [(5, 9), (10, 0), (10, 0), (10, 0)]);
        assert_eq!(times(Times::All(7)), [(7, 0); 4]);
        assert!(copy_entries::<ArchiveError>(&bytes[..700], Times::Keep, |_, _| Ok(())).is_err());
    }
}
