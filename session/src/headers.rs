//! The metadata with which a client opens a session.

use std::collections::HashSet;
use std::time::Duration;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::error::SessionError;

const ID: &str = "x-docker-expose-session-uuid";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";
const HEALTH: &str = "x-buildkit-session-health-custom-timeout";

const MAX_ID: usize = 256;
const MAX_SHARED_KEY: usize = 1024;
const MAX_METHODS: usize = 256;
const MAX_METHOD: usize = 256;
const MIN_HEALTH: Duration = Duration::from_secs(1);

/// Who a session is and what it offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionHeaders {
    /// The id under which builds refer to the session.
    pub id: String,
    /// Seeds the reuse of directories received earlier; may be empty.
    pub shared_key: String,
    /// Full paths of the offered methods, in lower case.
    pub methods: HashSet<String>,
    /// Replaces interval and timeout of the health probe.
    pub health_timeout: Option<Duration>,
}

impl SessionHeaders {
    /// A session that offers `methods`, given by their full paths.
    #[must_use]
    pub fn new(id: &str, shared_key: &str, methods: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            shared_key: shared_key.to_owned(),
            methods: methods.iter().map(|method| method.to_ascii_lowercase()).collect(),
            health_timeout: None,
        }
    }

    /// Reads and checks the metadata of a new session.
    ///
    /// # Errors
    /// [`SessionError::InvalidHeader`] if the id is missing or anything is longer than it may be.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self, SessionError> {
        let id = text(metadata, ID, MAX_ID)?;
        if id.is_empty() {
            return Err(invalid(ID, "missing"));
        }
        let mut methods = HashSet::new();
        for value in metadata.get_all(METHOD) {
            let method = value.to_str().map_err(|_| invalid(METHOD, "not printable"))?;
            if method.len() > MAX_METHOD || methods.len() == MAX_METHODS {
                return Err(invalid(METHOD, "too many or too long"));
            }
            methods.insert(method.to_ascii_lowercase());
        }
        let shared_key = text(metadata, SHARED_KEY, MAX_SHARED_KEY)?;
        Ok(Self {
            id,
            shared_key,
            methods,
            health_timeout: health_timeout(metadata)?,
        })
    }

    /// Whether a method, given by its full path, is on offer.
    #[must_use]
    pub fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }
}

/// Metadata for opening a session that offers `methods`.
///
/// # Errors
/// [`SessionError::InvalidHeader`] if a value has other than printable ASCII characters.
pub(crate) fn to_metadata(id: &str, shared_key: &str, methods: &[&str]) -> Result<MetadataMap, SessionError> {
    let mut metadata = MetadataMap::new();
    metadata.insert(ID, value(ID, id)?);
    metadata.insert(SHARED_KEY, value(SHARED_KEY, shared_key)?);
    for method in methods {
        metadata.append(METHOD, value(METHOD, method)?);
    }
    Ok(metadata)
}

fn value(header: &'static str, text: &str) -> Result<AsciiMetadataValue, SessionError> {
    text.parse().map_err(|_| invalid(header, "not printable"))
}

fn text(metadata: &MetadataMap, header: &'static str, max: usize) -> Result<String, SessionError> {
    let Some(value) = metadata.get(header) else {
        return Ok(String::new());
    };
    let value = value.to_str().map_err(|_| invalid(header, "not printable"))?;
    if value.len() > max {
        return Err(invalid(header, &format!("longer than {max} bytes")));
    }
    Ok(value.to_owned())
}

fn health_timeout(metadata: &MetadataMap) -> Result<Option<Duration>, SessionError> {
    let value = text(metadata, HEALTH, 20)?;
    if value.is_empty() {
        return Ok(None);
    }
    let millis = value
        .parse()
        .map_err(|_| invalid(HEALTH, "not a number of milliseconds"))?;
    let timeout = Duration::from_millis(millis);
    if timeout < MIN_HEALTH {
        return Err(invalid(HEALTH, "less than a second"));
    }
    Ok(Some(timeout))
}

fn invalid(header: &'static str, reason: &str) -> SessionError {
    SessionError::InvalidHeader {
        header,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_wire() {
        let metadata = to_metadata("abc", "key", &["/pkg.Service/Method", "/pkg.Service/Other"]).unwrap();
        let headers = SessionHeaders::from_metadata(&metadata).unwrap();
        assert_eq!((headers.id.as_str(), headers.shared_key.as_str()), ("abc", "key"));
        assert!(headers.supports("/pkg.service/METHOD") && !headers.supports("/pkg.Service/None"));
    }

    #[test]
    fn refuses_what_breaks_its_limits() {
        let long = "x".repeat(MAX_ID + 1);
        let many: Vec<String> = (0..=MAX_METHODS).map(|n| format!("/m/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (id, methods) in [("", &[][..]), (long.as_str(), &[]), ("a", many.as_slice())] {
            let metadata = to_metadata(id, "", methods).unwrap();
            SessionHeaders::from_metadata(&metadata).unwrap_err();
        }
        for (value, valid) in [("1000", true), ("999", false), ("x", false), ("-1", false)] {
            let mut metadata = to_metadata("a", "", &[]).unwrap();
            metadata.insert(HEALTH, value.parse().unwrap());
            assert_eq!(SessionHeaders::from_metadata(&metadata).is_ok(), valid, "{value}");
        }
    }
}
