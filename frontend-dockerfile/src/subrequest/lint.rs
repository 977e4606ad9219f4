//! What checks find, and what is wrong.

use std::fmt::Write as _;

use cairn_solver::frontend::{BridgeRef, FrontendError};
use cairn_solver::llb::{SourceFile, SourceLocation};
use serde::Serialize;

use super::location::Location;
use super::wire::SourceInfo;
use super::{Answer, json};
use crate::checks::Finding;
use crate::location::{Lines, excerpt};

/// Everything there is to say about a file.
#[derive(Debug)]
pub(crate) struct Lint<'a> {
    /// What checks found, in the order in which they did.
    pub(crate) found: Vec<Finding>,
    /// Why it cannot be built.
    pub(crate) error: Option<BuildError>,
    pub(crate) file: &'a SourceFile,
    /// Where the file came from.
    pub(crate) source: Option<&'a BridgeRef>,
}

/// Why a build fails, and where.
#[derive(Debug, Serialize)]
pub(crate) struct BuildError {
    message: String,
    location: Location,
}

#[derive(Debug, Serialize)]
struct Results<'a> {
    warnings: Option<Vec<Warning>>,
    sources: [SourceInfo<'a>; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError>,
}

#[derive(Debug, Serialize)]
struct Warning {
    #[serde(rename = "ruleName")]
    rule: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
    detail: String,
    location: Location,
}

impl BuildError {
    /// Why `file` cannot be built.
    pub(crate) fn of(error: &FrontendError, file: &SourceFile) -> Self {
        let lines = places(error, file)
            .iter()
            .flat_map(|place| &place.ranges)
            .map(|range| Lines {
                first: range.start_line,
                last: range.end_line,
            });
        Self {
            message: error.to_string(),
            location: Location::of(lines),
        }
    }
}

/// Where in `file` the error is, as near to it as is known.
fn places<'a>(error: &'a FrontendError, file: &SourceFile) -> &'a [SourceLocation] {
    match error {
        FrontendError::Input {
            file: other, locations, ..
        } if **other == *file => locations,
        FrontendError::At {
            source,
            file: other,
            locations,
        } => match places(source, file) {
            [] if **other == *file => locations,
            nearer => nearer,
        },
        FrontendError::For { source, .. } | FrontendError::Called { source, .. } => places(source, file),
        _ => &[],
    }
}

impl Lint<'_> {
    /// The answer. It says with its code, too, whether there is anything to complain about.
    pub(crate) fn answer(self) -> Answer {
        let text = self.text();
        let warnings = self.found.iter().map(|finding| Warning {
            rule: finding.rule.name,
            description: finding.rule.description,
            url: finding.rule.url(),
            detail: finding.message.clone(),
            location: Location::of([finding.lines]),
        });
        let warnings: Vec<Warning> = warnings.collect();
        let code = u8::from(!warnings.is_empty() || self.error.is_some());
        let results = Results {
            warnings: (!warnings.is_empty()).then_some(warnings),
            sources: [SourceInfo::new(self.file, self.source)],
            error: self.error,
        };
        Answer {
            status_code: Some(code),
            ..Answer::new(json::pretty(&results), text)
        }
    }

    /// The findings for people, in the order of the file.
    fn text(&self) -> String {
        let mut sorted: Vec<&Finding> = self.found.iter().collect();
        sorted.sort_by_key(|finding| finding.lines.first);
        let data = String::from_utf8_lossy(&self.file.data);
        let mut text = String::new();
        for finding in sorted {
            let url = finding.rule.url();
            let dash = if url.is_empty() { "" } else { " - " };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\nWARNING: {}{dash}{url}\n{}", finding.rule.name, finding.message);
            text.push_str(&excerpt(&self.file.filename, &data, finding.lines));
        }
        text
    }
}
