//! Decisions about the sources of a build, which the client makes while it runs.

use std::sync::Arc;
use std::time::Duration;

use cairn_proto::policysession::policy_verifier_client::PolicyVerifierClient;
use cairn_proto::policysession::policy_verifier_server::{PolicyVerifier, PolicyVerifierServer};
use cairn_proto::policysession::{CheckPolicyRequest, CheckPolicyResponse, check_policy_response};
use tonic::{Request, Response, Status, async_trait};

use crate::error::SessionError;
use crate::services::Services;
use crate::session::Session;

const CHECK: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";
/// A client may have to look things up before it can answer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Asks the client what it thinks of a source.
///
/// # Errors
/// [`SessionError`] if the client cannot answer, or does not decide about sources.
pub async fn check(session: &Session, request: CheckPolicyRequest) -> Result<CheckPolicyResponse, SessionError> {
    let mut client = PolicyVerifierClient::new(session.channel());
    session.unary(CHECK, TIMEOUT, client.check_policy(request)).await
}

/// What a client comes to: a decision, or what it has to know first.
pub type Answer = check_policy_response::Result;

/// Decides about sources.
#[async_trait]
pub trait Decide: Send + Sync + 'static {
    /// Says what is to become of a source, of which this much is known.
    ///
    /// # Errors
    /// If it cannot decide, which ends the build.
    async fn decide(&self, request: CheckPolicyRequest) -> Result<Answer, Status>;
}

/// Offers decisions.
pub fn serve(services: &mut Services, decider: Arc<dyn Decide>) {
    services.add(PolicyVerifierServer::new(Decisions(decider)), &[CHECK]);
}

struct Decisions(Arc<dyn Decide>);

#[async_trait]
impl PolicyVerifier for Decisions {
    async fn check_policy(
        &self,
        request: Request<CheckPolicyRequest>,
    ) -> Result<Response<CheckPolicyResponse>, Status> {
        let result = self.0.decide(request.into_inner()).await?;
        Ok(Response::new(CheckPolicyResponse { result: Some(result) }))
    }
}
