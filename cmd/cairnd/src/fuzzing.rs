//! What is fuzzed of this crate: each decoder of bytes from outside, as a function of any bytes. `fuzz` beside `src`
//! has a target for each; the tests below run them in every test run, so that they cannot rot.
//!
//! Whether the bytes are what they are taken for does not matter; nothing may panic, take long, or break the promise
//! that a function states.

use std::time::SystemTime;

use cairn_proto::control::SolveRequest;
use cairn_proto::{gateway, rpc};
use prost::Message as _;
use tonic::Status;

use crate::config::{Config, ConfigFile};
use crate::failure::Failure;
use crate::{convert, history, limits, traces, trailers};

/// A decoder, and the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by the names of their targets.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("failure", failure),
    ("frontend_result", crate::gateway::check_result),
    ("history_filter", history_filter),
    ("operation", crate::gateway::check_op),
    ("policy", crate::policy::check),
    ("requests", requests),
    ("spans", spans),
];

/// Runs the one of this name.
///
/// # Panics
/// If there is none, or a promise is broken.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.expect("a target of this name").1(data);
}

/// Configuration files.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(file) = toml::from_str::<ConfigFile>(text) {
        drop(Config::from_file(file));
    }
}

/// Errors that frontends and clients return, on their way to who waits for the build: never a success, never without
/// bounds.
pub fn failure(data: &[u8]) {
    let Ok(wire) = rpc::Status::decode(data) else { return };
    let status = Status::from(Failure::from(wire));
    assert_ne!(status.code(), tonic::Code::Ok, "a failure that is a success");
    let mut headers = http::HeaderMap::new();
    if status.add_header(&mut headers).is_ok() {
        trailers::shorten(&mut headers);
        let message = headers.get("grpc-message").map_or(0, |message| message.len());
        assert!(message <= 8 << 10, "a message of {message} bytes");
    }
}

/// Filters of records of builds, one in each line.
pub fn history_filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<String> = text.lines().take(8).map(str::to_owned).collect();
    history::check_filters(&lines, SystemTime::now());
}

