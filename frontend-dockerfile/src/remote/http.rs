//! Files behind URLs.

use cairn_solver::Digest;

/// Whether `word` is the URL of a file. Only lower-case schemes count.
pub(crate) fn is_url(word: &str) -> bool {
    word.starts_with("http://") || word.starts_with("https://")
}

/// The name of the file behind a URL: the last element of its path, without looking at what the server says.
pub(crate) fn filename(url: &str) -> String {
    const UNNAMED: &str = "__unnamed__";
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (_, rest) = url[..end].split_once("://").unwrap_or(("", &url[..end]));
    let Some((_, path)) = rest.split_once('/') else {
        return UNNAMED.to_owned();
    };
    let Some(path) = super::git::percent_decode(path, false) else {
        return UNNAMED.to_owned();
    };
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name {
        "" | "." | ".." => UNNAMED.to_owned(),
        name if name.contains('\0') => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

/// The digest that a downloaded file must have.
///
/// # Errors
/// What is wrong with it, in words that users know.
pub(crate) fn checksum(text: &str) -> Result<Digest, String> {
    if let Ok(digest) = Digest::parse(text) {
        return Ok(digest);
    }
    let fail = |cause: &str| Err(cause.to_owned());
    let Some((algorithm, encoded)) = text.split_once(':').filter(|(a, e)| !a.is_empty() && !e.is_empty()) else {
        return fail("invalid checksum digest format");
    };
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let has_form = algorithm.split(['.', '+', '_', '-']).all(part)
        && encoded
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-'));
    match algorithm {
        "sha256" if encoded.len() != 64 => fail("invalid checksum digest length"),
        "sha256" => fail("invalid checksum digest format"),
        _ if !has_form => fail("invalid checksum digest format"),
        _ => fail("unsupported digest algorithm"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_urls() {
        for (url, want) in [
            ("http://h/a/file.txt", "file.txt"),
            ("http://h/a/file.txt?x=/y#/z", "file.txt"),
            ("http://h/a/", "a"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h?a/b", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/..", "__unnamed__"),
            ("http://h/a%2f..", "__unnamed__"),
            ("http://h/%zz", "__unnamed__"),
            ("http://h/%00", "__unnamed__"),
        ] {
            assert_eq!(filename(url), want, "{url}");
        }
    }

    #[test]
    fn checksums_are_digests() {
        assert!(checksum(&format!("sha256:{}", "0".repeat(64))).is_ok());
        for (text, want) in [
            ("abc", "invalid checksum digest format"),
            (":abc", "invalid checksum digest format"),
            ("sha256:", "invalid checksum digest format"),
            ("sha256:abc", "invalid checksum digest length"),
            (&format!("sha256:{}", "A".repeat(64)), "invalid checksum digest format"),
            ("md5:abc", "unsupported digest algorithm"),
            ("MD5:abc", "invalid checksum digest format"),
        ] {
            assert_eq!(checksum(text).unwrap_err(), want, "{text}");
        }
    }
}
