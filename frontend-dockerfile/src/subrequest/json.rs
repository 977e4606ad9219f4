//! JSON as Go's `MarshalIndent` writes it.

use serde::Serialize;

/// Indented by two spaces; what could mean something in HTML is escaped.
pub(super) fn pretty(value: &impl Serialize) -> String {
    // The types written here hold text, numbers, lists and maps with text as keys: nothing that could fail.
    let plain = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut json = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            // None of these is part of JSON's own syntax.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json
}

/// Whether a number is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Whether a flag is left out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_escaped_as_go_does() {
        assert_eq!(
            super::pretty(&["<a&b>\u{2028}\"\\\n\u{1}é"]),
            "[\n  \"\\u003ca\\u0026b\\u003e\\u2028\\\"\\\\\\n\\u0001é\"\n]"
        );
        assert_eq!(super::pretty(&Vec::<String>::new()), "[]");
    }
}
