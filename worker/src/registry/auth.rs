//! Credentials and tokens.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use parking_lot::Mutex;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::challenge::Challenge;
use super::client::Registry;
use super::error::RegistryError;
use super::exchange::{named_request, read_limited, request_line};
use super::hosts::Endpoint;
use crate::network::NetworkError;

/// How long a token is good for when nobody says.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
const MAX_TOKEN_ANSWER: usize = 1 << 20;
const TOKEN_TIMEOUT: Duration = Duration::from_secs(60);
/// The name under which tokens are asked for.
const CLIENT_ID: &str = "buildkit-client";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent to whom it is for and nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What a user logs in with. An empty `username` means that `secret` is an identity token.
#[derive(Debug, Clone)]
pub struct UserPassword {
    /// The user.
    pub username: String,
    /// Password or identity token.
    pub secret: Secret,
}

/// What a token is wanted for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The registry's server, `docker.io` as `registry-1.docker.io`.
    pub host: String,
    /// The token server.
    pub realm: String,
    /// The registry's name for itself.
    pub service: String,
    /// What is to be allowed, such as `repository:library/alpine:pull`.
    pub scopes: Vec<String>,
}

/// A token somebody else got.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub secret: Secret,
    /// How long it is good for; zero for the usual minute.
    pub expires_in: Duration,
}

/// Why there are no credentials.
pub type CredentialsError = Box<dyn std::error::Error + Send + Sync>;

/// Where credentials come from: usually the client whose build it is.
#[async_trait]
pub trait Credentials: Send + Sync + 'static {
    /// What to log in with at `host`; `None` to stay anonymous.
    async fn credentials(&self, host: &str) -> Result<Option<UserPassword>, CredentialsError>;

    /// Gets a token, so that the password stays where it is; `None` to have it done here with
    /// [`Credentials::credentials`].
    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError>;
}

/// Nobody's credentials.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn credentials(&self, _host: &str) -> Result<Option<UserPassword>, CredentialsError> {
        Ok(None)
    }

    async fn fetch_token(&self, _request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        Ok(None)
    }
}

/// Host and scopes.
type Key = (String, String);

/// A slot is locked while its token is being got, so that it is got once.
type Slot = Arc<tokio::sync::Mutex<Option<Authorization>>>;

impl Token {
    /// What is sent with it, and until when; `None` if it cannot be sent.
    pub(super) fn authorization(&self) -> Option<Authorization> {
        let lifetime = if self.expires_in.is_zero() {
            DEFAULT_LIFETIME
        } else {
            self.expires_in
        };
        // What is good for longer than clocks go does not expire.
        let refresh_at = Instant::now().checked_add(lifetime / 10 * 9);
        Authorization::new(&format!("Bearer {}", self.secret.expose()), refresh_at)
    }
}

/// What was sent to a host with success, or is about to be.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<HashMap<Key, Slot>>,
}

#[derive(Clone)]
pub(super) struct Authorization {
    header: HeaderValue,
    /// None for what does not expire.
    refresh_at: Option<Instant>,
}

impl Authorization {
    fn new(text: &str, refresh_at: Option<Instant>) -> Option<Self> {
        let mut header = HeaderValue::from_str(text).ok()?;
        header.set_sensitive(true);
        Some(Self { header, refresh_at })
    }

    fn is_fresh(&self) -> bool {
        self.refresh_at.is_none_or(|at| Instant::now() < at)
    }
}

impl TokenCache {
    fn slot(&self, host: &str, scopes: &[String]) -> Slot {
        self.slots
            .lock()
            .entry((host.to_owned(), scopes.join(" ")))
            .or_default()
            .clone()
    }

    /// What to send along without having been asked.
    pub(super) async fn get(&self, host: &str, scopes: &[String]) -> Option<HeaderValue> {
        let slot = self.slot(host, scopes);
        let cached = slot.lock().await;
        cached
            .as_ref()
            .filter(|cached| cached.is_fresh())
            .map(|cached| cached.header.clone())
    }
}

impl Registry {
    /// Meets a challenge from `endpoint`. `refused` is what was sent and not good enough; `None` comes back when
    /// there is nothing else to send.
    pub(super) async fn authorize(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scopes: &[String],
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let slot = self.tokens.slot(&endpoint.host, scopes);
        let mut cached = slot.lock().await;
        // Somebody else may have got one meanwhile.
        if let Some(cached) = cached
            .as_ref()
            .filter(|cached| cached.is_fresh() && Some(&cached.header) != refused)
        {
            return Ok(Some(cached.header.clone()));
        }
        let fresh = match challenge {
            Challenge::Basic => self.basic(endpoint).await?,
            Challenge::Bearer { realm, service, scope } => {
                self.bearer(endpoint, realm, service, &merge(scopes, scope)).await?
            }
        };
        cached.clone_from(&fresh);
        Ok(fresh.map(|fresh| fresh.header).filter(|header| Some(header) != refused))
    }

    async fn login(&self, host: &str) -> Result<Option<UserPassword>, RegistryError> {
        let credentials = self.credentials.credentials(host).await;
        let credentials = credentials.map_err(|source| RegistryError::Credentials {
            host: host.to_owned(),
            source,
        })?;
        Ok(credentials.filter(|login| !login.secret.expose().is_empty()))
    }

