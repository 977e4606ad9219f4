//! Asks a token server for a token, so that the daemon need not be told the password.
//!
//! | credentials | first | if the server does not know that way (404, 405) |
//! |---|---|---|
//! | none | GET | – |
//! | name and password | GET with basic authorization | POST, `grant_type=password` |
//! | identity token | POST, `grant_type=refresh_token` | GET with basic authorization, no name |
//!
//! The server must be reached over https. Plain http is taken only when the token server or the registry itself
//! is on this machine (`localhost` or a loopback address), and then without a proxy. Answers are bounded in size
//! and time, and redirects are not followed: what was meant for one server goes to no other.

use std::fmt;
use std::sync::Once;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::form_urlencoded::Serializer;
use url::{Host, Url};

use super::{Credentials, Token, TokenRequest};
use crate::secret::Secret;

/// For everything that one token takes. The daemon waits for a minute.
const TIMEOUT: Duration = Duration::from_secs(50);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 1 << 20;
/// More than any server takes in a header.
const MAX_TOKEN: usize = 64 << 10;
const MAX_NAME: usize = 1 << 10;
const MAX_REALM: usize = 4 << 10;
const MAX_SCOPES: usize = 64 << 10;
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// Failure to get a token. No variant holds a secret, nor anything of what a server answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// The daemon asks for something that cannot be meant.
    #[error("invalid request for a token: {0}")]
    Request(&'static str),
    /// The token server may not be asked.
    #[error("invalid token server for {host}: {problem}")]
    Realm { host: String, problem: &'static str },
    /// The credentials are of a kind that cannot be sent.
    #[error("failed to send credentials for {host}: they are not text")]
    Credentials { host: String },
    /// There is no way to speak HTTP.
    #[error("failed to set up a connection to token server {server}")]
    Setup { server: String, source: SetupError },
    /// The request or its answer got lost.
    #[error("failed to get a token for {host} from {server}")]
    Transport {
        host: String,
        server: String,
        source: reqwest::Error,
    },
    /// The server takes too long.
    #[error("token server {server} did not answer within {} s", after.as_secs())]
    Timeout { server: String, after: Duration },
    /// The server says no.
    #[error("token server {server} refused a token for {host}: {status}")]
    Refused {
        host: String,
        server: String,
        status: StatusCode,
    },
    /// The server's answer is no token.
    #[error("invalid answer of token server {server}: {problem}")]
    Answer { server: String, problem: &'static str },
}

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    /// TLS could not be set up.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
    /// The set-up was given up.
    #[error("the process is ending")]
    Ending,
}

/// Asks token servers. What that takes is set up when the first one is asked: most builds need none.
pub(super) struct TokenFetcher {
    https: OnceCell<Client>,
    http: OnceCell<Client>,
    timeout: Duration,
}

impl fmt::Debug for TokenFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenFetcher")
    }
}

/// The ways to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Get,
    Post,
}

/// A token server that may be asked, and what it is asked for.
struct Question<'a> {
    wanted: &'a TokenRequest,
    realm: Url,
    server: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Number>,
    issued_at: Option<String>,
}

impl TokenFetcher {
    pub(super) fn new() -> Self {
        Self::with_timeout(TIMEOUT)
    }

    fn with_timeout(timeout: Duration) -> Self {
        Self {
            https: OnceCell::new(),
            http: OnceCell::new(),
            timeout,
        }
    }

    /// Gets a token. A request that [`check`] refuses is refused here, too.
    pub(super) async fn fetch(&self, wanted: &TokenRequest, login: &Credentials) -> Result<Token, TokenError> {
        let question = Question::new(wanted)?;
        let answer = tokio::time::timeout(self.timeout, self.ask(&question, login)).await;
        answer.unwrap_or_else(|_| {
            Err(TokenError::Timeout {
                server: question.server.clone(),
                after: self.timeout,
            })
        })
    }

    async fn ask(&self, question: &Question<'_>, login: &Credentials) -> Result<Token, TokenError> {
        let secret = login.secret.expose_str().ok_or_else(|| TokenError::Credentials {
            host: question.wanted.host.clone(),
        })?;
        let client = self.client(question).await?;
        let ways: &[Way] = match (login.username.as_str(), secret) {
            (_, "") => &[Way::Get],
            ("", _) => &[Way::Post, Way::Get],
            _ => &[Way::Get, Way::Post],
        };
        let mut refusal = StatusCode::NOT_FOUND;
        for way in ways {
            let request = match way {
                Way::Get => question.get(client, &login.username, secret),
                Way::Post => question.post(client, &login.username, secret),
            };
            let response = request.send().await.map_err(|source| question.lost(source))?;
            refusal = response.status();
            if refusal.is_success() {
                return question.token(response).await;
            }
            if !matches!(refusal, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                break;
            }
        }
        Err(TokenError::Refused {
            host: question.wanted.host.clone(),
            server: question.server.clone(),
            status: refusal,
        })
    }

