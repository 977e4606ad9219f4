//! Why a call failed, as clients are told: a code, a message, and typed details.
//!
//! Every detail is JSON inside a `google.protobuf.Any`, under the type names that clients of this API know.

mod details;
mod errors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cairn_proto::{pb, rpc};
use cairn_solver::FailedStep;
use cairn_solver::llb::{SourceFile, SourceRange};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status};

const TYPE_PREFIX: &str = "github.com/moby/buildkit/";
/// Says where in the user's files something comes from.
const SOURCE: &str = "errdefs.Source+json";
/// Says which step failed, and how to look into it.
const SOLVE: &str = "errdefs.Solve+json";
/// Says with which code a process ended.
const EXIT: &str = "gatewayapi.ExitMessage+json";

/// A failed call.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    details: Vec<prost_types::Any>,
    /// The step that failed, if it was one.
    step: Option<FailedStep>,
}

/// A failed step, and the names under which a client can look into it.
#[derive(Default)]
pub(crate) struct Inspectable {
    /// What went in.
    pub(crate) inputs: Vec<String>,
    /// What was there in the end.
    pub(crate) mounts: Vec<String>,
    /// What was to be done; none if what failed is no step.
    pub(crate) op: Option<pb::Op>,
    /// What clients say about it.
    pub(crate) description: BTreeMap<String, String>,
    /// What of it failed, if it has parts.
    pub(crate) subject: Option<Subject>,
}

/// What of a step failed.
#[derive(Clone, Copy)]
pub(crate) enum Subject {
    /// A file operation, by its place among them.
    File(usize),
    /// The content of an input, by its number.
    Content(usize),
}

impl Failure {
    /// A failure without details.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            step: None,
        }
    }

    /// Something the client asked for that makes no sense or is not supported.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    /// A process that ended with a code that does not mean success.
    pub(crate) fn of_exit(code: u32) -> Self {
        let mut failure = Self::unknown(format!("exit code: {code}"));
        failure.attach(EXIT, &json!({ "Code": code }));
        failure
    }

    /// The same failure in other words.
    pub(crate) fn with_message(self, message: String) -> Self {
        Self { message, ..self }
    }

    /// The message alone.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The step that failed, if it was one.
    pub(crate) fn step(&self) -> Option<&FailedStep> {
        self.step.as_ref()
    }

    /// Says which step failed, and under which names it can be looked into. That may have been said by somebody else,
    /// who drove a part of the build.
    pub(crate) fn attach_solve(&mut self, step: &Inspectable) {
        if self.has(SOLVE) {
            return;
        }
        let op = step.op.as_ref().map(|op| cairn_proto::json::op(&op.encode_to_vec()));
        let op = match op.transpose() {
            Ok(op) => op,
            Err(error) => {
                tracing::warn!(%error, "a failed step cannot be described");
                return;
            }
        };
        self.attach(SOLVE, &details::solve(step, op));
    }

    /// The form it has inside messages.
    pub(crate) fn to_wire(&self) -> rpc::Status {
        rpc::Status {
            code: self.code.into(),
            message: self.message.clone(),
            details: self.details.clone(),
        }
    }

    fn attach(&mut self, kind: &str, value: &Value) {
        self.details.push(prost_types::Any {
            type_url: format!("{TYPE_PREFIX}{kind}"),
            value: value.to_string().into_bytes(),
        });
    }

    /// Whether there is a detail of this kind.
    fn has(&self, kind: &str) -> bool {
        let mut kinds = self.details.iter().map(|detail| detail.type_url.as_str());
        kinds.any(|url| url.strip_prefix(TYPE_PREFIX) == Some(kind))
    }

    fn attach_source(&mut self, file: &SourceFile, ranges: &[SourceRange]) {
        self.attach(SOURCE, &details::source(file, ranges));
    }
}

/// A code from outside; a failure is never called a success.
fn failed_code(number: i32) -> Code {
    match Code::from_i32(number) {
        Code::Ok => Code::Unknown,
        code => code,
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        if failure.details.is_empty() {
            return Self::new(failure.code, failure.message);
        }
        let details = failure.to_wire().encode_to_vec();
        Self::with_details(failure.code, failure.message, details.into())
    }
}

impl From<rpc::Status> for Failure {
    fn from(status: rpc::Status) -> Self {
        Self {
            code: failed_code(status.code),
            message: status.message,
            details: status.details,
            step: None,
        }
    }
}

/// The wire form of a source file.
pub(crate) fn wire_source_info(file: &SourceFile) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: file.filename.clone(),
        data: file.data.clone(),
        definition: file.definition.as_ref().map(|definition| definition.to_wire()),
        language: file.language.clone(),
    }
}
