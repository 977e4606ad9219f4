//! Patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/replacement}`.
//!
//! `?` is one character and `*` any number of them, neither of them a newline. Between two stars stands a segment of fixed
//! length, and for each it is enough to try the first place where it fits: a later one leaves no more for those behind it.

use super::ExpandCause;

/// What is left of the work that the patterns of one text may take.
pub(super) struct Steps(pub(super) usize);

impl Steps {
    fn take(&mut self, steps: usize) -> Result<(), ExpandCause> {
        self.0 = self.0.checked_sub(steps).ok_or(ExpandCause::TooLaborious)?;
        Ok(())
    }
}

/// Removes the shortest or (`greedy`) longest prefix of `value` that matches.
pub(super) fn trim_prefix<'a>(
    pattern: &str,
    value: &'a str,
    greedy: bool,
    steps: &mut Steps,
) -> Result<&'a str, ExpandCause> {
    let chars: Vec<char> = value.chars().collect();
    let end = Pattern::parse(pattern)?.prefix(&chars, greedy, steps)?.unwrap_or(0);
    Ok(&value[bytes(&chars[..end])..])
}

/// Removes the shortest or (`greedy`) longest suffix of `value` that matches.
pub(super) fn trim_suffix<'a>(
    pattern: &str,
    value: &'a str,
    greedy: bool,
    steps: &mut Steps,
) -> Result<&'a str, ExpandCause> {
    // Read backwards, a suffix is a prefix.
    let chars: Vec<char> = value.chars().rev().collect();
    let pattern = Pattern::parse(pattern)?.reversed();
    let end = pattern.prefix(&chars, greedy, steps)?.unwrap_or(0);
    Ok(&value[..value.len() - bytes(&chars[..end])])
}

/// How long `chars` are as a text.
fn bytes(chars: &[char]) -> usize {
    chars.iter().map(|c| c.len_utf8()).sum()
}

/// Replaces the first match, or all of them. Only in the latter case is `$0` in the replacement the match, and any other
/// name nothing. Fails as soon as the result is longer than `limit`.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
    limit: usize,
    steps: &mut Steps,
) -> Result<String, ExpandCause> {
    let pattern = Pattern::parse(pattern)?;
    let template = if all {
        template(replacement)
    } else {
        vec![Part::Text(replacement)]
    };
    let value: Vec<char> = value.chars().collect();
    let mut out = String::new();
    let (mut copied, mut from, mut latest) = (0, 0, None);
    while let Some((start, end)) = pattern.find(&value, from, steps)? {
        // Nothing, right behind what was replaced, is no match of its own.
        if start == end && latest == Some(end) {
            from = end + 1;
            continue;
        }
        out.extend(&value[copied..start]);
        for part in &template {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Match => out.extend(&value[start..end]),
            }
            if out.len() > limit {
                return Err(ExpandCause::TooLong(limit));
            }
        }
        (copied, from, latest) = (end, end, Some(end));
        if !all {
            break;
        }
    }
    out.extend(&value[copied..]);
    Ok(out)
}

/// One character of a pattern.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Literal(char),
    Any,
}

impl Piece {
    fn accepts(self, c: char) -> bool {
        match self {
            Self::Literal(want) => want == c,
            Self::Any => c != '\n',
        }
    }
}

/// A pattern: segments with a star between each two.
#[derive(Debug)]
struct Pattern {
    segments: Vec<Vec<Piece>>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ExpandCause> {
        let mut segments = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let piece = match c {
                '*' => {
                    segments.push(Vec::new());
                    continue;
                }
                '?' => Piece::Any,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Piece::Literal(c),
                    escaped => {
                        let shown = escaped.map(String::from).unwrap_or_default();
                        return Err(invalid(text, format!("invalid escape '\\{shown}'")));
                    }
                },
                c => Piece::Literal(c),
            };
            if let Some(segment) = segments.last_mut() {
                segment.push(piece);
            }
        }
        Ok(Self { segments })
    }

    fn reversed(mut self) -> Self {
        self.segments.reverse();
        self.segments.iter_mut().for_each(|segment| segment.reverse());
        self
    }

    /// The end of the shortest or longest match at the beginning of `value`.
    fn prefix(&self, value: &[char], greedy: bool, steps: &mut Steps) -> Result<Option<usize>, ExpandCause> {
        let Some((first, rest)) = self.segments.split_first() else {
            return Ok(Some(0));
        };
        if !fits(first, value, 0, steps)? {
            return Ok(None);
        }
        let mut end = first.len();
        for (index, segment) in rest.iter().enumerate() {
            let line = line_end(value, end, steps)?;
            // Only the last one is better late: then the whole match is longer.
            let place = if greedy && index + 1 == rest.len() {
                first_fit(segment, value, (end..=line).rev(), steps)?
            } else {
                first_fit(segment, value, end..=line, steps)?
            };
            match place {
                Some(place) => end = place + segment.len(),
                None => return Ok(None),
            }
        }
        Ok(Some(end))
    }

    /// The first and longest match that begins at `from` or behind it.
    fn find(&self, value: &[char], from: usize, steps: &mut Steps) -> Result<Option<(usize, usize)>, ExpandCause> {
        let first = self.segments.first().map_or(&[][..], Vec::as_slice);
        let is_of_one_line = !self.segments.concat().contains(&Piece::Literal('\n'));
        let mut start = from;
        while let Some(found) = first_fit(first, value, start..=value.len(), steps)? {
            if let Some(length) = self.prefix(&value[found..], true, steps)? {
                return Ok(Some((found, found + length)));
            }
            // What is behind the first segment is not in the rest of the line, so no later beginning there helps.
            start = if is_of_one_line {
                line_end(value, found, steps)? + 1
            } else {
                found + 1
            };
        }
        Ok(None)
    }
}

