//! The client's half: answers with what the Docker configuration holds.

use std::error::Error as _;
use std::sync::Arc;

use cairn_proto::filesync::auth_server::{Auth, AuthServer};
use cairn_proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::{CREDENTIALS, DockerConfig};
use crate::services::Services;

/// Offers the credentials of a Docker configuration.
pub fn serve(services: &mut Services, config: Arc<DockerConfig>) {
    services.add(AuthServer::new(Provider { config }), &[CREDENTIALS]);
}

struct Provider {
    config: Arc<DockerConfig>,
}

#[async_trait]
impl Auth for Provider {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let found = self
            .config
            .credentials(&request.get_ref().host)
            .await
            .map_err(|error| {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                Status::unknown(format!("{error}{cause}"))
            })?;
        let secret = found.secret.expose_str().unwrap_or_default().to_owned();
        Ok(Response::new(CredentialsResponse {
            username: found.username,
            secret,
        }))
    }

    async fn fetch_token(&self, _: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        Err(not_offered())
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(not_offered())
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(not_offered())
    }
}

/// The answer upon which daemons fetch tokens themselves.
fn not_offered() -> Status {
    Status::unimplemented("this client does not fetch tokens, only credentials")
}
