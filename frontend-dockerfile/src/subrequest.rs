//! Requests for something else than a build: what a Dockerfile offers, and what is odd about it.
//!
//! An answer is metadata of a result without any files: JSON for programs, text for people. Both have the exact form
//! that clients of this API know, which is why JSON is written in the order and with the escapes of Go's encoder.

mod convert;
mod describe;
mod json;
mod lint;
mod location;
mod outline;
mod table;
mod targets;
mod wire;

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_solver::frontend::FrontendResult;

pub(crate) use convert::convert;
pub(crate) use describe::describe;
pub(crate) use lint::{BuildError, Lint};
pub(crate) use outline::outline;
pub(crate) use targets::targets;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subrequest {
    /// Which requests there are.
    Describe,
    /// What the target takes: arguments, secrets, ssh agents.
    Outline,
    /// Which stages there are.
    Targets,
    /// What checks find, and what is wrong.
    Lint,
    /// The graph.
    ConvertLlb,
}

impl Subrequest {
    /// The request of that id.
    pub(crate) fn from_id(id: &str) -> Option<Self> {
        Some(match id {
            "frontend.subrequests.describe" => Self::Describe,
            "frontend.outline" => Self::Outline,
            "frontend.targets" => Self::Targets,
            "frontend.lint" => Self::Lint,
            "frontend.convertllb" => Self::ConvertLlb,
            _ => return None,
        })
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Version of the form it has.
    version: &'static str,
    json: String,
    text: Option<String>,
    /// What the client's process should end with.
    status_code: Option<u8>,
}

impl Answer {
    fn new(json: String, text: String) -> Self {
        Self {
            version: "1.0.0",
            json,
            text: Some(text),
            status_code: None,
        }
    }
}

impl From<Answer> for FrontendResult {
    fn from(answer: Answer) -> Self {
        let mut metadata: BTreeMap<String, Bytes> = BTreeMap::from([
            ("version".to_owned(), answer.version.into()),
            ("result.json".to_owned(), answer.json.into()),
        ]);
        metadata.extend(answer.text.map(|text| ("result.txt".to_owned(), text.into())));
        let code = answer.status_code.map(|code| code.to_string().into());
        metadata.extend(code.map(|code| ("result.statuscode".to_owned(), code)));
        Self {
            metadata,
            ..Self::default()
        }
    }
}

/// What a comment above a stage or an argument says about it: the rest of the first line that begins with the name.
fn description(comments: &[String], name: &str) -> Option<String> {
    let mut said = comments
        .iter()
        .filter_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '));
    said.next().map(str::to_owned)
}

#[cfg(test)]
mod tests;
