//! What is fuzzed here; see [`crate::fuzzing`].

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::challenge::{Challenge, choose};

/// Challenges of registries, one in each line: a token server that is named has a name.
pub(crate) fn challenge(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    if let Some(Challenge::Bearer { realm, .. }) = choose(&headers) {
        assert!(!realm.is_empty(), "a token server without a name");
    }
}
