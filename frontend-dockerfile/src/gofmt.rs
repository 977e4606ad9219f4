//! Go's ways of writing values, which have become part of what users and tools expect to read.

use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

/// A Go string literal.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_shown(c) => out.push(c),
            c if c as u32 > 0xffff => out.push_str(&format!("\\U{:08x}", c as u32)),
            c => out.push_str(&format!("\\u{:04x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// Whether a character is seen as it is: no control, no blank but the ordinary one, and nothing that formats others or
/// has a meaning of its own.
fn is_shown(c: char) -> bool {
    let is_format = matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    let is_private = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..);
    !c.is_control() && !is_format && !is_private && (c == ' ' || !c.is_whitespace())
}

/// A list as Go prints one of quoted strings: `["a" "b"]`.
pub(crate) fn quoted_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `true` and `false` in the spellings that Go's `strconv.ParseBool` takes.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Why Go's `strconv.ParseInt` would not take `text`.
pub(crate) fn parse_int_error(text: &str, error: &ParseIntError) -> String {
    let problem = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.ParseInt: parsing {}: {problem}", quote(text))
}

/// Parses a Go duration such as `1m30s` into nanoseconds.
///
/// # Errors
/// The text that Go's `time.ParseDuration` gives.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 32 {
            return Err(invalid());
        }
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit),
                    quote(text)
                ));
            }
        };
        total += scale
            * if whole.is_empty() {
                0
            } else {
                whole.parse::<i128>().map_err(|_| invalid())?
            };
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        let digits = &fraction[..fraction.len().min(18)];
        if !digits.is_empty() {
            total += digits.parse::<i128>().map_err(|_| invalid())? * scale / 10_i128.pow(digits.len() as u32);
        }
        rest = tail;
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -total } else { total })
}

/// Writes nanoseconds as Go prints a duration: `1m30s`, `5ms`, `0s`.
pub(crate) fn duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let span = Duration::from_nanos(nanos.unsigned_abs());
    let (seconds, fraction) = (span.as_secs(), u64::from(span.subsec_nanos()));
    if seconds == 0 {
        let (unit, width, value) = match fraction {
            0..1_000 => ("ns", 0, fraction),
            1_000..1_000_000 => ("µs", 3, fraction),
            _ => ("ms", 6, fraction),
        };
        return format!("{sign}{}{unit}", decimal(value, width));
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let tail = format!("{}s", decimal(seconds % 60 * 1_000_000_000 + fraction, 9));
    match (hours, minutes) {
        (0, 0) => format!("{sign}{tail}"),
        (0, _) => format!("{sign}{minutes}m{tail}"),
        _ => format!("{sign}{hours}h{minutes}m{tail}"),
    }
}

/// `value / 10^width` without trailing zeros.
fn decimal(value: u64, width: u32) -> String {
    let unit = 10_u64.pow(width);
    let fraction = format!("{:0width$}", value % unit, width = width as usize);
    let fraction = if width == 0 { "" } else { fraction.trim_end_matches('0') };
    if fraction.is_empty() {
        (value / unit).to_string()
    } else {
        format!("{}.{fraction}", value / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_in_go() {
        for (text, want) in [
            ("a", "\"a\""),
            ("b\"c\n", "\"b\\\"c\\n\""),
            ("\u{1}", "\"\\x01\""),
            ("é☺", "\"é☺\""),
            ("\\", "\"\\\\\""),
        ] {
            assert_eq!(quote(text), want);
        }
    }

    #[test]
    fn what_would_not_be_seen_is_written_out() {
        for (text, want) in [
            ("a\"b\\", r#""a\"b\\""#),
            ("\t\u{1}\u{a0}\u{feff}", r#""\t\x01\u00a0\ufeff""#),
            ("\u{e000}\u{e0001}", r#""\ue000\U000e0001""#),
            ("\u{e9} \u{1f600}", "\"\u{e9} \u{1f600}\""),
        ] {
            assert_eq!(quote(text), want);
        }
    }

    #[test]
    fn durations_round_trip() {
        for (text, want) in [
            ("30s", "30s"),
            ("1m30s", "1m30s"),
            ("2h", "2h0m0s"),
            ("5ms", "5ms"),
            ("1.5h", "1h30m0s"),
            ("0", "0s"),
            ("1us", "1µs"),
            ("1.5s", "1.5s"),
            ("-1s", "-1s"),
        ] {
            assert_eq!(parse_duration(text).map(duration).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(parse_duration("1").unwrap_err(), "time: missing unit in duration \"1\"");
        assert_eq!(parse_duration("x").unwrap_err(), "time: invalid duration \"x\"");
        assert_eq!(
            parse_duration("1y").unwrap_err(),
            "time: unknown unit \"y\" in duration \"1y\""
        );
        assert!(parse_duration("99999999999999999999h").is_err() && parse_duration("").is_err());
    }
}
