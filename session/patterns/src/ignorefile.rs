//! Reading a `.dockerignore`.

use crate::clean::clean;
use crate::error::{IgnoreFileError, PatternError};
use crate::set::PatternSet;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Reads the patterns of an ignore file, cleaned and in order, ready for [`PatternSet::new`] and for
/// sending to a peer that filters.
///
/// A `#` in the first column begins a comment. Blanks around a pattern, empty lines, one leading `/`,
/// trailing slashes and `.` elements vanish; `!` in front negates.
///
/// # Errors
/// The first line that is not a pattern, with its number.
pub fn parse(bytes: &[u8]) -> Result<Vec<String>, IgnoreFileError> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let limit = PatternSet::MAX_TOTAL_BYTES;
    if bytes.len() > limit {
        return Err(IgnoreFileError::Size(PatternError::ListTooLarge {
            what: "bytes",
            limit,
        }));
    }
    let mut patterns = Vec::new();
    for (index, raw) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = index + 1;
        if raw.starts_with(b"#") {
            continue;
        }
        // What is no text becomes what it does with other builders, which hand patterns on as JSON: a pattern that
        // matches no name of that kind.
        let text = String::from_utf8_lossy(raw);
        let Some(pattern) = rule(&text) else { continue };
        PatternSet::new([&pattern]).map_err(|source| IgnoreFileError::Pattern { line, source })?;
        patterns.push(pattern);
    }
    PatternSet::new(&patterns).map_err(IgnoreFileError::Size)?;
    Ok(patterns)
}

fn rule(line: &str) -> Option<String> {
    let text = line.trim();
    let (mark, body) = match text.strip_prefix('!') {
        Some(body) => ("!", body.trim()),
        None => ("", text),
    };
    match (mark, body) {
        ("", "") => None,
        (_, "") => Some(mark.to_owned()),
        _ => {
            let cleaned = clean(body);
            let relative = cleaned
                .strip_prefix('/')
                .filter(|rest| !rest.is_empty())
                .unwrap_or(&cleaned);
            Some(format!("{mark}{relative}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_cleaned_and_kept_in_order() {
        let file = b"\xef\xbb\xbf# comment\r\n\n  a  \n./b\n/c\nd/../e\nf/\ng//h\n! i \n!/j/\n # k\n\\#l\n.\n/\n";
        assert_eq!(
            parse(file).unwrap(),
            ["a", "b", "c", "e", "f", "g/h", "!i", "!j", "# k", "\\#l", ".", "/"]
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (file, want) in [
            (&b"a\n!\n"[..], "line 2: illegal exclusion pattern: \"!\""),
            (b"a\n\n[\n", "line 3: [[]: syntax error in pattern"),
            (b"d\\", "line 1: [d\\]: syntax error in pattern"),
        ] {
            assert_eq!(parse(file).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn lines_need_not_be_text() {
        assert_eq!(parse(b"# \xff\na\n\xff*\n").unwrap(), ["a", "\u{fffd}*"]);
    }
}
