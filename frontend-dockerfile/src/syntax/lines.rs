//! Physical lines.

/// Longest physical line.
pub(super) const MAX_LINE_BYTES: usize = 65_535;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One physical line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: u32,
    /// As it is in the file, with its terminator.
    pub(super) raw: &'a [u8],
}

impl<'a> Line<'a> {
    /// Without its terminator.
    pub(super) fn content(&self) -> &'a [u8] {
        trim_terminator(self.raw)
    }

    pub(super) fn is_comment(&self) -> bool {
        self.content().trim_ascii_start().starts_with(b"#")
    }
}

/// The lines of a file, without the byte order mark it may begin with.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    bytes
        .split_inclusive(|&b| b == b'\n')
        .zip(1..)
        .map(|(raw, number)| Line { number, raw })
}

fn trim_terminator(mut raw: &[u8]) -> &[u8] {
    while let [head @ .., b'\n' | b'\r'] = raw {
        raw = head;
    }
    raw
}
