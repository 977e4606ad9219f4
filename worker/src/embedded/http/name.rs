//! What a file from a URL is called.

use percent_encoding::percent_decode_str;
use reqwest::header::{CONTENT_DISPOSITION, HeaderMap};
use url::Url;

/// The name when nobody gives one.
const FALLBACK: &str = "download";
/// Longest name that file systems take.
const MAX_NAME: usize = 255;

/// The name that the server gives, else the last element of the URL's path, else `download`. Always a plain name: it
/// leads nowhere.
pub(in crate::embedded) fn file_name(url: &Url, headers: Option<&HeaderMap>) -> String {
    let disposition = headers.and_then(|headers| headers.get(CONTENT_DISPOSITION));
    let given = disposition
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
        .and_then(disposition_name);
    given
        .and_then(|name| if name.ends_with('/') { None } else { base(&name) })
        .or_else(|| base(&percent_decode_str(url.path()).decode_utf8_lossy()))
        .unwrap_or_else(|| FALLBACK.to_owned())
}

/// The last element of a path, if that is a name.
fn base(path: &str) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    let is_name = !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= MAX_NAME;
    is_name.then(|| name.to_owned())
}

/// The parameter `filename*`, else `filename`, of a `Content-Disposition` (RFC 6266).
fn disposition_name(value: &str) -> Option<String> {
    let (_, mut rest) = value.split_once(';')?;
    let (mut plain, mut extended) = (None, None);
    loop {
        let (name, after) = rest.split_once('=')?;
        let (text, after) = parameter_value(after.trim_start())?;
        match name.trim().to_ascii_lowercase().as_str() {
            "filename" => plain = Some(text),
            "filename*" => extended = decode_extended(&text),
            _ => {}
        }
        match after.trim_start().strip_prefix(';') {
            Some(more) if !more.trim().is_empty() => rest = more,
            _ => return extended.or(plain),
        }
    }
}

/// A token or quoted string, and what comes after it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// `UTF-8''na%C3%AFve` (RFC 8187).
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    let is_known = charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii");
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    is_known.then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn name(url: &str, disposition: Option<&[u8]>) -> String {
        let mut headers = HeaderMap::new();
        if let Some(value) = disposition {
            headers.insert(CONTENT_DISPOSITION, HeaderValue::from_bytes(value).unwrap());
        }
        file_name(&url.parse().unwrap(), Some(&headers))
    }

    #[test]
    fn names_come_from_the_url() {
        for (url, want) in [
            ("http://h/a/file.txt?x=/y#z", "file.txt"),
            ("http://h/a/", "a"),
            ("http://h/", "download"),
            ("http://h", "download"),
            ("http://h?a/b", "download"),
            ("http://h/a%20b", "a b"),
            ("http://h/%2e%2e%2fetc%2fpasswd", "passwd"),
            ("http://h/x/%2e%2e%2f%2e%2e", "download"),
            ("http://h/x%00y", "download"),
            ("http://h/%C3%A4", "ä"),
        ] {
            assert_eq!(name(url, None), want, "{url}");
        }
    }

    #[test]
    fn servers_may_give_names_but_not_places() {
        for (value, want) in [
            (&b"attachment; filename=a.txt"[..], "a.txt"),
            (b"attachment; filename=\"a b; \\\"c\\\".txt\"; size=3", "a b; \"c\".txt"),
            (b"inline;FileName = x ; a=b", "x"),
            (b"attachment; filename=../../etc/passwd", "passwd"),
            (b"attachment; filename=\"/etc/shadow\"", "shadow"),
            (b"attachment; filename=\"..\"", "u"),
            (b"attachment; filename=\"../\"", "u"),
            (b"attachment; filename=\"d/\"", "u"),
            (b"attachment; filename=\"\"", "u"),
            (b"attachment; filename=\"open", "u"),
            (b"attachment", "u"),
            (b"attachment; filename", "u"),
            (b"attachment; filename=a; filename*=UTF-8''na%C3%AFve", "na\u{ef}ve"),
            (b"attachment; filename=a; filename*=latin9''b", "a"),
            (
                b"attachment; filename=a; filename*=UTF-8''..%2f..%2fetc%2fpasswd",
                "passwd",
            ),
            (b"attachment; filename*=UTF-8''%ff", "u"),
            (b"attachment; filename=\xff", "u"),
        ] {
            assert_eq!(name("http://h/u", Some(value)), want, "{}", value.escape_ascii());
        }
        let long = format!("attachment; filename={}", "x".repeat(256));
        assert_eq!(name("http://h/u", Some(long.as_bytes())), "u");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_sent_a_name_is_a_name(value in "[ -~\u{80}-\u{ff}]{0,80}", path in "[ -~]{0,40}") {
            let Ok(url) = Url::parse(&format!("http://h/{path}")) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_DISPOSITION, HeaderValue::from_bytes(format!("x; filename={value}").as_bytes()).unwrap());
            let name = file_name(&url, Some(&headers));
            prop_assert!(!name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..");
        }
    }
}