    async fn basic(&self, endpoint: &Endpoint) -> Result<Option<Authorization>, RegistryError> {
        let login = self
            .login(&endpoint.host)
            .await?
            .filter(|login| !login.username.is_empty());
        Ok(login.and_then(|login| Authorization::new(&basic_header(&login), None)))
    }

    async fn bearer(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: &str,
        scopes: &[String],
    ) -> Result<Option<Authorization>, RegistryError> {
        let host = &endpoint.host;
        let realm = checked_realm(endpoint, realm)?;
        let request = TokenRequest {
            host: host.clone(),
            realm: realm.to_string(),
            service: service.to_owned(),
            scopes: scopes.to_vec(),
        };
        let fetched = self.credentials.fetch_token(&request).await;
        let fetched = fetched.map_err(|source| RegistryError::Credentials {
            host: host.clone(),
            source,
        })?;
        let token = match fetched {
            Some(token) => token,
            None => self.request_token(endpoint, realm, &request).await?,
        };
        Ok(token.authorization())
    }

    /// Asks the token server. Its answer is not followed anywhere else.
    async fn request_token(
        &self,
        endpoint: &Endpoint,
        mut realm: url::Url,
        wanted: &TokenRequest,
    ) -> Result<Token, RegistryError> {
        let client = self.client.http(endpoint)?;
        let login = self.login(&endpoint.host).await?;
        let scope = wanted.scopes.join(" ");
        let (address, mut method) = (realm.clone(), Method::GET);
        let identity_token = login.as_ref().filter(|login| login.username.is_empty());
        let request = if let Some(login) = identity_token {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", &wanted.service)
                .append_pair("client_id", CLIENT_ID)
                .append_pair("scope", &scope)
                .append_pair("refresh_token", login.secret.expose())
                .finish();
            method = Method::POST;
            client
                .post(realm)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form)
        } else {
            for (name, value) in [("service", &wanted.service), ("client_id", &CLIENT_ID.to_owned())] {
                if !value.is_empty() {
                    realm.query_pairs_mut().append_pair(name, value);
                }
            }
            for scope in &wanted.scopes {
                realm.query_pairs_mut().append_pair("scope", scope);
            }
            let request = client.get(realm);
            match &login {
                Some(login) => {
                    let mut header = HeaderValue::from_str(&basic_header(login))
                        .map_err(|_| protocol(endpoint, "credentials cannot be sent in a header".to_owned()))?;
                    header.set_sensitive(true);
                    request.header("authorization", header)
                }
                None => request,
            }
        };
        let transport = |source: reqwest::Error| RegistryError::Transport {
            reference: scope.clone(),
            action: "get a token",
            request: request_line(&method, &address),
            source: NetworkError::new(&address, source),
        };
        let response = request.timeout(TOKEN_TIMEOUT).send().await.map_err(transport)?;
        let status = response.status();
        let body = read_limited(response, MAX_TOKEN_ANSWER)
            .await
            .map_err(|err| match err {
                Some(source) => transport(source),
                None => protocol(endpoint, "token answer too long".to_owned()),
            })?;
        if !status.is_success() {
            return Err(RegistryError::Denied {
                reference: scope.clone(),
                request: named_request(&method, &address),
                status: status.as_u16(),
                message: "no token".to_owned(),
            });
        }
        read_answer(&body).map_err(|problem| protocol(endpoint, format!("token server's answer {problem}")))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Number>,
}

/// The token in the answer of a token server, or what is wrong with that; not in the parser's words, which could quote one.
pub(super) fn read_answer(body: &[u8]) -> Result<Token, &'static str> {
    let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| "is not understood")?;
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    let secret = tokens.find(|text| !text.is_empty()).ok_or("has no token")?;
    let seconds = answer.expires_in.and_then(|seconds| seconds.as_u64());
    Ok(Token {
        secret: Secret::new(secret),
        expires_in: Duration::from_secs(seconds.unwrap_or(0)),
    })
}

fn protocol(endpoint: &Endpoint, problem: String) -> RegistryError {
    RegistryError::Protocol {
        reference: "authorization".to_owned(),
        host: endpoint.host.clone(),
        problem,
    }
}

fn basic_header(login: &UserPassword) -> String {
    let pair = format!("{}:{}", login.username, login.secret.expose());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// The token server, if it may be sent credentials.
fn checked_realm(endpoint: &Endpoint, realm: &str) -> Result<url::Url, RegistryError> {
    let refuse = |problem: &str| protocol(endpoint, format!("token server {realm:?} {problem}"));
    let url = url::Url::parse(realm).map_err(|_| refuse("is no URL"))?;
    match url.scheme() {
        "https" => {}
        "http" if endpoint.allows_http() => {}
        _ => return Err(refuse("does not use https")),
    }
    if !url.username().is_empty() || url.password().is_some() || url.host_str().is_none() {
        return Err(refuse("is not acceptable"));
    }
    Ok(url)
}

/// Our scopes and the server's, each once.
fn merge(ours: &[String], theirs: &str) -> Vec<String> {
    let theirs = theirs.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned);
    let mut scopes: Vec<String> = ours.iter().cloned().chain(theirs).collect();
    scopes.sort();
    scopes.dedup();
    scopes
}
