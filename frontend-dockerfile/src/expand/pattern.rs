//! Patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/replacement}`.

use regex::{Regex, RegexBuilder};

use super::ExpandCause;

/// How much memory a compiled pattern may take.
const SIZE_LIMIT: usize = 1 << 20;

/// Removes the shortest or (`greedy`) longest prefix of `value` that matches.
pub(super) fn trim_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, ExpandCause> {
    let regex = compile(pattern, &translate(pattern, greedy)?.concat(), true)?;
    Ok(regex
        .find(value)
        .map_or(value, |found| &value[found.end()..])
        .to_owned())
}

/// Removes the shortest or (`greedy`) longest suffix of `value` that matches.
pub(super) fn trim_suffix(pattern: &str, value: &str, greedy: bool) -> Result<String, ExpandCause> {
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

/// Replaces the first match, or all of them. Only in the latter case is `$1` in the replacement a template.
pub(super) fn replace(pattern: &str, value: &str, replacement: &str, all: bool) -> Result<String, ExpandCause> {
    let regex = compile(pattern, &translate(pattern, true)?.concat(), false)?;
    if all {
        return Ok(regex.replace_all(value, replacement).into_owned());
    }
    Ok(match regex.find(value) {
        Some(found) => [&value[..found.start()], replacement, &value[found.end()..]].concat(),
        None => value.to_owned(),
    })
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
