//! Registry credentials.
//!
//! The daemon asks the client in one of two ways: for a token that the client fetches itself, or for the
//! credentials to fetch one with. Our client offers both. Registries that hand out tokens get the first: the
//! password stays on the client's machine. The second remains for registries that want the password itself
//! (basic authorization), and for daemons that do not know the first.
//!
//! | method | what is offered |
//! |---|---|
//! | `Credentials` | what the Docker configuration or its helpers hold for a host |
//! | `FetchToken` | a token from the registry's token server, got with these credentials (`token`) |
//! | `GetTokenAuthority` | a public key that is the same whenever this user meets this daemon (`authority`) |
//! | `VerifyTokenAuthority` | a signature with that key |
//!
//! The key lets a daemon share a token between builds of the same user: before it gives a session a token that
//! another one fetched, it has the session sign random bytes ([`verify_token_authority`]).

use std::time::Duration;

use bytes::Bytes;
use cairn_proto::filesync::auth_client::AuthClient;
use cairn_proto::filesync::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
};
use ring::rand::{SecureRandom, SystemRandom};
use tonic::Code;
use tonic::transport::Channel;

use crate::error::SessionError;
use crate::secret::Secret;
use crate::session::Session;

mod authority;
mod docker_config;
mod provider;
mod seed;
mod token;

pub use docker_config::{DockerConfig, DockerConfigError};
pub use provider::serve;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use token::read_answer;

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
const GET_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
const VERIFY_AUTHORITY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";
const TIMEOUT: Duration = Duration::from_secs(60);
/// As many random bytes as cannot be guessed.
const PAYLOAD_LEN: usize = 32;

/// Credentials for one registry host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Empty if `secret` is a refresh token rather than a password.
    pub username: String,
    /// Password or refresh token; empty for anonymous access.
    pub secret: Secret,
}

impl Credentials {
    /// Whether there are none.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty() && self.secret.is_empty()
    }
}

/// The token that is wanted, from a registry's challenge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRequest {
    /// Names the kind of program that asks.
    pub client_id: String,
    /// The registry host.
    pub host: String,
    /// Where tokens are handed out.
    pub realm: String,
    /// Whom the token is for.
    pub service: String,
    /// What it allows.
    pub scopes: Vec<String>,
}

/// A token that the client fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub token: Secret,
    /// How long it is good for, if the registry said.
    pub expires_in: Option<Duration>,
    /// Seconds since the epoch; zero if unknown.
    pub issued_at: i64,
}

/// Asks the client for its credentials for a host; anonymous ones if it offers none.
///
/// # Errors
/// [`SessionError`] if the client cannot answer.
pub async fn credentials(session: &Session, host: &str) -> Result<Credentials, SessionError> {
    let request = CredentialsRequest { host: host.to_owned() };
    let response = session
        .unary(CREDENTIALS, TIMEOUT, client(session).credentials(request))
        .await;
    let Some(response) = optional(response)? else {
        return Ok(Credentials::default());
    };
    Ok(Credentials {
        username: response.username,
        secret: Secret::new(response.secret),
    })
}

/// Asks the client to fetch a token; only to be used after [`token_authority`] gave a key.
///
/// # Errors
/// [`SessionError`] if the client cannot answer or the registry refuses.
pub async fn fetch_token(session: &Session, request: TokenRequest) -> Result<Token, SessionError> {
    let TokenRequest {
        client_id,
        host,
        realm,
        service,
        scopes,
    } = request;
    let request = FetchTokenRequest {
        client_id,
        host,
        realm,
        service,
        scopes,
    };
    let response = session
        .unary(FETCH_TOKEN, TIMEOUT, client(session).fetch_token(request))
        .await?;
    Ok(Token {
        token: Secret::new(response.token),
        expires_in: u64::try_from(response.expires_in)
            .ok()
            .filter(|secs| *secs > 0)
            .map(Duration::from_secs),
        issued_at: response.issued_at,
    })
}

/// The key under which tokens of this client may be shared; `None` if the client fetches no tokens itself.
///
/// # Errors
/// [`SessionError`] if the client cannot answer.
pub async fn token_authority(session: &Session, host: &str, salt: Bytes) -> Result<Option<[u8; 32]>, SessionError> {
    let request = GetTokenAuthorityRequest {
        host: host.to_owned(),
        salt,
    };
    let response = session
        .unary(GET_AUTHORITY, TIMEOUT, client(session).get_token_authority(request))
        .await;
    Ok(optional(response)?.and_then(|response| response.public_key.as_ref().try_into().ok()))
}

/// Whether the client holds the key that [`token_authority`] gave, here or in another session: it is asked to
/// sign random bytes. Without that proof it must not get tokens that another session fetched.
///
/// # Errors
/// [`SessionError`] if the client cannot answer.
pub async fn verify_token_authority(
    session: &Session,
    host: &str,
    salt: Bytes,
    public_key: &[u8; 32],
) -> Result<bool, SessionError> {
    let mut payload = [0; PAYLOAD_LEN];
    if SystemRandom::new().fill(&mut payload).is_err() {
        // What can be foreseen proves nothing.
        return Ok(false);
    }
    let request = VerifyTokenAuthorityRequest {
        host: host.to_owned(),
        payload: Bytes::copy_from_slice(&payload),
        salt,
    };
    let response = session
        .unary(
            VERIFY_AUTHORITY,
            TIMEOUT,
            client(session).verify_token_authority(request),
        )
        .await;
    let signed = optional(response)?.map(|response| response.signed);
    Ok(signed.is_some_and(|signed| authority::open(public_key, &signed) == Some(&payload[..])))
}

fn client(session: &Session) -> AuthClient<Channel> {
    AuthClient::new(session.channel())
}

/// Tells "does not offer this" from failure.
fn optional<T>(response: Result<T, SessionError>) -> Result<Option<T>, SessionError> {
    match response {
        Ok(response) => Ok(Some(response)),
        Err(SessionError::Unsupported { .. }) => Ok(None),
        Err(error @ SessionError::Call { .. }) if matches!(error.code(), Code::Unimplemented | Code::Unavailable) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
