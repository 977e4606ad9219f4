//! Answers to `--check` and `--call`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_client::{LineRange, SourceLocation};
use serde_json::Value;

use crate::build_plan::{Call, Format};
use crate::error::CliError;
use crate::exit::ExitCode;
use crate::ui::text::clean;
use crate::ui::{Theme, excerpt};

/// What the daemon answered.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    json: &'a str,
    text: &'a str,
    fails: bool,
    check: Option<Check>,
}

/// What a check came to.
#[derive(Debug)]
struct Check {
    warnings: usize,
    error: Option<BuildError>,
}

/// Why the file could not be built.
#[derive(Debug)]
struct BuildError {
    message: String,
    place: Option<SourceLocation>,
}

impl<'a> Answer<'a> {
    /// Finds the answer in what the daemon said.
    pub(super) fn read(call: &Call, response: &'a BTreeMap<String, String>) -> Result<Self, CliError> {
        let get = |key: &str| response.get(key).map(String::as_str);
        let malformed = |reason: String| CliError::Malformed {
            what: format!("the daemon's answer to {}", call.id),
            reason,
        };
        let json = get("result.json").ok_or_else(|| malformed("there is none".to_owned()))?;
        let check = if call.id == Call::CHECK {
            let value = serde_json::from_str(json).map_err(|error| malformed(error.to_string()))?;
            Some(Check::read(&value))
        } else {
            None
        };
        Ok(Self {
            json,
            // What has no form for people is at least legible.
            text: get("result.txt").unwrap_or(json),
            fails: get("result.statuscode").is_some_and(|code| code != "0"),
            check,
        })
    }

    /// The answer, for standard output.
    pub(super) fn render(&self, format: Format) -> String {
        match (format, &self.check) {
            (Format::Json, _) => format!("{}\n", self.json.trim_end()),
            (Format::Text, None) => lines(self.text),
            (Format::Text, Some(check)) => match (check.warnings, &check.error) {
                (0, None) => "Check complete, no warnings found.\n".to_owned(),
                (0, Some(_)) => String::new(),
                (1, _) => format!("Check complete, 1 warning has been found!\n{}", lines(self.text)),
                (count, _) => format!(
                    "Check complete, {count} warnings have been found!\n{}",
                    lines(self.text)
                ),
            },
        }
    }

    /// What keeps the file from being built, for standard error.
    pub(super) fn complaint(&self, theme: Theme) -> String {
        let Some(error) = self.check.as_ref().and_then(|check| check.error.as_ref()) else {
            return String::new();
        };
        let mut text: String = error.place.as_ref().and_then(excerpt::render).into_iter().collect();
        let message: Vec<String> = error.message.lines().map(clean).collect();
        text.push_str(&format!("{}: {}\n", theme.alarm("error"), message.join("\n  ")));
        text
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        if self.fails {
            ExitCode::Failed
        } else {
            ExitCode::Success
        }
    }
}

impl Check {
    fn read(json: &Value) -> Self {
        let count = |key: &str| json.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let error = json.get("buildError").map(|error| BuildError {
            message: text_of(error, "message"),
            place: place(error.get("location"), json.get("sources")),
        });
        Self {
            warnings: count("warnings"),
            error,
        }
    }
}

fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn place(location: Option<&Value>, sources: Option<&Value>) -> Option<SourceLocation> {
    let location = location?;
    let index = location.get("sourceIndex").and_then(Value::as_u64).unwrap_or(0);
    let source = sources?.get(usize::try_from(index).ok()?)?;
    let line = |range: &Value, end: &str| {
        let line = range.get(end)?.get("line")?.as_u64()?;
        u32::try_from(line).ok()
    };
    let ranges = location.get("ranges")?.as_array()?.iter();
    let ranges = ranges.filter_map(|range| {
        Some(LineRange {
            first: line(range, "start")?,
            last: line(range, "end")?,
        })
    });
    Some(SourceLocation {
        filename: text_of(source, "filename"),
        text: String::from_utf8_lossy(&STANDARD.decode(text_of(source, "data")).ok()?).into_owned(),
        ranges: ranges.collect(),
    })
}

/// Text of several lines, each made safe to show.
fn lines(text: &str) -> String {
    text.lines().map(|line| clean(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    fn call(id: &str) -> Call {
        Call {
            id: id.to_owned(),
            format: Format::Text,
        }
    }

    #[test]
    fn checks_say_how_much_they_found() {
        for (json, code, expected, exit) in [
            (
                r#"{"warnings":null}"#,
                "0",
                "Check complete, no warnings found.\n",
                ExitCode::Success,
            ),
            (
                r#"{"warnings":[{}]}"#,
                "1",
                "Check complete, 1 warning has been found!\n\nW\n",
                ExitCode::Failed,
            ),
            (
                r#"{"warnings":[{},{}]}"#,
                "1",
                "Check complete, 2 warnings have been found!\n\nW\n",
                ExitCode::Failed,
            ),
            (r#"{"buildError":{"message":"x"}}"#, "1", "", ExitCode::Failed),
        ] {
            let response = response(&[
                ("result.json", json),
                ("result.txt", "\nW\n"),
                ("result.statuscode", code),
            ]);
            let answer = Answer::read(&call(Call::CHECK), &response).unwrap();
            assert_eq!(answer.render(Format::Text), expected);
            assert_eq!(answer.render(Format::Json), format!("{json}\n"));
            assert_eq!(answer.exit_code(), exit);
        }
    }

    #[test]
    fn what_keeps_a_file_from_being_built_is_shown_in_it() {
        let json = r#"{"sources":[{"filename":"Dockerfile","data":"RlJPTSBhClJVTg=="}],
            "buildError":{"message":"bad \u001b[2Jthing","location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}}}"#;
        let response = response(&[("result.json", json)]);
        let answer = Answer::read(&call(Call::CHECK), &response).unwrap();
        insta::assert_snapshot!(answer.complaint(Theme::plain()), @r"
        Dockerfile:2
        --------------------
           1 |     FROM a
           2 | >>> RUN
        --------------------
        error: bad thing
        ");
    }

    #[test]
    fn answers_may_be_anything_or_missing() {
        let found = response(&[
            ("result.json", "{\"a\": \"\\u001b\"}"),
            ("result.txt", "T\u{1b}[31m  D\nx\n"),
        ]);
        let answer = Answer::read(&call("frontend.targets"), &found).unwrap();
        assert_eq!(answer.render(Format::Text), "T  D\nx\n");
        assert_eq!(answer.complaint(Theme::plain()), "");
        for (entries, expected) in [
            (
                &[][..],
                "failed to read the daemon's answer to frontend.lint: there is none",
            ),
            (
                &[("result.json", "{")],
                "failed to read the daemon's answer to frontend.lint: EOF while parsing an object at line 1 column 1",
            ),
        ] {
            let error = Answer::read(&call(Call::CHECK), &response(entries)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let odd = response(&[("result.json", r#"{"warnings":3,"buildError":[],"sources":"x"}"#)]);
        assert_eq!(Answer::read(&call(Call::CHECK), &odd).unwrap().render(Format::Text), "");
    }
}
