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

    /// Whether it tells nothing apart but `/`.
    pub(crate) fn is_name(&self) -> bool {
        self.ranges == [('/', '/')]
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

    /// What only `c` is in.
    pub(crate) fn one(c: char) -> Self {
        Self {
            negated: false,
            ranges: vec![(c, c)],
        }
    }

    /// Parses what follows an opening `[` of a regular expression, up to and including the closing `]`.
    pub(crate) fn parse_regex(chars: &mut Peekable<Chars<'_>>) -> Result<Self, BadPattern> {
        let negated = chars.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        let mut is_first = true;
        while is_first || chars.next_if_eq(&']').is_none() {
            is_first = false;
            if let Some(named) = named(chars)? {
                ranges.extend(named);
                continue;
            }
            let mut ahead = chars.clone();
            if ahead.next() == Some('\\')
                && let Some(class) = ahead.next().and_then(Self::perl)
            {
                *chars = ahead;
                ranges.extend(class.positive());
                continue;
            }
            let lo = regex_member(chars)?;
            let mut ahead = chars.clone();
            let hi = if ahead.next() == Some('-') && ahead.peek().is_some_and(|c| *c != ']') {
                *chars = ahead;
                regex_member(chars)?
            } else {
                lo
            };
            if hi < lo {
                return Err(BadPattern);
            }
            ranges.push((lo, hi));
        }
        Ok(Self { negated, ranges })
    }

    /// Its members, if need be as what is between those that are not.
    fn positive(mut self) -> Vec<(char, char)> {
        if !self.negated {
            return self.ranges;
        }
        self.ranges.sort_unstable();
        let mut members = Vec::new();
        let mut next = 0;
        for (lo, hi) in self.ranges {
            if next < u32::from(lo) {
                members.extend(char::from_u32(next).zip(char::from_u32(u32::from(lo) - 1)));
            }
            next = u32::from(hi) + 1;
        }
        members.extend(char::from_u32(next).map(|lo| (lo, char::MAX)));
        members
    }

    /// The character that is written behind a `\` in a regular expression.
    pub(crate) fn escaped(chars: &mut Peekable<Chars<'_>>) -> Result<char, BadPattern> {
        let c = chars.next().ok_or(BadPattern)?;
        match c {
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\x0b'),
            'x' => {
                let digits: String = if chars.next_if_eq(&'{').is_some() {
                    chars.by_ref().take_while(|c| *c != '}').collect()
                } else {
                    chars.by_ref().take(2).collect()
                };
                let is_hex = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let value = u32::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
                value.and_then(char::from_u32).ok_or(BadPattern)
            }
            // A digit alone would stand for something that was matched before.
            '0'..='7' if c == '0' || chars.peek().is_some_and(|c| ('0'..='7').contains(c)) => {
                let mut value = u32::from(c) - u32::from('0');
                for _ in 0..2 {
                    let Some(digit) = chars.next_if(|c| ('0'..='7').contains(c)) else {
                        break;
                    };
                    value = value * 8 + u32::from(digit) - u32::from('0');
                }
                char::from_u32(value).ok_or(BadPattern)
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
            _ => Err(BadPattern),
        }
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

fn regex_member(chars: &mut Peekable<Chars<'_>>) -> Result<char, BadPattern> {
    match chars.next() {
        None => Err(BadPattern),
        Some('\\') => Class::escaped(chars),
        Some(c) => Ok(c),
    }
}

/// Reads a class with a name, such as `[:alpha:]`, if there is one.
fn named(chars: &mut Peekable<Chars<'_>>) -> Result<Option<Vec<(char, char)>>, BadPattern> {
    let rest: String = chars.clone().collect();
    let Some((name, _)) = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
        return Ok(None);
    };
    let (negated, plain) = match name.strip_prefix('^') {
        Some(plain) => (true, plain),
        None => (false, name),
    };
    let ranges: &[(char, char)] = match plain {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err(BadPattern),
    };
    for _ in 0.."[::]".len() + name.chars().count() {
        chars.next();
    }
    let ranges = ranges.to_vec();
    Ok(Some(Class { negated, ranges }.positive()))
}
