//! Making foreign text safe to show.

use console::measure_text_width;

const TAB: usize = 8;

/// Text without anything that could move the cursor, change colours or reorder what is shown.
///
/// Escape sequences go as a whole, other control characters alone; tabs become spaces, and the ends of lines
/// spaces too, so that the result is one line.
pub(crate) fn clean(text: &str) -> String {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.chars().all(plain) {
        return text.to_owned();
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut column = 0;
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\u{9b}' => skip_parameters(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut chars),
            '\t' => {
                let spaces = TAB - column % TAB;
                cleaned.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\u{2028}' | '\u{2029}' => {
                cleaned.push(' ');
                column += 1;
            }
            c if c.is_control() || is_reordering(c) => {}
            c => {
                cleaned.push(c);
                column += 1;
            }
        }
    }
    cleaned
}

/// Characters that change the order in which others are shown.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => skip_parameters(chars),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(chars),
        // Some have one more character after these.
        Some('(' | ')' | '*' | '+' | '-' | '.' | '/' | '#' | '%' | ' ') => {
            chars.next();
        }
        _ => {}
    }
}

fn skip_parameters(chars: &mut std::str::Chars<'_>) {
    for c in chars.by_ref() {
        if !('\u{20}'..='\u{3f}').contains(&c) {
            return;
        }
    }
}

fn skip_string(chars: &mut std::str::Chars<'_>) {
    while let Some(c) = chars.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next();
                return;
            }
            _ => {}
        }
    }
}

/// Clean text cut to a width, with a mark where something is missing.
pub(crate) fn fit(text: &str, width: usize) -> String {
    // Not even the mark has a place in nothing.
    let mark = if width == 0 { "" } else { "…" };
    console::truncate_str(text, width, mark).into_owned()
}

/// `left` and `right` at the two ends of a line of this width; `left` yields.
pub(crate) fn spread(left: &str, right: &str, width: usize) -> String {
    let right_width = measure_text_width(right);
    let room = width.saturating_sub(right_width + 1);
    let left = fit(left, room);
    let gap = width.saturating_sub(measure_text_width(&left) + right_width);
    format!("{left}{}{right}", " ".repeat(gap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_becomes_harmless() {
        for (text, expected) in [
            ("plain", "plain"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[1;1Hgone", "gone"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}Pq#0\u{1b}\\x", "x"),
            ("\u{1b}(Bx", "x"),
            ("\u{9b}31mx", "x"),
            ("a\u{8}\u{8}b\u{0}", "ab"),
            ("a\tb", "a       b"),
            ("\u{202e}gnp.exe", "gnp.exe"),
            ("a\nb\rc", "a bc"),
            ("grüße 世界", "grüße 世界"),
            ("unfinished \u{1b}[31", "unfinished "),
            ("unfinished \u{1b}]0;", "unfinished "),
            ("end\u{1b}", "end"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn both_ends_of_a_line_fit() {
        assert_eq!(spread("left", "1.0s", 12), "left    1.0s");
        assert_eq!(spread("a long left side", "1.0s", 12), "a long… 1.0s");
        assert_eq!(measure_text_width(&spread("世界世界世界", "1.0s", 12)), 12);
        assert_eq!(spread("left", "1.0s", 2), "1.0s");
    }
}
