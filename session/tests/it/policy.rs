use std::sync::Arc;

use cairn_proto::gateway::{ResolveSourceMetaRequest, ResolveSourceMetaResponse};
use cairn_proto::pb;
use cairn_proto::policysession::{CheckPolicyRequest, DecisionResponse};
use cairn_proto::sourcepolicy::PolicyAction;
use cairn_session::policy::{self, Answer, Decide};
use cairn_session::{Services, SessionError};
use tonic::{Code, Status, async_trait};

use crate::support::{Transport, connect};

/// Wants to know the digest of images, and denies everything that is not pinned.
struct Pinned;

#[async_trait]
impl Decide for Pinned {
    async fn decide(&self, request: CheckPolicyRequest) -> Result<Answer, Status> {
        let known = request.source.unwrap_or_default();
        let source = known.source.ok_or_else(|| Status::invalid_argument("no source"))?;
        if source.identifier.contains('@') {
            return Ok(Answer::Decision(DecisionResponse {
                action: PolicyAction::Allow.into(),
                ..DecisionResponse::default()
            }));
        }
        Ok(match known.image {
            None => Answer::Request(ResolveSourceMetaRequest {
                source: Some(source),
                ..ResolveSourceMetaRequest::default()
            }),
            Some(image) => Answer::Decision(DecisionResponse {
                action: PolicyAction::Convert.into(),
                update: Some(pb::SourceOp {
                    identifier: format!("{}@{}", source.identifier, image.digest),
                    ..source
                }),
                ..DecisionResponse::default()
            }),
        })
    }
}

fn question(identifier: &str, digest: Option<&str>) -> CheckPolicyRequest {
    CheckPolicyRequest {
        source: Some(ResolveSourceMetaResponse {
            source: Some(pb::SourceOp {
                identifier: identifier.to_owned(),
                ..pb::SourceOp::default()
            }),
            image: digest.map(|digest| cairn_proto::gateway::ResolveSourceImageResponse {
                digest: digest.to_owned(),
                ..Default::default()
            }),
            ..ResolveSourceMetaResponse::default()
        }),
        ..CheckPolicyRequest::default()
    }
}

#[tokio::test]
async fn clients_decide_about_sources() {
    for transport in [Transport::Memory, Transport::UnixSocket] {
        let mut services = Services::new();
        policy::serve(&mut services, Arc::new(Pinned));
        let connected = connect(transport, services).await;
        let ask = async |request| Box::pin(policy::check(&connected.session, request)).await;
        let first = ask(question("docker-image://a", None)).await.unwrap().result;
        let Some(Answer::Request(asked)) = first else {
            panic!("{first:?}")
        };
        assert_eq!(asked.source.unwrap().identifier, "docker-image://a");
        let second = ask(question("docker-image://a", Some("sha256:1")))
            .await
            .unwrap()
            .result;
        let Some(Answer::Decision(decision)) = second else {
            panic!("{second:?}")
        };
        assert_eq!(decision.update.unwrap().identifier, "docker-image://a@sha256:1");
        let third = ask(question("docker-image://a@sha256:1", None)).await.unwrap().result;
        assert!(matches!(third, Some(Answer::Decision(decision)) if decision.action() == PolicyAction::Allow));
        let error = ask(CheckPolicyRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    let without = connect(Transport::Memory, Services::new()).await;
    let error = policy::check(&without.session, question("a", None)).await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported { .. }), "{error}");
}
