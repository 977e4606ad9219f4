//! Why a call failed, as clients are told: a code, a message, and typed details.
//!
//! Every detail is JSON inside a `google.protobuf.Any`, under the type names that clients of this API know.

use base64::Engine as _;
use cairn_proto::{pb, rpc};
use cairn_solver::llb::{SourceFile, SourceRange};
use cairn_solver::{ExternalError, FailedStep, FrontendError, PolicyError, SolveError, WorkerError};
use prost::Message;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

const TYPE_PREFIX: &str = "github.com/moby/buildkit/";
/// Says where in the user's files something comes from.
const SOURCE: &str = "errdefs.Source+json";
/// Says with which code a process ended.
const EXIT: &str = "gatewayapi.ExitMessage+json";

/// Says what a client decided about a source.
const DECISION: &str = "policysession.DecisionResponse+json";

/// A failed call.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    details: Vec<prost_types::Any>,
    /// The step that failed, if it can be looked into.
    step: Option<FailedStep>,
}

/// A failed step, by the names under which a client can look into it.
pub(crate) struct Inspectable {
    /// What went in.
    pub(crate) inputs: Vec<String>,
    /// What was there in the end.
    pub(crate) mounts: Vec<String>,
    /// What was to be done.
    pub(crate) op: pb::Op,
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

    /// The step that failed, if it can be looked into.
    pub(crate) fn step(&self) -> Option<&FailedStep> {
        self.step.as_ref()
    }

    /// Says under which names the failed step can be looked into.
    pub(crate) fn attach_solve(&mut self, step: &Inspectable) {
        let op = match cairn_proto::json::op(&step.op.encode_to_vec()) {
            Ok(op) => op,
            Err(error) => {
                tracing::warn!(%error, "a failed step cannot be described");
                return;
            }
        };
        let mut detail = Map::new();
        for (name, ids) in [("inputIDs", &step.inputs), ("mountIDs", &step.mounts)] {
            if !ids.is_empty() {
                detail.insert(name.to_owned(), json!(ids));
            }
        }
        detail.insert("op".to_owned(), op);
        // Zero is left out, and 64 bits are text, in protobuf's JSON form.
        let index = |index: usize| match index {
            0 => json!({}),
            index => json!({ "index": index.to_string() }),
        };
        match step.subject {
            None => {}
            Some(Subject::File(action)) => drop(detail.insert("file".to_owned(), index(action))),
            Some(Subject::Content(input)) => drop(detail.insert("cache".to_owned(), index(input))),
        }
        self.attach("errdefs.Solve+json", &Value::Object(detail));
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
        self.attach(
            SOURCE,
            &json!({
                "info": source_info(file),
                "ranges": ranges.iter().map(range).collect::<Vec<_>>(),
            }),
        );
    }
}

/// A code from outside; a failure is never called a success.
fn failed_code(number: i32) -> Code {
    match Code::from_i32(number) {
        Code::Ok => Code::Unknown,
        code => code,
    }
}

/// Leaves zero values out, as receivers expect.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let is_zero = |value: &Value| match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    let fields = fields.into_iter().filter(|(_, value)| !is_zero(value));
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

fn named_frontend(name: &str, image: &str) -> Value {
    object([("name", Value::from(name)), ("source", Value::from(image))])
}

fn source_info(file: &SourceFile) -> Value {
    object([
        ("filename", Value::from(file.filename.as_str())),
        (
            "data",
            Value::from(base64::engine::general_purpose::STANDARD.encode(&file.data)),
        ),
        ("language", Value::from(file.language.as_str())),
    ])
}

fn range(range: &SourceRange) -> Value {
    let position =
        |line: u32, character: u32| object([("line", Value::from(line)), ("character", Value::from(character))]);
    json!({
        "start": position(range.start_line, range.start_character),
        "end": position(range.end_line, range.end_character),
    })
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

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        SolveError::Worker(error).into()
    }
}

impl From<SolveError> for Failure {
    fn from(error: SolveError) -> Self {
        let code = match &error {
            SolveError::Cancelled | SolveError::Worker(WorkerError::Cancelled) => Code::Cancelled,
            SolveError::Worker(WorkerError::NotFound(_)) | SolveError::NotFound(_) => Code::NotFound,
            SolveError::NoWorker { .. } => Code::FailedPrecondition,
            _ => Code::Unknown,
        };
        let mut failure = Self::new(code, error.to_string());
        if let SolveError::Policy(PolicyError::Refused { messages, .. })
        | SolveError::ResolvePolicy(PolicyError::Refused { messages, .. }) = &error
        {
            let messages: Vec<Value> = messages.iter().map(|message| json!({ "message": message })).collect();
            failure.attach(DECISION, &json!({ "action": "DENY", "denyMessages": messages }));
        }
        if let SolveError::Vertex(vertex) = &error {
            failure.step.clone_from(&vertex.failed);
            for (file, location) in &vertex.places {
                failure.attach_source(file, &location.ranges);
            }
            failure.attach("errdefs.Vertex+json", &json!({ "digest": vertex.vertex.to_string() }));
            if let WorkerError::Exit { code, .. } = &vertex.source {
                failure.attach(EXIT, &json!({ "Code": code }));
            }
        }
        failure
    }
}

