//! The order in which entries travel: each directory before its children, siblings bytewise by name.

use std::cmp::Ordering;

/// Compares two clean relative paths; the separator ranks below every other byte.
#[must_use]
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    a.iter().copied().map(rank).cmp(b.iter().copied().map(rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_precede_longer_siblings() {
        let ordered: [&[u8]; 10] = [
            b"a", b"a/b", b"a/b/c", b"a/c", b"a b", b"a.txt", b"a0", b"a\xe9", b"b", b"\xff",
        ];
        for pair in ordered.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare(b"a", b"a"), Ordering::Equal);
    }
}
