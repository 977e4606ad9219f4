//! How a client wants it stated how its build was done: option `attest:provenance`.

use std::collections::BTreeMap;

use super::predicate::{Detail, Version};

/// Option, and what it is called as a build argument.
const OPTIONS: [&str; 2] = ["attest:provenance", "build-arg:BUILDKIT_ATTEST_PROVENANCE"];
/// Build argument that has the record of a build speak version 1.
const RECORD_V1: &str = "build-arg:BUILDKIT_HISTORY_PROVENANCE_V1";
/// Name of the file that the statement becomes where results are files.
const DEFAULT_FILE: &str = "provenance.json";

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(super) detail: Detail,
    pub(super) version: Version,
    /// Whether only images carry the statement.
    pub(super) is_inline_only: bool,
    /// Who says that it built.
    pub(super) builder_id: String,
    pub(super) file: String,
    /// Whether the client says that the same would come out again.
    pub(super) is_reproducible: bool,
    /// Whether the build is to fail if not everything that it used can be named.
    pub(super) must_be_complete: bool,
    /// Whether it is to be told what was used of the machine.
    pub(super) captures_usage: bool,
    /// What is asked for besides and not done, in words.
    pub(super) ignored: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            detail: Detail::Max,
            version: Version::V1,
            is_inline_only: false,
            builder_id: String::new(),
            file: DEFAULT_FILE.to_owned(),
            is_reproducible: false,
            must_be_complete: false,
            captures_usage: false,
            ignored: Vec::new(),
        }
    }
}

impl Settings {
    /// What the options ask for; `None` if nothing.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn of(options: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let value = OPTIONS.iter().find_map(|key| options.get(*key));
        value.map_or(Ok(None), |value| Self::parse(value))
    }

    fn parse(text: &str) -> Result<Option<Self>, String> {
        let fields = match text {
            "" => Vec::new(),
            text => {
                cairn_dockerfile::csv_record(text).map_err(|cause| format!("failed to parse provenance: {cause}"))?
            }
        };
        let mut settings = Self::default();
        for field in fields {
            let (key, value) = field.split_once('=').unwrap_or((&field, ""));
            match key {
                "mode" => settings.detail = detail(value)?,
                "version" => settings.version = version(value)?,
                "inline-only" => settings.is_inline_only = flag(key, value)?,
                "builder-id" => value.clone_into(&mut settings.builder_id),
                "filename" if value.is_empty() || value.ends_with(['/', '\0']) => {
                    return Err(format!("invalid filename {value:?} for provenance"));
                }
                "filename" => value.clone_into(&mut settings.file),
                "reproducible" => settings.is_reproducible = flag(key, value)?,
                "complete-materials" => settings.must_be_complete = flag(key, value)?,
                "capture-usage" => settings.captures_usage = flag(key, value)?,
                "disabled" if flag(key, value)? => return Ok(None),
                "disabled" | "type" => {}
                _ => settings.ignored.push(format!("unknown parameter of provenance: {key}")),
            }
        }
        Ok(Some(settings))
    }
}

/// The form in which the record of a build keeps its provenance. Clients look for a member of version 0.2 in whatever they
/// find there, so the other one is for those who ask.
pub(crate) fn recorded(options: &BTreeMap<String, String>) -> Version {
    let is_v1 = options.get(RECORD_V1).map(|value| flag(RECORD_V1, value));
    if is_v1 == Some(Ok(true)) {
        Version::V1
    } else {
        Version::V02
    }
}

fn detail(text: &str) -> Result<Detail, String> {
    match text {
        "max" | "full" => Ok(Detail::Max),
        "min" => Ok(Detail::Min),
        _ => Err(format!("invalid mode {text:?}")),
    }
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "" => Err("provenance SLSA version cannot be empty".to_owned()),
        "v1" => Ok(Version::V1),
        "v0.2" => Ok(Version::V02),
        _ => Err(format!("invalid provenance SLSA version: {text}")),
    }
}

/// A truth value as Go writes it.
fn flag(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "failed to parse {key} flag {text:?}: strconv.ParseBool: parsing {text:?}: invalid syntax"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Settings>, String> {
        Settings::of(&[("attest:provenance".to_owned(), text.to_owned())].into())
    }

    #[test]
    fn parameters_are_understood() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            Some(settings)
        };
        for (text, want) in [
            ("", with(|_| {})),
            ("mode=full,version=v1", with(|_| {})),
            ("mode=min", with(|s| s.detail = Detail::Min)),
            ("version=v0.2", with(|s| s.version = Version::V02)),
            ("inline-only=1", with(|s| s.is_inline_only = true)),
            (
                "\"builder-id=https://a,b\"",
                with(|s| s.builder_id = "https://a,b".to_owned()),
            ),
            ("filename=p.json", with(|s| s.file = "p.json".to_owned())),
            ("reproducible=true", with(|s| s.is_reproducible = true)),
            ("complete-materials=T", with(|s| s.must_be_complete = true)),
            ("capture-usage=false,disabled=false", with(|_| {})),
            ("capture-usage=true", with(|s| s.captures_usage = true)),
            ("disabled=true", None),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        assert_eq!(parse("y=z,x=y").unwrap().unwrap().ignored.len(), 2);
        assert_eq!(Settings::of(&BTreeMap::new()).unwrap(), None);
        let argument = [("build-arg:BUILDKIT_ATTEST_PROVENANCE".to_owned(), "mode=min".to_owned())];
        assert_eq!(Settings::of(&argument.into()).unwrap(), parse("mode=min").unwrap());
    }

    #[test]
    fn records_speak_version_1_for_those_who_ask() {
        for (value, want) in [
            ("1", Version::V1),
            ("true", Version::V1),
            ("0", Version::V02),
            ("x", Version::V02),
        ] {
            let options = [(RECORD_V1.to_owned(), value.to_owned())].into();
            assert_eq!(recorded(&options), want, "{value}");
        }
        assert_eq!(recorded(&BTreeMap::new()), Version::V02);
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, want) in [
            ("mode=most", "invalid mode \"most\""),
            ("version=v2", "invalid provenance SLSA version: v2"),
            ("version=", "provenance SLSA version cannot be empty"),
            (
                "reproducible=maybe",
                "failed to parse reproducible flag \"maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            ("filename=", "invalid filename \"\" for provenance"),
            (
                "a\"",
                "failed to parse provenance: parse error on line 1, column 2: bare \" in non-quoted-field",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
    }
}
