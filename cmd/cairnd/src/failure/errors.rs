//! What the engine and frontends say of failures, as clients are told.

use cairn_solver::{ExternalError, FrontendError, PolicyError, SolveError, WorkerError};
use serde_json::{Value, json};
use tonic::Code;

use super::{EXIT, Failure, SOURCE, details, failed_code};

/// Says what a client decided about a source.
const DECISION: &str = "policysession.DecisionResponse+json";

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        SolveError::Worker(error).into()
    }
}

impl From<SolveError> for Failure {
    fn from(error: SolveError) -> Self {
        let code = match &error {
            SolveError::Cancelled | SolveError::Worker(WorkerError::Cancelled) => Code::Cancelled,
            SolveError::Worker(WorkerError::NotFound(_) | WorkerError::NoDirectory(_)) | SolveError::NotFound(_) => {
                Code::NotFound
            }
            // Clients know other sources that are not there by their words alone.
            SolveError::Vertex(vertex) if matches!(vertex.source, WorkerError::NoDirectory(_)) => Code::NotFound,
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
                failure.attach("errdefs.Frontend+json", &details::frontend(&name, &image));
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