impl From<FrontendError> for Failure {
    fn from(error: FrontendError) -> Self {
        let message = error.to_string();
        match error {
            FrontendError::Solve(error) => error.into(),
            FrontendError::Option(message) => Self::unknown(message),
            FrontendError::Subrequest(name) => {
                let mut failure = Self::unknown(message);
                failure.attach("errdefs.Subrequest+json", &json!({ "name": name }));
                failure
            }
            FrontendError::Input { file, locations, .. } => {
                let mut failure = Self::unknown(message);
                for location in &locations {
                    failure.attach_source(&file, &location.ranges);
                }
                failure
            }
            FrontendError::At {
                source,
                file,
                locations,
            } => {
                let mut failure = Self::from(*source);
                if !failure.has(SOURCE) {
                    for location in &locations {
                        failure.attach_source(&file, &location.ranges);
                    }
                }
                failure
            }
            FrontendError::For { source, .. } => Self {
                message,
                ..Self::from(*source)
            },
            FrontendError::Called { name, image, source } => {
                let mut failure = Self::from(*source);
                failure.attach("errdefs.Frontend+json", &named_frontend(&name, &image));
                failure
            }
            FrontendError::Capability(name) => {
                let mut failure = Self::new(Code::Unimplemented, message);
                failure.attach("errdefs.FrontendCap+json", &json!({ "name": name }));
                failure
            }
            FrontendError::External(error) => Self {
                code: failed_code(error.code),
                message,
                details: error
                    .details
                    .into_iter()
                    .map(|(type_url, value)| prost_types::Any {
                        type_url,
                        value: value.into(),
                    })
                    .collect(),
                step: None,
            },
        }
    }
}

impl From<Failure> for FrontendError {
    fn from(failure: Failure) -> Self {
        Self::External(ExternalError {
            message: failure.message,
            code: failure.code.into(),
            details: failure
                .details
                .into_iter()
                .map(|detail| (detail.type_url, detail.value.into()))
                .collect(),
        })
    }
}

/// The wire form of a source file, for warnings.
pub(crate) fn wire_source_info(file: &SourceFile) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: file.filename.clone(),
        data: file.data.clone(),
        definition: None,
        language: file.language.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_solver::llb::SourceLocation;
    use cairn_solver::{Digest, VertexError};

    use super::*;

    #[test]
    fn what_is_not_supported_is_named_in_a_detail() {
        let cap = FrontendError::Capability("a.b".to_owned());
        let request = FrontendError::Subrequest("frontend.x".to_owned());
        for (error, code, message, kind, name) in [
            (
                cap,
                Code::Unimplemented,
                "unsupported frontend capability a.b",
                "errdefs.FrontendCap+json",
                "a.b",
            ),
            (
                request,
                Code::Unknown,
                "unsupported request frontend.x",
                "errdefs.Subrequest+json",
                "frontend.x",
            ),
        ] {
            let wire = Failure::from(error).to_wire();
            assert_eq!((wire.code, wire.message.as_str()), (code.into(), message));
            assert_eq!(wire.details[0].type_url.strip_prefix(TYPE_PREFIX), Some(kind));
            let detail: Value = serde_json::from_slice(&wire.details[0].value).unwrap();
            assert_eq!(detail, json!({ "name": name }));
        }
    }

    #[test]
    fn reasons_of_a_client_come_back_to_it() {
        let error = SolveError::Policy(PolicyError::Refused {
            identifier: "docker-image://a".to_owned(),
            messages: vec!["too old".to_owned()],
        });
        let wire = Failure::from(error).to_wire();
        let kind = wire.details[0].type_url.strip_prefix(TYPE_PREFIX);
        assert_eq!(kind, Some("policysession.DecisionResponse+json"));
        let detail: Value = serde_json::from_slice(&wire.details[0].value).unwrap();
        assert_eq!(detail["denyMessages"][0]["message"], "too old");
    }

    #[test]
    fn a_failed_process_points_at_its_line() {
        let range = SourceRange {
            start_line: 3,
            end_line: 3,
            ..SourceRange::default()
        };
        let error = SolveError::Vertex(Arc::new(VertexError {
            vertex: Digest::sha256(b"v"),
            name: "RUN false".to_owned(),
            source: WorkerError::Exit {
                command: "false".to_owned(),
                code: 1,
                cause: None,
            },
            places: vec![(
                Arc::new(SourceFile {
                    filename: "Dockerfile".to_owned(),
                    data: "FROM a\n".into(),
                    language: "Dockerfile".to_owned(),
                    definition: None,
                }),
                SourceLocation {
                    file: 0,
                    ranges: vec![range],
                },
            )],
            failed: None,
        }));
        let status = Status::from(Failure::from(error));
        assert_eq!(status.code(), Code::Unknown);
        assert!(
            status
                .message()
                .ends_with("did not complete successfully: exit code: 1")
        );
        let wire = rpc::Status::decode(status.details()).unwrap();
        let kinds: Vec<&str> = wire
            .details
            .iter()
            .map(|detail| detail.type_url.strip_prefix(TYPE_PREFIX).unwrap())
            .collect();
        assert_eq!(
            kinds,
            [
                "errdefs.Source+json",
                "errdefs.Vertex+json",
                "gatewayapi.ExitMessage+json"
            ]
        );
        let source: Value = serde_json::from_slice(&wire.details[0].value).unwrap();
        assert_eq!(
            source,
            json!({
                "info": { "filename": "Dockerfile", "data": "RlJPTSBhCg==", "language": "Dockerfile" },
                "ranges": [{ "start": { "line": 3 }, "end": { "line": 3 } }],
            })
        );
    }
}
