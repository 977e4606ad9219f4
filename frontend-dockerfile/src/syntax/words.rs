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
pub(super) fn first_word(text: &str) -> (&str, &str) {
    match text.find(is_blank) {
        Some(at) => (&text[..at], text[at..].trim_start_matches(is_blank)),
        None => (text, ""),
    }
}

/// Splits into words that keep their quotes and escapes, for later expansion.
///
/// Blanks inside of quotes do not separate, nor does one behind the escape character. An escape at the very end is
/// dropped; a quote without its partner reaches to the end.
pub(super) fn quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let current = word.get_or_insert_default();
        if c == escape && quote != Some('\'') {
            if let Some(escaped) = chars.next() {
                current.extend([c, escaped]);
            }
            continue;
        }
        match quote {
            Some(open) if open == c => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        current.push(c);
    }
    words.extend(word.filter(|word| !word.is_empty()));
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
