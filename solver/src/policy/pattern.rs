//! Patterns of identifiers. Clients send them, so their memory is bounded, and matching takes linear time.

use regex::{Captures, Regex, RegexBuilder};

use super::{MAX_TEXT, MatchKind, Selector, template};

/// Memory that one regular expression may take, in bytes.
const MAX_PROGRAM: usize = 256 << 10;
/// How deep a regular expression may nest.
const MAX_NESTING: u32 = 64;

/// Why a pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Two stars in a row.
    #[error("failed to translate wildcard {0:?} to regexp: invalid wildcard: \"**\"")]
    Wildcard(String),
    /// A malformed regular expression, or one that is too complex.
    #[error("invalid regex {pattern:?}: {reason}")]
    Regex {
        /// The expression.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
}

/// A selector's identifier, understood.
#[derive(Debug)]
pub(super) enum Pattern {
    Exact,
    /// The texts between the stars.
    Wildcard(Vec<String>),
    Regex(Regex),
}

/// Compiles a regular expression within the limits.
pub(super) fn expression(pattern: &str) -> Result<Regex, PatternError> {
    let built = RegexBuilder::new(pattern)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .nest_limit(MAX_NESTING)
        .build();
    built.map_err(|error| PatternError::Regex {
        pattern: pattern.to_owned(),
        // The last line says what is wrong; those before draw a picture.
        reason: error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
    })
}

impl Pattern {
    pub(super) fn new(selector: &Selector) -> Result<Self, PatternError> {
        let text = &selector.identifier;
        match selector.kind {
            MatchKind::Exact => Ok(Self::Exact),
            MatchKind::Wildcard if text.contains("**") => Err(PatternError::Wildcard(text.clone())),
            MatchKind::Wildcard => Ok(Self::Wildcard(text.split('*').map(str::to_owned).collect())),
            MatchKind::Regex => expression(text).map(Self::Regex),
        }
    }

    /// Whether it matches; what equals the pattern's own text is not considered here.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact => false,
            Self::Wildcard(parts) => starred(parts, text).is_some(),
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// What becomes of a text that is to be replaced by `template`; `None` if that is too long.
    ///
    /// A regular expression replaces what it matches and leaves the rest, the other kinds replace everything.
    pub(super) fn replace(&self, text: &str, template: &str) -> Option<String> {
        match self {
            // Without groups there is nothing to expand.
            Self::Exact => Some(template.to_owned()),
            Self::Wildcard(parts) => {
                let Some(stars) = starred(parts, text) else {
                    return Some(text.to_owned());
                };
                let mut made = String::new();
                let group = |name: &str| match name.parse::<usize>() {
                    Ok(0) => Some(text),
                    Ok(number) => stars.get(number - 1).copied(),
                    Err(_) => None,
                };
                template::expand(template, group, MAX_TEXT, &mut made).then_some(made)
            }
            Self::Regex(regex) => replace_matches(regex, text, template),
        }
    }
}

/// What each star stands for, the first ones as much as possible; `None` if the text does not match.
fn starred<'a>(parts: &[String], text: &'a str) -> Option<Vec<&'a str>> {
    let (first, rest) = parts.split_first()?;
    let mut text = text.strip_prefix(first.as_str())?;
    let Some((last, between)) = rest.split_last() else {
        return text.is_empty().then(Vec::new);
    };
    text = text.strip_suffix(last.as_str())?;
    let mut stars = Vec::with_capacity(rest.len());
    // From the end, each part as far right as it goes: so each star has as much as the ones before it leave.
    for part in between.iter().rev() {
        let at = text.rfind(part.as_str())?;
        stars.push(&text[at + part.len()..]);
        text = &text[..at];
    }
    stars.push(text);
    stars.reverse();
    Some(stars)
}

fn replace_matches(regex: &Regex, text: &str, template: &str) -> Option<String> {
    let mut made = String::new();
    let mut end = 0;
    for captures in regex.captures_iter(text) {
        let whole = captures.get_match();
        made.push_str(&text[end..whole.start()]);
        end = whole.end();
        if !template::expand(template, |name| group(&captures, name), MAX_TEXT, &mut made) {
            return None;
        }
    }
    made.push_str(&text[end..]);
    (made.len() <= MAX_TEXT).then_some(made)
}

fn group<'a>(captures: &Captures<'a>, name: &str) -> Option<&'a str> {
    let found = match name.parse() {
        Ok(number) => captures.get(number),
        Err(_) => captures.name(name),
    };
    found.map(|found| found.as_str())
}
