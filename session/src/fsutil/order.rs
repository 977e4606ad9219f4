//! The order in which entries travel: each directory before its children, siblings bytewise by name.

use std::cmp::Ordering;

/// Compares two clean relative paths; the separator ranks below every other byte.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    a.bytes().map(rank).cmp(b.bytes().map(rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_precede_longer_siblings() {
        let ordered = ["a", "a/b", "a/b/c", "a/c", "a b", "a.txt", "a0", "b"];
        for pair in ordered.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare("a", "a"), Ordering::Equal);
    }
}