/// Calls of clients and of frontends, as far as they are looked at before anything is built.
pub fn requests(data: &[u8]) {
    if let Ok(request) = SolveRequest::decode(data)
        && limits::check(&request).is_ok()
    {
        assert!(request.exporters.len() <= 64 && !request.r#ref.is_empty());
    }
    if let Ok(warning) = gateway::WarnRequest::decode(data) {
        drop(convert::warning_from_wire(warning));
    }
    if let Ok(request) = gateway::ReadFileRequest::decode(data) {
        drop(crate::gateway::range(request.range));
    }
    if let Ok(platform) = cairn_proto::pb::Platform::decode(data) {
        drop(convert::platform_from_wire(&platform));
    }
}

/// Spans that clients send: whatever is kept can be read, and is bounded.
pub fn spans(data: &[u8]) {
    traces::check(data);
}

#[cfg(test)]
#[path = "../../../fuzz/damaged.rs"]
mod damaged;

#[cfg(test)]
mod tests {
    use cairn_proto::{pb, sourcepolicy};

    use super::*;

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match name {
            "config" => texts(&[
                "root = \"/x\"\ninsecure-entitlements = [\"network.host\"]\n[log]\nlevel = \"info\"\n[grpc]\naddress = [\"unix:///a\", \"tcp://1.2.3.4:5\"]\n[worker.oci]\nmaxUsedSpace = \"10%\"\n[[worker.oci.gcpolicy]]\nkeepDuration = \"48h\"\nfilters = [\"type==regular\"]\n[registry.\"docker.io\"]\nmirrors = [\"a:1/b\"]\n[history]\nmaxAge = 172800\n",
            ]),
            "failure" => vec![
                rpc::Status {
                    code: 2,
                    message: "frontend grpc server closed: exit code: 1".to_owned(),
                    details: vec![prost_types::Any {
                        type_url: "github.com/moby/buildkit/errdefs.Vertex+json".to_owned(),
                        value: br#"{"digest":"sha256:0"}"#.to_vec(),
                    }],
                }
                .encode_to_vec(),
            ],
            "frontend_result" => vec![returned().encode_to_vec()],
            "operation" => operations().iter().map(pb::Op::encode_to_vec).collect(),
            "policy" => vec![policy().encode_to_vec()],
            "history_filter" => texts(&[
                "status==completed,ref~=a.*,startedAt>2001-09-09T01:46:40Z",
                "duration>=1h2m,repository==\"x\"",
            ]),
            "requests" => vec![
                SolveRequest {
                    r#ref: "abc".to_owned(),
                    frontend: "dockerfile.v0".to_owned(),
                    exporters: vec![cairn_proto::control::Exporter::default(); 3],
                    ..SolveRequest::default()
                }
                .encode_to_vec(),
                gateway::ReadFileRequest {
                    r#ref: "r".to_owned(),
                    range: Some(gateway::FileRange { offset: 1, length: 2 }),
                    ..gateway::ReadFileRequest::default()
                }
                .encode_to_vec(),
            ],
            "spans" => {
                let spans = traces::tests::span("a span");
                let resource_spans = traces::tests::request(vec![spans.clone(), spans]);
                vec![cairn_proto::otlp::ExportTraceServiceRequest { resource_spans }.encode_to_vec()]
            }
            _ => Vec::new(),
        }
    }

    /// A result for two platforms, with statements.
    fn returned() -> gateway::Result {
        let reference = |id: &str| gateway::Ref {
            id: id.to_owned(),
            def: None,
        };
        let statement = gateway::Attestation {
            r#ref: Some(reference("b")),
            path: "/sbom.json".to_owned(),
            in_toto_predicate_type: "https://spdx.dev/Document".to_owned(),
            in_toto_subjects: vec![gateway::InTotoSubject {
                kind: gateway::InTotoSubjectKind::Raw.into(),
                digest: vec!["sha256:00".to_owned()],
                name: "app".to_owned(),
            }],
            ..gateway::Attestation::default()
        };
        let refs = ["linux/amd64", "linux/arm64"].map(|platform| (platform.to_owned(), reference("a")));
        gateway::Result {
            result: Some(gateway::result::Result::Refs(gateway::RefMap { refs: refs.into() })),
            metadata: [("containerimage.config".to_owned(), "{}".into())].into(),
            attestations: [(
                "linux/amd64".to_owned(),
                gateway::Attestations {
                    attestation: vec![statement],
                },
            )]
            .into(),
        }
    }

    /// A source and a process.
    fn operations() -> [pb::Op; 2] {
        let source = pb::SourceOp {
            identifier: "git://github.com/a/b.git#main:dir".to_owned(),
            attrs: [("git.keepgitdir".to_owned(), "true".to_owned())].into(),
        };
        let mount = |dest: &str, kind: pb::MountType| pb::Mount {
            dest: dest.to_owned(),
            mount_type: kind.into(),
            cache_opt: Some(pb::CacheOpt {
                id: "id".to_owned(),
                ..pb::CacheOpt::default()
            }),
            ..pb::Mount::default()
        };
        let exec = pb::ExecOp {
            meta: Some(pb::Meta {
                args: vec!["/bin/sh".to_owned()],
                env: vec!["A=b".to_owned()],
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            mounts: vec![mount("/", pb::MountType::Bind), mount("/cache", pb::MountType::Cache)],
            ..pb::ExecOp::default()
        };
        let op = |op| pb::Op {
            op: Some(op),
            inputs: vec![pb::Input::default()],
            ..pb::Op::default()
        };
        [op(pb::op::Op::Source(source)), op(pb::op::Op::Exec(exec))]
    }

    /// A rule of each kind.
    fn policy() -> sourcepolicy::Policy {
        use sourcepolicy::{AttrConstraint, AttrMatch, MatchType, PolicyAction, Rule, Selector, Update};
        let rule = |action: PolicyAction, kind: MatchType, identifier: &str, into: Option<&str>| Rule {
            action: action.into(),
            selector: Some(Selector {
                identifier: identifier.to_owned(),
                match_type: kind.into(),
                constraints: vec![AttrConstraint {
                    key: "image.resolvemode".to_owned(),
                    value: "^p".to_owned(),
                    condition: AttrMatch::Matches.into(),
                }],
            }),
            updates: into.map(|into| Update {
                identifier: into.to_owned(),
                attrs: [("http.checksum".to_owned(), "x".to_owned())].into(),
            }),
        };
        let into = "docker-image://mirror/$1:${2}$$";
        sourcepolicy::Policy {
            version: 1,
            rules: vec![
                rule(PolicyAction::Deny, MatchType::Exact, "docker-image://x", None),
                rule(PolicyAction::Allow, MatchType::Wildcard, "docker-image://*", None),
                rule(
                    PolicyAction::Convert,
                    MatchType::Wildcard,
                    "docker-image://docker.io/*:*",
                    Some(into),
                ),
                rule(PolicyAction::Convert, MatchType::Regex, "library/(.+)$", Some("own/$1")),
            ],
        }
    }

    #[test]
    fn every_decoder_takes_any_bytes() {
        for (name, target) in TARGETS {
            damaged::try_target(name, target, seeds(name), 1500);
        }
    }

    #[test]
    fn every_decoder_has_a_target() {
        damaged::expect_targets(env!("CARGO_MANIFEST_DIR"), TARGETS.iter().map(|(name, _)| *name));
    }
}
