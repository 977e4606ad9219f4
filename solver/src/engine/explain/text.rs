//! Causes in words.

use std::fmt;

use super::Cause;
use crate::index::Removed;
use crate::worker::{ChangeKind, ContentChange};

/// Longest value that is told, in bytes.
const MAX_VALUE: usize = 4_096;
/// Files that are named in one line.
const MAX_NAMED: usize = 3;

/// Words in names of variables whose values nobody should see.
const SECRET_WORDS: [&str; 11] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "passwd",
    "pass",
    "pword",
    "secret",
    "token",
];

/// The value of a variable, or a mask if its name says that it is secret.
pub(super) fn masked(name: &str, value: &str) -> String {
    let name = name.to_ascii_lowercase();
    let is_secret = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| SECRET_WORDS.contains(&word));
    if is_secret {
        "***".to_owned()
    } else {
        clipped_value(value)
    }
}

/// A value of bounded length, without the credentials of URLs in it.
pub(super) fn clipped_value(value: &str) -> String {
    let mut value = without_credentials(value);
    if value.len() > MAX_VALUE {
        let end = (0..=MAX_VALUE).rev().find(|&end| value.is_char_boundary(end));
        value.truncate(end.unwrap_or_default());
        value.push('…');
    }
    value
}

/// Masks what stands between `://` and `@` in one word.
fn without_credentials(text: &str) -> String {
    const MARK: &str = "://";
    let mut rest = text;
    let mut masked = String::with_capacity(text.len());
    while let Some(at) = rest.find(MARK) {
        let (before, after) = rest.split_at(at + MARK.len());
        masked.push_str(before);
        let host = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#'));
        let (authority, _) = after.split_at(host.unwrap_or(after.len()));
        rest = match authority.rfind('@') {
            Some(at) => {
                masked.push_str("***");
                &after[at..]
            }
            None => after,
        };
    }
    masked.push_str(rest);
    masked
}

impl Cause {
    /// A word for programs to tell causes apart by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::IgnoredCache => "ignored-cache",
            Self::Gone(_) => "evicted",
            Self::NotFinished(_) => "not-finished",
            Self::Command { .. } => "command",
            Self::Variable { is_argument: true, .. } => "argument",
            Self::Variable { .. } => "variable",
            Self::Property { .. } => "property",
            Self::Source { .. } => "source",
            Self::Files { .. } => "files",
            Self::Input { .. } => "input",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("never built before"),
            Self::IgnoredCache => f.write_str("told to ignore what is known (--no-cache)"),
            Self::Gone(removal) => f.write_str(match removal.map(|removal| removal.how) {
                Some(Removed::Pruned) => "its result was evicted: pruned on request",
                Some(Removed::Collected) => "its result was evicted: removed to save space",
                Some(Removed::Lost | Removed::NotFinished) => "its result was lost",
                None => "its result is not there any more",
            }),
            Self::NotFinished(_) => f.write_str("it did not end well the last time"),
            Self::Command { old, new } => write!(f, "command changed: `{old}` → `{new}`"),
            Self::Variable {
                name,
                old,
                new,
                is_argument,
            } => {
                let what = if *is_argument { "argument" } else { "variable" };
                match (old, new) {
                    (Some(old), Some(new)) => write!(f, "{what} `{name}` {} → {}", shown(old), shown(new)),
                    (None, Some(new)) => write!(f, "{what} `{name}` is new: {}", shown(new)),
                    (Some(old), None) => write!(f, "{what} `{name}` is not set any more (was {})", shown(old)),
                    (None, None) => write!(f, "{what} `{name}` changed"),
                }
            }
            Self::Property { name, old, new } => changed(f, name, old.as_deref(), new.as_deref()),
            Self::Source { name, part, old, new } => {
                changed(f, &format!("{part} of `{name}`"), old.as_deref(), new.as_deref())
            }
            Self::Files {
                path,
                changes,
                has_more,
                is_kept,
                ..
            } => files(f, path, changes, *has_more, *is_kept),
            Self::Input { name } => write!(f, "built on `{name}`, which changed"),
            Self::Unknown => f.write_str("what it was made of before is not remembered"),
        }
    }
}

