//! Names of files as text, for what is JSON.

/// Replaces what is no text, byte by byte, as others do who write names into JSON.
pub(crate) fn replaced(name: &[u8]) -> String {
    let chunks = name.utf8_chunks();
    let parts = chunks.flat_map(|chunk| [chunk.valid().to_owned(), "\u{fffd}".repeat(chunk.invalid().len())]);
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn every_byte_is_replaced_by_itself() {
        for (name, want) in [
            ("né".as_bytes(), "né"),
            (b"n\xe9", "n\u{fffd}"),
            (b"\xe2\x98a", "\u{fffd}\u{fffd}a"),
            (b"", ""),
        ] {
            assert_eq!(replaced(name), want);
        }
    }
}