    async fn client(&self, question: &Question<'_>) -> Result<&Client, TokenError> {
        let client = if question.realm.scheme() == "https" {
            // Reads the machine's certificate authorities from files.
            let build = || async {
                tokio::task::spawn_blocking(|| base().build())
                    .await
                    .map_err(|_| SetupError::Ending)?
                    .map_err(SetupError::from)
            };
            self.https.get_or_try_init(build).await
        } else {
            let build = || async { base().tls_certs_only([]).no_proxy().build().map_err(SetupError::from) };
            self.http.get_or_try_init(build).await
        };
        client.map_err(|source| TokenError::Setup {
            server: question.server.clone(),
            source,
        })
    }
}

/// Whether a token may be asked for at all; to be known before anybody is asked for credentials.
pub(super) fn check(wanted: &TokenRequest) -> Result<(), TokenError> {
    Question::new(wanted).map(drop)
}

fn base() -> ClientBuilder {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when the program has already chosen one.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    Client::builder()
        .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
}

impl<'a> Question<'a> {
    fn new(wanted: &'a TokenRequest) -> Result<Self, TokenError> {
        let names = [&wanted.host, &wanted.service, &wanted.client_id];
        let scopes: usize = wanted.scopes.iter().map(|scope| scope.len() + 1).sum();
        if names.iter().any(|name| name.len() > MAX_NAME) || wanted.realm.len() > MAX_REALM || scopes > MAX_SCOPES {
            return Err(TokenError::Request("it is too long"));
        }
        let refuse = |problem| TokenError::Realm {
            host: wanted.host.clone(),
            problem,
        };
        let realm = Url::parse(&wanted.realm).map_err(|_| refuse("it is not a URL"))?;
        let host = realm.host().ok_or_else(|| refuse("it has no host"))?;
        match realm.scheme() {
            "https" => {}
            "http" if is_loopback(&host) || is_loopback_registry(&wanted.host) => {}
            "http" => return Err(refuse("credentials are not sent over plain http to other machines")),
            _ => return Err(refuse("it is not an https URL")),
        }
        if !realm.username().is_empty() || realm.password().is_some() {
            return Err(refuse("it contains credentials"));
        }
        let server = match realm.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        Ok(Self { wanted, realm, server })
    }

    fn get(&self, client: &Client, username: &str, secret: &str) -> RequestBuilder {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            for (name, value) in [("service", &self.wanted.service), ("client_id", &self.wanted.client_id)] {
                if !value.is_empty() {
                    query.append_pair(name, value);
                }
            }
            for scope in &self.wanted.scopes {
                query.append_pair("scope", scope);
            }
        }
        let request = client.get(url);
        if secret.is_empty() {
            return request;
        }
        let header = format!("Basic {}", STANDARD.encode(format!("{username}:{secret}")));
        match HeaderValue::try_from(header) {
            Ok(mut header) => {
                header.set_sensitive(true);
                request.header(AUTHORIZATION, header)
            }
            // Base64 always fits into a header.
            Err(_) => request,
        }
    }

    fn post(&self, client: &Client, username: &str, secret: &str) -> RequestBuilder {
        let mut form = Serializer::new(String::new());
        form.append_pair("service", &self.wanted.service)
            .append_pair("client_id", &self.wanted.client_id)
            .append_pair("scope", &self.wanted.scopes.join(" "));
        if username.is_empty() {
            form.append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", secret);
        } else {
            form.append_pair("grant_type", "password")
                .append_pair("username", username)
                .append_pair("password", secret);
        }
        let request = client.post(self.realm.clone()).header(CONTENT_TYPE, FORM);
        request.body(form.finish())
    }

    async fn token(&self, response: Response) -> Result<Token, TokenError> {
        let body = self.read(response).await?;
        read_answer(&body).map_err(|problem| self.garbled(problem))
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, TokenError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.lost(source))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(self.garbled("it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn lost(&self, source: reqwest::Error) -> TokenError {
        TokenError::Transport {
            host: self.wanted.host.clone(),
            server: self.server.clone(),
            source: source.without_url(),
        }
    }

    fn garbled(&self, problem: &'static str) -> TokenError {
        TokenError::Answer {
            server: self.server.clone(),
            problem,
        }
    }
}

/// The token in a server's answer, or what is wrong with that.
pub(crate) fn read_answer(body: &[u8]) -> Result<Token, &'static str> {
    // The parser's message could quote a token.
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "it is not understood")?;
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    let token = tokens.find(|token| !token.is_empty()).ok_or("it has no token")?;
    if token.len() > MAX_TOKEN {
        return Err("its token is too long");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its token is not one word");
    }
    let seconds = answer.expires_in.and_then(|seconds| seconds.as_u64());
    let issued_at = answer.issued_at.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    Ok(Token {
        token: Secret::new(token),
        expires_in: seconds.filter(|secs| *secs > 0).map(Duration::from_secs),
        issued_at: issued_at.map_or(0, jiff::Timestamp::as_second),
    })
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Registry hosts come with a port, but without a scheme.
fn is_loopback_registry(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    Host::parse(name).is_ok_and(|host| match host {
        Host::Domain(name) => is_loopback(&Host::Domain(&name)),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    })
}

#[cfg(test)]
mod tests;
