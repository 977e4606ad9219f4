//! What is fuzzed here; see [`crate::fuzzing`].

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::auth::read_answer;
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

/// Answers of token servers: what is sent holds nothing but the token, however long that is said to be good.
pub(crate) fn token_answer(data: &[u8]) {
    if let Ok(token) = read_answer(data) {
        assert!(!token.secret.expose().is_empty(), "a token without a text");
        drop(token.authorization());
    }
}
