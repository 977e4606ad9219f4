//! Patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/replacement}`.

use regex::{Regex, RegexBuilder};

use super::ExpandCause;

/// How much memory a compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 20;

/// Removes the shortest or (`greedy`) longest prefix of `value` that matches.
pub(super) fn trim_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, ExpandCause> {
    if is_plain(pattern) {
        return Ok(value.strip_prefix(pattern).unwrap_or(value).to_owned());
    }
    let regex = compile(pattern, &translate(pattern, greedy)?.concat(), true)?;
    Ok(regex
        .find(value)
        .map_or(value, |found| &value[found.end()..])
        .to_owned())
}

/// Removes the shortest or (`greedy`) longest suffix of `value` that matches.
pub(super) fn trim_suffix(pattern: &str, value: &str, greedy: bool) -> Result<String, ExpandCause> {
    if is_plain(pattern) {
        return Ok(value.strip_suffix(pattern).unwrap_or(value).to_owned());
    }
    // Read backwards, a suffix is a prefix, and "shortest" again means what comes first.
    let mut parts = translate(pattern, greedy)?;
    parts.reverse();
    let regex = compile(pattern, &parts.concat(), true)?;
    let backwards: String = value.chars().rev().collect();
    let kept = regex
        .find(&backwards)
        .map_or(backwards.as_str(), |found| &backwards[found.end()..]);
    Ok(kept.chars().rev().collect())
}

/// Replaces the first match, or all of them. Only in the latter case is `$0` in the replacement the match, and any other
/// name nothing. Fails as soon as the result is longer than `limit`.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
    limit: usize,
) -> Result<String, ExpandCause> {
    let regex = compile(pattern, &translate(pattern, true)?.concat(), false)?;
    let template = if all {
        template(replacement)
    } else {
        vec![Part::Text(replacement)]
    };
    let mut out = String::new();
    let mut copied = 0;
    for found in regex.find_iter(value).take(if all { usize::MAX } else { 1 }) {
        out.push_str(&value[copied..found.start()]);
        for part in &template {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Match => found.as_str(),
            });
            if out.len() > limit {
                return Err(ExpandCause::TooLong(limit));
            }
        }
        copied = found.end();
    }
    out.push_str(&value[copied..]);
    Ok(out)
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

/// Whether it is nothing but itself, so that there is nothing to compile.
fn is_plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '\\'])
}

fn compile(pattern: &str, translated: &str, anchored: bool) -> Result<Regex, ExpandCause> {
    let text = if anchored {
        format!("^(?:{translated})")
    } else {
        translated.to_owned()
    };
    RegexBuilder::new(&text)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|_| invalid(pattern, "pattern is too large".to_owned()))
}

/// One regular expression per element of the pattern, in order.
fn translate(pattern: &str, greedy: bool) -> Result<Vec<String>, ExpandCause> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' if greedy => ".*".to_owned(),
            '*' => ".*?".to_owned(),
            '?' => ".".to_owned(),
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\' | '}' | '/')) => regex::escape(&c.to_string()),
                escaped => {
                    let shown = escaped.map(String::from).unwrap_or_default();
                    return Err(invalid(pattern, format!("invalid escape '\\{shown}'")));
                }
            },
            c => regex::escape(&c.to_string()),
        });
    }
    Ok(parts)
}

fn invalid(pattern: &str, cause: String) -> ExpandCause {
    ExpandCause::InvalidPattern {
        pattern: pattern.to_owned(),
        cause,
    }
}
