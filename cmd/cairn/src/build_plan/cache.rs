//! `--cache-from` and `--cache-to`: caches that are imported and exported.

use std::collections::BTreeMap;
use std::path::Path;

use crate::csv;
use crate::error::CliError;
use crate::surroundings::Surroundings;

/// A cache as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachePlan {
    /// Its type, such as `registry`.
    pub(crate) kind: String,
    /// Its settings.
    pub(crate) attrs: BTreeMap<String, String>,
}

impl CachePlan {
    /// A cache to import.
    pub(super) fn from(text: &str, surroundings: &Surroundings) -> Result<Self, CliError> {
        Self::parse("--cache-from", text, "src", surroundings)
    }

    /// A cache to export.
    pub(super) fn to(text: &str, surroundings: &Surroundings) -> Result<Self, CliError> {
        Self::parse("--cache-to", text, "dest", surroundings)
    }

    /// Reads `type=TYPE,KEY=VALUE…`, or a reference alone. `dir` is the setting that names a directory.
    fn parse(option: &str, text: &str, dir: &str, surroundings: &Surroundings) -> Result<Self, CliError> {
        let invalid = |reason: &str| {
            CliError::usage_hint(
                format!("invalid {option} {text:?}: {reason}"),
                format!("such as {option} type=registry,ref=NAME, type=local,{dir}=DIR or type=inline"),
            )
        };
        if !text.is_empty() && !text.contains(['=', ',']) {
            return Ok(Self {
                kind: "registry".to_owned(),
                attrs: BTreeMap::from([("ref".to_owned(), text.to_owned())]),
            });
        }
        let mut attrs = BTreeMap::new();
        for (key, value) in csv::pairs(option, text)? {
            let value = value.ok_or_else(|| invalid(&format!("{key} has no value")))?;
            if attrs.insert(key.clone(), value).is_some() {
                return Err(invalid(&format!("{key} is given twice")));
            }
        }
        let kind = attrs.remove("type").ok_or_else(|| invalid("it has no type"))?;
        let needed = match kind.as_str() {
            "registry" => Some("ref"),
            "local" => Some(dir),
            _ => None,
        };
        if let Some(needed) = needed.filter(|key| attrs.get(*key).is_none_or(String::is_empty)) {
            return Err(invalid(&format!("it has no {needed}")));
        }
        if kind == "local"
            && let Some(path) = attrs.get_mut(dir)
        {
            let full = surroundings.path(Path::new(path.as_str()));
            *path = full.to_string_lossy().into_owned();
        }
        Ok(Self { kind, attrs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_named_in_short_or_with_settings() {
        let around = Surroundings {
            directory: "/w".into(),
            ..Surroundings::default()
        };
        let plan = |kind: &str, attrs: &[(&str, &str)]| CachePlan {
            kind: kind.to_owned(),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        for (text, expected) in [
            ("r:5000/x", plan("registry", &[("ref", "r:5000/x")])),
            (
                "type=registry,ref=x,mode=max",
                plan("registry", &[("ref", "x"), ("mode", "max")]),
            ),
            ("type=local,dest=c", plan("local", &[("dest", "/w/c")])),
            ("type=inline", plan("inline", &[])),
        ] {
            assert_eq!(CachePlan::to(text, &around).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "ref=x",
            "type=registry",
            "type=local,dest=",
            "type=local,src",
            "type=inline,a=1,a=2",
        ] {
            assert!(CachePlan::to(text, &around).is_err(), "{text}");
        }
        assert_eq!(
            CachePlan::from("type=local,src=c", &around).unwrap().attrs["src"],
            "/w/c"
        );
    }
}
