//! The client's half: answers with what the Docker configuration holds.

use std::error::Error;
use std::sync::Arc;

use cairn_proto::filesync::auth_server::{Auth, AuthServer};
use cairn_proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use tonic::{Code, Request, Response, Status, async_trait};

use super::authority::{Authority, AuthorityKey};
use super::token::{self, TokenError, TokenFetcher};
use super::{CREDENTIALS, DockerConfig, FETCH_TOKEN, GET_AUTHORITY, Token, TokenRequest, VERIFY_AUTHORITY};
use crate::services::Services;

/// Daemons send 32 bytes of each.
const MAX_SALT: usize = 256;
const MAX_PAYLOAD: usize = 4 << 10;
const MAX_HOST: usize = 1 << 10;

/// Offers the credentials of a Docker configuration, and to fetch tokens with them.
pub fn serve(services: &mut Services, config: Arc<DockerConfig>) {
    let provider = Provider {
        authority: Authority::new(config.directory().map(ToOwned::to_owned)),
        tokens: TokenFetcher::new(),
        config,
    };
    let methods = [CREDENTIALS, FETCH_TOKEN, GET_AUTHORITY, VERIFY_AUTHORITY];
    services.add(AuthServer::new(provider), &methods);
}

struct Provider {
    config: Arc<DockerConfig>,
    authority: Authority,
    tokens: TokenFetcher,
}

impl Provider {
    async fn token(&self, wanted: &TokenRequest) -> Result<Token, Status> {
        let refused = |error: TokenError| status(code(&error), &error);
        if let Some(token) = self.config.registry_token(&wanted.host) {
            return Ok(Token {
                token,
                expires_in: None,
                issued_at: 0,
            });
        }
        // Helpers may ask the user, which is not for nothing.
        token::check(wanted).map_err(refused)?;
        let login = self.config.credentials(&wanted.host).await;
        let login = login.map_err(|error| status(Code::Unknown, &error))?;
        self.tokens.fetch(wanted, &login).await.map_err(refused)
    }

    async fn key(&self, host: &str, salt: &[u8]) -> Result<AuthorityKey, Status> {
        if host.len() > MAX_HOST || salt.len() > MAX_SALT {
            return Err(Status::invalid_argument(
                "invalid question for a token authority: too long",
            ));
        }
        let key = self.authority.key(host, salt).await;
        // Upon this code daemons fetch tokens themselves.
        key.map_err(|error| status(Code::Unavailable, &error))
    }
}

#[async_trait]
impl Auth for Provider {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let found = self.config.credentials(&request.get_ref().host).await;
        let found = found.map_err(|error| status(Code::Unknown, &error))?;
        let secret = found.secret.expose_str().unwrap_or_default().to_owned();
        Ok(Response::new(CredentialsResponse {
            username: found.username,
            secret,
        }))
    }

    async fn fetch_token(&self, request: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        let FetchTokenRequest {
            client_id,
            host,
            realm,
            service,
            scopes,
        } = request.into_inner();
        let wanted = TokenRequest {
            client_id,
            host,
            realm,
            service,
            scopes,
        };
        let token = self.token(&wanted).await?;
        let seconds = token.expires_in.map_or(0, |time| time.as_secs());
        Ok(Response::new(FetchTokenResponse {
            token: token.token.expose_str().unwrap_or_default().to_owned(),
            expires_in: i64::try_from(seconds).unwrap_or(i64::MAX),
            issued_at: token.issued_at,
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let GetTokenAuthorityRequest { host, salt } = request.into_inner();
        let key = self.key(&host, &salt).await?;
        Ok(Response::new(GetTokenAuthorityResponse {
            public_key: key.public().to_vec().into(),
        }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let VerifyTokenAuthorityRequest { host, payload, salt } = request.into_inner();
        if payload.len() > MAX_PAYLOAD {
            return Err(Status::invalid_argument("invalid payload to sign: too long"));
        }
        let key = self.key(&host, &salt).await?;
        Ok(Response::new(VerifyTokenAuthorityResponse {
            signed: key.sign(&payload).into(),
        }))
    }
}

fn code(error: &TokenError) -> Code {
    match error {
        TokenError::Request(_) => Code::InvalidArgument,
        TokenError::Realm { .. } => Code::FailedPrecondition,
        TokenError::Refused { .. } => Code::PermissionDenied,
        TokenError::Timeout { .. } => Code::DeadlineExceeded,
        TokenError::Setup { .. } | TokenError::Transport { .. } => Code::Unavailable,
        TokenError::Credentials { .. } | TokenError::Answer { .. } => Code::Unknown,
    }
}

/// An error with its causes.
fn status(code: Code, error: &dyn Error) -> Status {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    Status::new(code, text)
}
