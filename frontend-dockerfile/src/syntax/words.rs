//! Splitting of instruction text, for those instructions that split it.

/// The blanks that separate the words of an instruction.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Splits at runs of blanks, knowing neither quotes nor escapes.
pub(super) fn at_blanks(text: &str) -> Vec<String> {
    text.split(is_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Splits once at the first run of blanks.
pub(crate) fn first_word(text: &str) -> (&str, &str) {
    match text.find(is_blank) {
        Some(at) => (&text[..at], text[at..].trim_start_matches(is_blank)),
        None => (text, ""),
    }
}

/// Splits into words that keep their quotes and escapes, for later expansion.
///
/// Blanks inside of quotes do not separate, nor does one behind the escape character. An escape at the very end is
/// dropped; a quote without its partner reaches to the end.
pub(super) fn quoted(text: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    // Where the word under way begins.
    let mut start: Option<usize> = None;
    let mut end = text.len();
    let mut quote: Option<char> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(start.take().map(|start| &text[start..at]));
            continue;
        }
        start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            if chars.next().is_none() {
                end = at;
            }
            continue;
        }
        match quote {
            Some(open) if open == c => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
    }
    words.extend(start.filter(|start| *start < end).map(|start| &text[start..end]));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_hold_words_together() {
        for (text, want) in [
            ("a=\"b c\" d=e\\ f g='h i'", &["a=\"b c\"", "d=e\\ f", "g='h i'"][..]),
            ("a='\\' b", &["a='\\'", "b"]),
            ("a\"b c", &["a\"b c"]),
            ("a\\", &["a"]),
            ("  ", &[]),
            ("\"\" a", &["\"\"", "a"]),
        ] {
            assert_eq!(quoted(text, '\\'), want, "{text}");
        }
    }
}
