//! Wildcards in one path, as `COPY d/*.txt` means them: Go's `filepath.Match`.
//!
//! `*` is any run of characters and `?` one character, neither of them `/`; `[a-z]` and `[^a-z]` are
//! classes; `\` takes the next character literally. There is no `**`, and the pattern has to match
//! the whole path.

use crate::error::PatternError;
use crate::rune;
use crate::token::{BadPattern, Class};

/// Whether `path` contains a character that makes it a pattern.
#[must_use]
pub fn has_wildcard(path: impl AsRef<[u8]>) -> bool {
    let mut bytes = path.as_ref().iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether `pattern` matches the whole of `path`.
///
/// # Errors
/// [`PatternError::Syntax`] if the pattern is malformed, whether or not that part is reached.
pub fn matches(pattern: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<bool, PatternError> {
    Ok(Glob::new(pattern)?.matches(path))
}

/// A parsed pattern, for matching it against many paths.
#[derive(Debug, Clone)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone)]
enum Token {
    Literal(char),
    AnyChar,
    Star,
    Class(Class),
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Literal(want) => *want == c,
            Self::AnyChar => c != '/',
            Self::Class(class) => class.contains(c),
            Self::Star => false,
        }
    }
}

impl Glob {
    /// Parses `pattern`.
    ///
    /// # Errors
    /// [`PatternError::Syntax`] if the pattern is malformed.
    pub fn new(pattern: impl AsRef<[u8]>) -> Result<Self, PatternError> {
        let pattern = pattern.as_ref();
        parse(&rune::text(pattern))
            .map(Self)
            .map_err(|BadPattern| PatternError::Syntax {
                pattern: String::from_utf8_lossy(pattern).into_owned(),
            })
    }

    /// Whether this pattern matches the whole of `path`.
    ///
    /// Takes time proportional to the product of both lengths at worst: only the latest `*` is ever
    /// retried, which is enough because a later one could only begin further right.
    #[must_use]
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let tokens = &self.0;
        let (mut at, mut rest) = (0, path.as_ref());
        let mut retry: Option<(usize, &[u8])> = None;
        loop {
            let head = rune::first(rest);
            match (tokens.get(at), head) {
                (Some(Token::Star), _) => {
                    at += 1;
                    retry = Some((at, rest));
                    continue;
                }
                (Some(token), Some((c, length))) if token.accepts(c) => {
                    at += 1;
                    rest = &rest[length..];
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match retry {
                Some((after_star, from)) => match rune::first(from) {
                    Some((c, length)) if c != '/' => {
                        rest = &from[length..];
                        at = after_star;
                        retry = Some((after_star, rest));
                    }
                    _ => return false,
                },
                None => return false,
            }
        }
    }
}

fn parse(pattern: &str) -> Result<Vec<Token>, BadPattern> {
    let mut chars = pattern.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => {
                while chars.next_if_eq(&'*').is_some() {}
                Token::Star
            }
            '?' => Token::AnyChar,
            '[' => Token::Class(Class::parse(&mut chars)?),
            '\\' => Token::Literal(chars.next().ok_or(BadPattern)?),
            c => Token::Literal(c),
        });
    }
    Ok(tokens)
}

/// Refuses a pattern that is malformed up to the second `*`: other builders look no further before they match with it.
pub(crate) fn check_beginning(pattern: &str) -> Result<(), BadPattern> {
    let mut chars = pattern.trim_start_matches('*').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => break,
            '[' => {
                Class::parse(&mut chars)?;
            }
            '\\' => {
                chars.next().ok_or(BadPattern)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_path_matching() {
        for (pattern, path, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("**/z", "y/z", true),
            ("**/z", "z", false),
            ("**/z", "x/y/z", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[!c]", "ab!", true),
            ("[[]", "[", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a?b", "a/b", false),
            ("[a-ζ]*", "α", true),
            ("", "", true),
            ("x", "", false),
            ("*x", "xxx", true),
            (".*", ".hid", true),
        ] {
            assert_eq!(matches(pattern, path), Ok(want), "{pattern:?} against {path:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_matched_byte_by_byte() {
        for (pattern, path, want) in [
            (&b"caf*"[..], &b"caf\xe9.txt"[..], true),
            (b"caf?.txt", b"caf\xe9.txt", true),
            (b"caf?.txt", b"caf\xe9\xe9.txt", false),
            (b"caf[^e].txt", b"caf\xe9.txt", true),
            (b"caf[a-z].txt", b"caf\xe9.txt", false),
            (b"*.txt", b"\xff\xfe.txt", true),
            ("caf\u{fffd}.txt".as_bytes(), b"caf\xe9.txt", false),
            ("café.txt".as_bytes(), b"caf\xe9.txt", false),
            (b"\xe9*", b"\xe9a", true),
            (b"\xe9*", b"\xe8a", false),
            (b"*\xe9", b"a\xe9", true),
        ] {
            let found = Glob::new(pattern).map(|glob| glob.matches(path));
            assert_eq!(found, Ok(want), "{pattern:x?} against {path:x?}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors_even_when_not_reached() {
        for pattern in [
            "[", "[a", "[]a]", "[-]", "[x-]", "[-x]", "a[", "\\", "[a-b-c]", "a[^", "[\\", "b[",
        ] {
            assert!(matches(pattern, "zzz").is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn wildcards_are_seen_unless_escaped() {
        assert!(has_wildcard("a/b*") && has_wildcard("a?") && has_wildcard("[a]"));
        assert!(!has_wildcard("a/b") && !has_wildcard("a\\*b") && !has_wildcard("a\\"));
    }

    #[test]
    fn many_stars_stay_cheap() {
        let pattern = "*a".repeat(2_000) + "b";
        assert_eq!(matches(pattern, "a".repeat(4_000)), Ok(false));
    }
}
