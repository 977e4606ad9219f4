//! The 512-byte header block: where its fields are, and its checksum.

use std::ops::Range;

use super::entry::BLOCK;
use super::number;

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const DEV_MAJOR: Range<usize> = 329..337;
pub(super) const DEV_MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;
/// star's shorter prefix, before its own times.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

/// Magic and version of POSIX archives.
pub(super) const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

pub(super) type Block = [u8; BLOCK];

/// The dialect of a header, which decides what the bytes after the link name mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

pub(super) fn dialect(block: &Block) -> Dialect {
    match &block[MAGIC] {
        magic if magic == GNU => Dialect::Gnu,
        magic if magic.starts_with(b"ustar\0") && &block[STAR_TRAILER] == b"tar\0" => Dialect::Star,
        magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
        _ => Dialect::V7,
    }
}

/// The name, with the prefix that POSIX splits off long ones.
pub(super) fn full_name(block: &Block) -> Vec<u8> {
    let name = text(&block[NAME]);
    let prefix = match dialect(block) {
        Dialect::Ustar => text(&block[PREFIX]),
        Dialect::Star => text(&block[STAR_PREFIX]),
        Dialect::Gnu | Dialect::V7 => b"",
    };
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// A text field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// Whether the checksum is right, counting bytes as unsigned or, as some old writers did, as signed.
pub(super) fn checksum_holds(block: &Block) -> bool {
    let (unsigned, signed) = checksums(block);
    number::parse(&block[CHECKSUM]).is_some_and(|stored| stored == unsigned || stored == signed)
}

/// Fills in the checksum: six octal digits, NUL, space.
pub(super) fn set_checksum(block: &mut Block) {
    let (unsigned, _) = checksums(block);
    let text = format!("{unsigned:06o}\0 ");
    block[CHECKSUM].copy_from_slice(text.as_bytes());
}

/// The sums over the block with the checksum field itself taken as spaces.
fn checksums(block: &Block) -> (i64, i64) {
    let mut sums = (0, 0);
    for (i, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&i) { b' ' } else { *byte };
        sums.0 += i64::from(byte);
        sums.1 += i64::from(byte.cast_signed());
    }
    sums
}