/// Empty values are hard to see.
fn shown(value: &str) -> &str {
    if value.is_empty() { "\"\"" } else { value }
}

fn changed(f: &mut fmt::Formatter<'_>, what: &str, old: Option<&str>, new: Option<&str>) -> fmt::Result {
    match (old, new) {
        (Some(old), Some(new)) => write!(f, "{what} changed: `{old}` → `{new}`"),
        (None, Some(new)) => write!(f, "{what} is new: `{new}`"),
        (Some(old), None) => write!(f, "{what} is gone (was `{old}`)"),
        (None, None) => write!(f, "{what} changed"),
    }
}

fn files(
    f: &mut fmt::Formatter<'_>,
    path: &str,
    changes: &[ContentChange],
    has_more: bool,
    is_kept: bool,
) -> fmt::Result {
    if changes.is_empty() {
        write!(f, "content of `{path}` changed")?;
        return if is_kept {
            Ok(())
        } else {
            f.write_str("; what it was before is not kept any more")
        };
    }
    for (at, change) in changes.iter().take(MAX_NAMED).enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{change}")?;
    }
    let left = changes.len().saturating_sub(MAX_NAMED);
    match (left, has_more) {
        (0, false) => Ok(()),
        (0, true) => f.write_str(", and more"),
        (left, false) => write!(f, ", and {left} more"),
        (left, true) => write!(f, ", and at least {left} more"),
    }
}

impl fmt::Display for ContentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.kind {
            ChangeKind::Added => write!(f, "`{path}` added"),
            ChangeKind::Removed => write!(f, "`{path}` removed"),
            ChangeKind::Type => write!(f, "type of `{path}` changed"),
            ChangeKind::Bytes => write!(f, "`{path}` changed"),
            ChangeKind::Mode { old, new } => write!(f, "mode of `{path}` {old:o} → {new:o}"),
            ChangeKind::Owner { old, new } => {
                write!(f, "owner of `{path}` {}:{} → {}:{}", old.0, old.1, new.0, new.1)
            }
            ChangeKind::Target { old, new } => write!(f, "target of `{path}` {old} → {new}"),
            ChangeKind::Attributes => write!(f, "attributes of `{path}` changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_wherever_they_are() {
        for (text, expected) in [
            ("https://a:b@host/x", "https://***@host/x"),
            ("x ssh://git@host y https://p@q z", "x ssh://***@host y https://***@q z"),
            ("https://host/a@b", "https://host/a@b"),
            ("https://a@b@host", "https://***@host"),
            ("://", "://"),
            ("mail@host", "mail@host"),
        ] {
            assert_eq!(without_credentials(text), expected);
        }
        assert_eq!(masked("MY_PASSWORD", "x"), "***");
        assert_eq!(masked("KEYBOARD", "x"), "x");
        assert!(clipped_value(&"ü".repeat(9_000)).len() <= MAX_VALUE + 4);
    }

    #[test]
    fn files_are_named() {
        let change = |path: &str, kind| ContentChange {
            path: path.to_owned(),
            kind,
        };
        let cause = |changes: Vec<ContentChange>, has_more, is_kept| {
            let path = "/src".to_owned();
            let from = String::new();
            Cause::Files {
                from,
                path,
                changes,
                has_more,
                is_kept,
            }
            .to_string()
        };
        let mode = ChangeKind::Mode { old: 0o644, new: 0o755 };
        assert_eq!(
            cause(vec![change("run.sh", mode)], false, true),
            "mode of `run.sh` 644 → 755"
        );
        let many: Vec<_> = (0..5).map(|n| change(&n.to_string(), ChangeKind::Added)).collect();
        assert_eq!(
            cause(many, true, true),
            "`0` added, `1` added, `2` added, and at least 2 more"
        );
        assert_eq!(
            cause(Vec::new(), false, false),
            "content of `/src` changed; what it was before is not kept any more"
        );
    }
}
