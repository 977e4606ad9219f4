//! Names as patterns see them: characters, or single bytes where a name is no text.
//!
//! File names are bytes. What is not UTF-8 in one still is something that `*`, `?` and `[^a]` match, byte by byte, and
//! that is equal to nothing but itself. So that patterns have one alphabet, such a byte is a `char` here: one of the
//! last private ones, which are in turn taken for the bytes that they are made of.

use std::borrow::Cow;

/// The byte 0 would be this character; only bytes beyond ASCII ever are.
const FIRST: u32 = 0x0010_FF00;
const FIRST_USED: char = '\u{10FF80}';

/// The first character of `name`, and how many bytes it takes.
pub(crate) fn first(name: &[u8]) -> Option<(char, usize)> {
    let byte = *name.first()?;
    if byte.is_ascii() {
        return Some((char::from(byte), 1));
    }
    let read = |length| {
        let text = std::str::from_utf8(name.get(..length)?).ok()?;
        text.chars().next().filter(|c| *c < FIRST_USED).map(|c| (c, length))
    };
    let found = (2..=4).find_map(read);
    found.or_else(|| Some((char::from_u32(FIRST + u32::from(byte))?, 1)))
}

/// All characters of `name`.
pub(crate) fn all(mut name: &[u8]) -> impl Iterator<Item = char> {
    std::iter::from_fn(move || {
        let (c, length) = first(name)?;
        name = &name[length..];
        Some(c)
    })
}

/// A pattern as text that holds the characters of this module.
pub(crate) fn text(pattern: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(pattern) {
        Ok(text) if !text.chars().any(|c| c >= FIRST_USED) => Cow::Borrowed(text),
        _ => Cow::Owned(all(pattern).collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_text_is_read_byte_by_byte() {
        let byte = |byte: u8| char::from_u32(FIRST + u32::from(byte)).unwrap();
        for (name, want) in [
            (&b"a/b"[..], vec!['a', '/', 'b']),
            ("é☺😀".as_bytes(), vec!['é', '☺', '😀']),
            (b"caf\xe9.", vec!['c', 'a', 'f', byte(0xe9), '.']),
            (b"\xe2\x98a", vec![byte(0xe2), byte(0x98), 'a']),
            ("\u{fffd}".as_bytes(), vec!['\u{fffd}']),
            (b"\xed\xa0\x80", vec![byte(0xed), byte(0xa0), byte(0x80)]),
        ] {
            assert_eq!(all(name).collect::<Vec<_>>(), want, "{name:x?}");
        }
    }

    proptest! {
        #[test]
        fn different_names_stay_different(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(text(&a) == text(&b), a == b);
        }

        #[test]
        fn text_is_its_characters(name: String) {
            prop_assume!(!name.chars().any(|c| c >= FIRST_USED));
            prop_assert_eq!(text(name.as_bytes()), name.as_str());
            prop_assert!(all(name.as_bytes()).eq(name.chars()));
        }
    }

    #[test]
    fn private_characters_do_not_pass_for_bytes() {
        assert_ne!(text("\u{10FFE9}".as_bytes()), text(b"\xe9"));
    }
}
