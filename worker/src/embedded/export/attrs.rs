//! Settings of exporters, as clients send them.

use std::collections::BTreeMap;
use std::fmt::Display;

use cairn_solver::worker::WorkerError;
use jiff::Timestamp;

/// Flags that say nothing without a value.
const NEED_VALUES: [&str; 5] = [
    "attestation-inline",
    "oci-artifact",
    "platform-split",
    "prefer-nondist-layers",
    "rewrite-timestamp",
];

/// The settings of one exporter.
pub(super) struct Attrs<'a> {
    kind: &'a str,
    attrs: &'a BTreeMap<String, String>,
}

impl<'a> Attrs<'a> {
    pub(super) fn new(kind: &'a str, attrs: &'a BTreeMap<String, String>) -> Self {
        Self { kind, attrs }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.attrs.get(key).map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.attrs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// An error about one setting.
    pub(super) fn invalid(&self, key: &str, expected: &str) -> WorkerError {
        let value = self.get(key).unwrap_or_default();
        self.error(format!("{key}={value:?}: {expected}"))
    }

    /// An error about settings, in words that clients know.
    pub(super) fn error(&self, text: impl Display) -> WorkerError {
        WorkerError::Invalid(format!("{} exporter: {text}", self.kind))
    }

    /// A flag; present without a value it is set, unless it is one that needs a value.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, WorkerError> {
        match self.get(key) {
            None => Ok(default),
            Some("") if !NEED_VALUES.contains(&key) => Ok(true),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(value) => Err(self.error(not_a_flag(key, value))),
        }
    }

    /// `source-date-epoch`, in seconds.
    pub(super) fn epoch(&self) -> Result<Option<Timestamp>, WorkerError> {
        const KEY: &str = "source-date-epoch";
        let Some(text) = self.get(KEY).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let time = text
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        let invalid = || self.error(format!("invalid {KEY}: {text:?}: expected seconds since 1970"));
        time.map(Some).ok_or_else(invalid)
    }
}

/// What is wrong with a flag, in words that clients look for: they are not the same for all of them.
pub(in crate::embedded) fn not_a_flag(key: &str, value: &str) -> String {
    match key {
        "force-compression" => format!("non-bool value {value} specified for {key}: expected true or false"),
        "platform-split" => format!("non-bool value for {key}: {value}: expected true or false"),
        _ => format!("non-bool value specified for {key}: {value:?}: expected true or false"),
    }
}

/// What is wrong with a number.
pub(in crate::embedded) fn not_a_number(key: &str, value: &str) -> String {
    format!("non-integer value {value} specified for {key}")
}

/// What is wrong with the name of a compression.
pub(in crate::embedded) fn not_a_compression(value: &str) -> String {
    format!("unsupported compression type {value}: expected gzip, zstd, estargz or uncompressed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_times() {
        let attrs = BTreeMap::from_iter(
            [
                ("a", ""),
                ("b", "false"),
                ("c", "perhaps"),
                ("source-date-epoch", "86400"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let attrs = Attrs::new("image", &attrs);
        assert!(attrs.flag("a", false).unwrap());
        assert!(!attrs.flag("b", true).unwrap());
        assert!(attrs.flag("missing", true).unwrap());
        assert_eq!(attrs.epoch().unwrap().unwrap().as_second(), 86400);
    }

    #[test]
    fn errors_have_the_words_that_clients_look_for() {
        for (key, value, want) in [
            ("push", "perhaps", "non-bool value specified for push: \"perhaps\""),
            (
                "force-compression",
                "x",
                "non-bool value x specified for force-compression",
            ),
            ("platform-split", "x", "non-bool value for platform-split: x"),
            ("oci-artifact", "", "non-bool value specified for oci-artifact: \"\""),
        ] {
            let pairs = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            let error = Attrs::new("image", &pairs).flag(key, true).unwrap_err().to_string();
            assert!(error.starts_with("image exporter: ") && error.contains(want), "{error}");
        }
        for text in ["now", "99999999999999999"] {
            let pairs = BTreeMap::from([("source-date-epoch".to_owned(), text.to_owned())]);
            let error = Attrs::new("tar", &pairs).epoch().unwrap_err().to_string();
            assert!(error.contains("invalid source-date-epoch"), "{error}");
        }
    }
}
