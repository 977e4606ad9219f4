//! What a file from a URL is called.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use percent_encoding::percent_decode_str;
use reqwest::header::{CONTENT_DISPOSITION, HeaderMap};
use url::Url;

/// The name when nobody gives one.
const FALLBACK: &str = "download";
/// Longest name that file systems take.
const MAX_NAME: usize = 255;

/// The name that the server gives, else the last element of the URL's path, else `download`. Always a plain name: it
/// leads nowhere.
///
/// Neither need be text: servers write bytes of any encoding into headers and paths.
pub(in crate::embedded) fn file_name(url: &Url, headers: Option<&HeaderMap>) -> OsString {
    let disposition = headers.and_then(|headers| headers.get(CONTENT_DISPOSITION));
    let given = disposition.and_then(|value| disposition_name(value.as_bytes()));
    let name = given
        .and_then(|name| if name.ends_with(b"/") { None } else { base(&name) })
        .or_else(|| base(&percent_decode_str(url.path()).collect::<Vec<u8>>()));
    name.map_or_else(|| FALLBACK.into(), OsString::from_vec)
}

/// The last element of a path, if that is a name.
fn base(path: &[u8]) -> Option<Vec<u8>> {
    let mut names = path.rsplit(|&byte| byte == b'/');
    let name = names.find(|name| !name.is_empty())?;
    let is_name = !matches!(name, b"." | b"..") && !name.contains(&0) && name.len() <= MAX_NAME;
    is_name.then(|| name.to_owned())
}

/// The parameter `filename*`, else `filename`, of a `Content-Disposition` (RFC 6266).
fn disposition_name(value: &[u8]) -> Option<Vec<u8>> {
    let (_, mut rest) = split_at_byte(value, b';')?;
    let (mut plain, mut extended) = (None, None);
    loop {
        let (name, after) = split_at_byte(rest, b'=')?;
        let (text, after) = parameter_value(after.trim_ascii_start())?;
        match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"filename" => plain = Some(text),
            b"filename*" => extended = decode_extended(&text),
            _ => {}
        }
        match after.trim_ascii_start().strip_prefix(b";") {
            Some(more) if !more.trim_ascii().is_empty() => rest = more,
            _ => return extended.or(plain),
        }
    }
}

/// What is before and after the first of such a byte.
fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|found| *found == byte)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// A token or quoted string, and what comes after it.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|&byte| byte == b';').unwrap_or(text.len());
        return Some((text[..end].trim_ascii_end().to_owned(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(byte),
        }
    }
    None
}

/// `UTF-8''na%C3%AFve` (RFC 8187).
fn decode_extended(value: &[u8]) -> Option<Vec<u8>> {
    let (charset, rest) = std::str::from_utf8(value).ok()?.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    let is_known = charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("us-ascii");
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    is_known.then(|| decoded.into_owned().into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn name(url: &str, disposition: Option<&[u8]>) -> OsString {
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
        ] {
            assert_eq!(name("http://h/u", Some(value)), want, "{}", value.escape_ascii());
        }
        let bytes = |name: &'static [u8]| OsString::from_vec(name.to_owned());
        assert_eq!(name("http://h/%E4.txt", None), bytes(b"\xe4.txt"));
        for value in [&b"attachment; filename=\xff"[..], b"x; filename=\"a/\\\xff\""] {
            assert_eq!(
                name("http://h/u", Some(value)),
                bytes(b"\xff"),
                "{}",
                value.escape_ascii()
            );
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
            let name = file_name(&url, Some(&headers)).into_vec();
            prop_assert!(!matches!(name.as_slice(), b"" | b"." | b".."));
            prop_assert!(!name.contains(&b'/') && !name.contains(&0));
        }
    }
}
