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
    is_mistrust: bool,
}

impl NetworkError {
    /// What `error` says of a request to `url`. The address in the error itself, to which the request may have been
    /// redirected, is left out: it may hold a signature.
    pub(crate) fn new(url: &Url, error: reqwest::Error) -> Self {
        let system = system_error(&error).filter(|_| error.is_connect());
        let Some(system) = system else {
            return Self::during(error);
        };
        let tls = tls_error(system).and_then(|error| tls_words(url, error));
        Self {
            is_connect: true,
            is_builder: false,
            is_mistrust: tls.is_some(),
            text: tls.unwrap_or_else(|| refused(url, system)),
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
            is_mistrust: false,
        }
    }

    /// Whether the two sides do not want to speak to each other, which trying again does not change.
    pub(crate) const fn is_mistrust(&self) -> bool {
        self.is_mistrust
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

/// What the handshake failed of, if it did.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A handshake that one of the two sides ended; `None` for what has no well-known words.
fn tls_words(url: &Url, error: &rustls::Error) -> Option<String> {
    use rustls::{CertificateError, Error, InvalidMessage};

    let host = url.host_str().unwrap_or_default();
    let certificate = match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            let words = "http: server gave HTTP response to HTTPS client: \
                         tls: first record does not look like a TLS handshake";
            return Some(words.to_owned());
        }
        Error::AlertReceived(alert) => return Some(format!("remote error: tls: {}", spaced(&format!("{alert:?}")))),
        Error::InvalidCertificate(certificate) => certificate,
        _ => return None,
    };
    let words = match certificate {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "certificate has expired or is not yet valid".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            format!("certificate is valid for {}, not {host}", presented.join(", "))
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("certificate is not valid for any names, but wanted to match {host}")
        }
        _ => return None,
    };
    Some(format!("tls: failed to verify certificate: x509: {words}"))
}

/// `BadCertificate` as `bad certificate`.
fn spaced(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
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
    use rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage};

    use super::*;

    #[test]
    fn handshakes_that_fail_are_told_in_known_words() {
        let url = Url::parse("https://registry.test:5000/v2/").unwrap();
        let for_names = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: "registry.test".try_into().unwrap(),
            presented: presented.iter().map(|&name| name.to_owned()).collect(),
        };
        for (error, want) in [
            (
                TlsError::InvalidMessage(InvalidMessage::InvalidContentType),
                Some(
                    "http: server gave HTTP response to HTTPS client: tls: first record does not look like a TLS handshake",
                ),
            ),
            (
                CertificateError::UnknownIssuer.into(),
                Some("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
            ),
            (
                CertificateError::Expired.into(),
                Some("tls: failed to verify certificate: x509: certificate has expired or is not yet valid"),
            ),
            (
                for_names(&["a.test", "b.test"]).into(),
                Some(
                    "tls: failed to verify certificate: x509: certificate is valid for a.test, b.test, not registry.test",
                ),
            ),
            (
                for_names(&[]).into(),
                Some(
                    "tls: failed to verify certificate: x509: certificate is not valid for any names, but wanted to \
                     match registry.test",
                ),
            ),
            (
                TlsError::AlertReceived(AlertDescription::CertificateRequired),
                Some("remote error: tls: certificate required"),
            ),
            (TlsError::DecryptError, None),
        ] {
            let error = io::Error::other(error);
            let words = tls_error(&error).and_then(|error| tls_words(&url, error));
            assert_eq!(words.as_deref(), want, "{error}");
        }
    }

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
