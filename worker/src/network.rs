//! What went wrong with a request, in the words in which programs written in Go say it: those are what clients, and the
//! programs around them, look for.

use std::error::Error;
use std::io;

use url::Url;

use crate::causes::{system_words, with_causes};

/// Why a request was not answered, or not to the end.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct NetworkError {
    text: String,
    is_connect: bool,
    is_builder: bool,
}

impl NetworkError {
    /// What `error` says of a request to `url`. The address in the error itself, to which the request may have been
    /// redirected, is left out: it may hold a signature.
    pub(crate) fn new(url: &Url, error: reqwest::Error) -> Self {
        let system = system_error(&error).filter(|_| error.is_connect());
        match system.map(|system| refused(url, system)) {
            Some(text) => Self {
                text,
                is_connect: true,
                is_builder: false,
            },
            None => Self::during(error),
        }
    }

    /// What `error` says of an answer that had begun.
    pub(crate) fn during(error: reqwest::Error) -> Self {
        let (is_connect, is_builder) = (error.is_connect(), error.is_builder());
        let text = with_causes(&error.without_url());
        Self {
            text,
            is_connect,
            is_builder,
        }
    }

    /// Whether there was no connection at all.
    pub(crate) const fn is_connect(&self) -> bool {
        self.is_connect
    }

    /// Whether there never was a request that could have been sent.
    pub(crate) const fn is_builder(&self) -> bool {
        self.is_builder
    }
}

/// What the system said, if it is the reason.
fn system_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref::<io::Error>().or(found);
        cause = error.source();
    }
    found
}

/// A connection that there was none of.
fn refused(url: &Url, error: &io::Error) -> String {
    let host = url.host_str().unwrap_or_default();
    let words = system_words(error);
    if words.contains("failed to lookup address information") {
        let is_unknown = words.contains("not known") || words.contains("No address associated");
        let why = if is_unknown { "no such host" } else { words.as_str() };
        return format!("dial tcp: lookup {host}: {why}");
    }
    if error.raw_os_error().is_none() {
        // It was made, and something else than a server of this kind answered.
        return with_causes(error);
    }
    let port = url.port_or_known_default().unwrap_or_default();
    format!("dial tcp {host}:{port}: connect: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_that_fail_are_told_in_known_words() {
        let client = crate::registry::plain_client().unwrap();
        for (url, want) in [
            (
                "http://127.0.0.1:1/x?secret",
                "dial tcp 127.0.0.1:1: connect: connection refused",
            ),
            ("http://nowhere.invalid/x", "dial tcp: lookup nowhere.invalid: "),
        ] {
            let error = client.get(url).send().await.unwrap_err();
            let error = NetworkError::new(&url.parse().unwrap(), error);
            assert!(error.to_string().starts_with(want), "{error}");
            assert!(error.is_connect() && !error.to_string().contains("secret"), "{error}");
        }
    }
}
