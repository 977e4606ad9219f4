//! What is fuzzed here; see [`crate::fuzzing`].

use std::os::unix::ffi::OsStrExt;

use reqwest::header::{CONTENT_DISPOSITION, HeaderMap, HeaderValue};

pub(crate) use super::export::settings;

/// A URL, and in the next line what its server calls the file: always a plain name.
pub(crate) fn file_name(data: &[u8]) {
    let mut lines = data.splitn(2, |&byte| byte == b'\n');
    let url = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let url = url::Url::parse(&url).or_else(|_| url::Url::parse("http://host/"));
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(lines.next().unwrap_or_default()) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    let name = super::http::file_name(&url.expect("an address"), Some(&headers));
    let bytes = name.as_bytes();
    assert!(!matches!(bytes, b"" | b"." | b".."), "{name:?} is no name");
    assert!(!bytes.contains(&b'/') && !bytes.contains(&0), "{name:?} is no name");
    assert!(bytes.len() <= 255, "{name:?} is too long");
}
