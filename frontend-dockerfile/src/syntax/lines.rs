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

    /// Whether it is longer than a line may be; a carriage return counts, the newline does not.
    pub(super) fn is_too_long(&self) -> bool {
        self.raw.strip_suffix(b"\n").unwrap_or(self.raw).len() > MAX_LINE_BYTES
    }

    /// Whether `#` is the first character that is no blank. A line that is no text may be a comment all the same.
    pub(super) fn is_comment(&self) -> bool {
        let content = self.content();
        match str::from_utf8(content) {
            Ok(text) => text.trim_start().starts_with('#'),
            Err(_) => content.trim_ascii_start().starts_with(b"#"),
        }
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
