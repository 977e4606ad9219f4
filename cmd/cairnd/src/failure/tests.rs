use std::sync::Arc;

use cairn_solver::llb::{Definition, SourceLocation};
use cairn_solver::{Digest, FrontendError, PolicyError, SolveError, VertexError, WorkerError};

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
    let reads = Digest::sha256(b"op");
    let described = pb::OpMetadata {
        description: [("llb.customname".to_owned(), "reads".to_owned())].into(),
        ..pb::OpMetadata::default()
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
                definition: Some(Arc::new(Definition::from_wire(pb::Definition {
                    def: vec!["op".into()],
                    metadata: [(reads.to_string(), described)].into(),
                    source: None,
                }))),
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
            "info": {
                "filename": "Dockerfile",
                "data": "RlJPTSBhCg==",
                "definition": {
                    "def": ["b3A="],
                    "metadata": { reads.to_string(): { "description": { "llb.customname": "reads" } } },
                },
                "language": "Dockerfile",
            },
            "ranges": [{ "start": { "line": 3 }, "end": { "line": 3 } }],
        })
    );
}
