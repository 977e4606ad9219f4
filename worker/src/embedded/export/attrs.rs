//! Settings of exporters, as clients send them.

use std::collections::BTreeMap;

use cairn_solver::worker::WorkerError;
use jiff::Timestamp;

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
        WorkerError::Invalid(format!("{} exporter: {key}={value:?}: {expected}", self.kind))
    }

    /// A flag; present without a value it is set.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, WorkerError> {
        match self.get(key) {
            None => Ok(default),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(self.invalid(key, "expected true or false")),
        }
    }

    /// `source-date-epoch`, in seconds.
    pub(super) fn epoch(&self) -> Result<Option<Timestamp>, WorkerError> {
        const KEY: &str = "source-date-epoch";
        let expected = "expected seconds since 1970";
        match self.get(KEY) {
            None | Some("") => Ok(None),
            Some(text) => {
                let seconds: i64 = text.parse().map_err(|_| self.invalid(KEY, expected))?;
                let time = Timestamp::from_second(seconds).map_err(|_| self.invalid(KEY, expected))?;
                Ok(Some(time))
            }
        }
    }
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
        assert!(attrs.flag("c", true).unwrap_err().to_string().contains("c=\"perhaps\""));
        assert_eq!(attrs.epoch().unwrap().unwrap().as_second(), 86400);
    }
}
