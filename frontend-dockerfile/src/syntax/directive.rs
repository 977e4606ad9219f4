//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the top of the file.

use crate::error::DockerfileError;
use crate::location::Lines;

use super::lines::lines;

/// A directive that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Its value.
    pub value: String,
    /// Its line.
    pub lines: Lines,
}

/// The directives of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# escape=`, as written.
    pub escape: Option<Directive>,
    /// `# syntax=`.
    pub syntax: Option<Directive>,
    /// `# check=`.
    pub check: Option<Directive>,
}

impl Directives {
    /// The escape character in force.
    pub fn escape_char(&self) -> char {
        match &self.escape {
            Some(directive) if directive.value == "`" => '`',
            _ => '\\',
        }
    }
}

/// Collects directives until the first line that is none.
#[derive(Debug, Default)]
pub(super) struct DirectiveReader {
    pub(super) directives: Directives,
    done: bool,
}

impl DirectiveReader {
    /// Offers a line. Returns whether it was a directive.
    pub(super) fn offer(&mut self, text: &str, line: u32) -> Result<bool, DockerfileError> {
        if self.done {
            return Ok(false);
        }
        let Some((name, value)) = split(text.trim_start(), "#") else {
            self.done = true;
            return Ok(false);
        };
        let slot = match name.as_str() {
            "escape" => &mut self.directives.escape,
            "syntax" => &mut self.directives.syntax,
            "check" => &mut self.directives.check,
            _ => {
                self.done = true;
                return Ok(false);
            }
        };
        let lines = Lines::one(line);
        if slot.is_some() {
            return Err(DockerfileError::before(
                line,
                format!("only one {name} parser directive can be used"),
            ));
        }
        if name == "escape" && value != "`" && value != "\\" {
            return Err(DockerfileError::before(
                line,
                format!("invalid escape token '{value}' does not match ` or \\"),
            ));
        }
        *slot = Some(Directive {
            value: value.to_owned(),
            lines,
        });
        Ok(true)
    }
}

/// What a file asks for with `syntax`, also in the other spellings that files in foreign formats use: with `//` for `#`,
/// behind a `#!` line, or as member of a JSON object.
pub fn external_syntax(bytes: &[u8]) -> Option<Directive> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    in_comments(bytes, "#", "syntax")
        .or_else(|| in_comments(bytes, "//", "syntax"))
        .or_else(|| in_json(bytes))
}

/// What a file asks for with `# check=`. Unlike `escape` it may stand behind a `#!` line, but not be indented.
pub fn check_directive(bytes: &[u8]) -> Option<Directive> {
    in_comments(bytes, "#", "check")
}

fn in_comments(bytes: &[u8], mark: &str, wanted: &str) -> Option<Directive> {
    for line in lines(bytes) {
        if line.number == 1 && line.raw.starts_with(b"#!") {
            continue;
        }
        let text = str::from_utf8(line.content()).ok()?;
        let (name, value) = split(text, mark)?;
        match name.as_str() {
            name if name == wanted => {
                return Some(Directive {
                    value: value.to_owned(),
                    lines: Lines::one(line.number),
                });
            }
            "escape" | "check" | "syntax" => {}
            _ => return None,
        }
    }
    None
}

fn in_json(bytes: &[u8]) -> Option<Directive> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let syntax = value.get("syntax")?.as_str().filter(|text| !text.is_empty())?;
    let at = bytes
        .windows(b"\"syntax\"".len())
        .position(|window| window == b"\"syntax\"")?;
    let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
    Some(Directive {
        value: syntax.to_owned(),
        lines: Lines::one(line as u32),
    })
}

/// Splits `# name = value` into lower-case name and value.
fn split<'a>(line: &'a str, mark: &str) -> Option<(String, &'a str)> {
    let (name, value) = line.strip_prefix(mark)?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let well_formed =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (well_formed && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_found_in_every_spelling() {
        for (text, want) in [
            ("# syntax=docker/dockerfile:1\nFROM a", Some(("docker/dockerfile:1", 1))),
            ("#!/x\n# escape=`\n# Syntax = a b\n", Some(("a b", 3))),
            ("// syntax=x\n", Some(("x", 1))),
            ("{\n \"syntax\": \"x\"}", Some(("x", 2))),
            ("\u{feff}#syntax=x", Some(("x", 1))),
            ("  # syntax=x", None),
            ("\n# syntax=x", None),
            ("# foo=1\n# syntax=x", None),
            ("{\"syntax\": 1}", None),
            ("# syntax=", None),
        ] {
            let found = external_syntax(text.as_bytes()).map(|d| (d.value, d.lines.first));
            assert_eq!(found, want.map(|(v, l)| (v.to_owned(), l)), "{text:?}");
        }
    }
}