fn first_fit(
    segment: &[Piece],
    value: &[char],
    mut places: impl Iterator<Item = usize>,
    steps: &mut Steps,
) -> Result<Option<usize>, ExpandCause> {
    places
        .find_map(|place| match fits(segment, value, place, steps) {
            Ok(true) => Some(Ok(place)),
            Ok(false) => None,
            Err(cause) => Some(Err(cause)),
        })
        .transpose()
}

fn fits(segment: &[Piece], value: &[char], at: usize, steps: &mut Steps) -> Result<bool, ExpandCause> {
    let Some(here) = at.checked_add(segment.len()).and_then(|end| value.get(at..end)) else {
        steps.take(1)?;
        return Ok(false);
    };
    let same = segment
        .iter()
        .zip(here)
        .take_while(|(piece, c)| piece.accepts(**c))
        .count();
    steps.take(same + 1)?;
    Ok(same == segment.len())
}

/// Where the line of `at` ends.
fn line_end(value: &[char], at: usize, steps: &mut Steps) -> Result<usize, ExpandCause> {
    let rest = value.get(at..).unwrap_or_default();
    let length = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
    steps.take(length)?;
    Ok(at + length)
}

/// A piece of a replacement.
enum Part<'a> {
    Text(&'a str),
    Match,
}

/// Reads `$name`, `${name}` and `$$`; a `$` before anything else is itself.
fn template(mut text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some((before, after)) = text.split_once('$') {
        parts.push(Part::Text(before));
        let (name, rest) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(
                after
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(after.len()),
            ),
        };
        if let Some(rest) = after.strip_prefix('$') {
            parts.push(Part::Text("$"));
            text = rest;
        } else if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            parts.push(Part::Text("$"));
            text = after;
        } else {
            if name.bytes().all(|b| b == b'0') {
                parts.push(Part::Match);
            }
            text = rest;
        }
    }
    parts.push(Part::Text(text));
    parts
}

fn invalid(pattern: &str, cause: String) -> ExpandCause {
    ExpandCause::InvalidPattern {
        pattern: pattern.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    /// The same as a regular expression, which is what defines it.
    fn translated(pattern: &str, greedy: bool, backwards: bool) -> String {
        let mut parts: Vec<String> = pattern
            .chars()
            .map(|c| match c {
                '*' if greedy => ".*".to_owned(),
                '*' => ".*?".to_owned(),
                '?' => ".".to_owned(),
                c => regex::escape(&c.to_string()),
            })
            .collect();
        if backwards {
            parts.reverse();
        }
        parts.concat()
    }

    fn trimmed(pattern: &str, value: &str, greedy: bool, backwards: bool) -> String {
        let regex = Regex::new(&format!("^(?:{})", translated(pattern, greedy, backwards))).unwrap();
        regex
            .find(value)
            .map_or(value, |found| &value[found.end()..])
            .to_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn patterns_match_as_regular_expressions_do(pattern in "[ab*?\n]{0,8}", value in "[ab\n]{0,12}", greedy: bool) {
            let steps = &mut Steps(1 << 20);
            let backwards: String = value.chars().rev().collect();
            prop_assert_eq!(trim_prefix(&pattern, &value, greedy, steps).unwrap(), trimmed(&pattern, &value, greedy, false));
            let suffix: String = trimmed(&pattern, &backwards, greedy, true).chars().rev().collect();
            prop_assert_eq!(trim_suffix(&pattern, &value, greedy, steps).unwrap(), suffix);
            let regex = Regex::new(&translated(&pattern, true, false)).unwrap();
            prop_assert_eq!(replace(&pattern, &value, "x", false, 1_000, steps).unwrap(), regex.replace(&value, "x"));
            prop_assert_eq!(replace(&pattern, &value, "<$0>", true, 1_000, steps).unwrap(), regex.replace_all(&value, "<$0>"));
        }
    }
}
