//! The pieces a pattern is made of, shared by both languages.

use std::iter::Peekable;
use std::str::Chars;

/// The pattern breaks the grammar; callers add the text of the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadPattern;

/// A bracket expression such as `[a-z]` or `[^0-9]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    pub(crate) fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|&(lo, hi)| lo <= c && c <= hi) != self.negated
    }

    /// Whether all characters beyond ASCII are the same to it.
    pub(crate) fn is_ascii(&self) -> bool {
        self.ranges.iter().all(|(lo, hi)| hi.is_ascii() || lo > hi)
    }

    /// What no character is in.
    pub(crate) const fn empty() -> Self {
        Self {
            negated: false,
            ranges: Vec::new(),
        }
    }

    /// The class that an escaped letter stands for in regular expressions.
    pub(crate) fn perl(letter: char) -> Option<Self> {
        let ranges = match letter.to_ascii_lowercase() {
            'd' => vec![('0', '9')],
            's' => vec![('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
            'w' => vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            _ => return None,
        };
        Some(Self {
            negated: letter.is_ascii_uppercase(),
            ranges,
        })
    }

    /// Parses what follows an opening `[`, up to and including the closing `]`.
    pub(crate) fn parse(chars: &mut Peekable<Chars<'_>>) -> Result<Self, BadPattern> {
        let negated = chars.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
            let lo = member(chars)?;
            let hi = if chars.next_if_eq(&'-').is_some() {
                member(chars)?
            } else {
                lo
            };
            ranges.push((lo, hi));
        }
        Ok(Self { negated, ranges })
    }
}

fn member(chars: &mut Peekable<Chars<'_>>) -> Result<char, BadPattern> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(c) => Ok(c),
    }
}
