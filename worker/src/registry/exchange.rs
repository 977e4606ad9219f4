//! One request and its answer: authorization, redirects, retries.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Body, Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::challenge;
use super::client::Registry;
use super::error::RegistryError;
use super::hosts::Endpoint;
use crate::network::NetworkError;

const MAX_REDIRECTS: usize = 10;
/// The most of an error answer that is read.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// Makes a request's body anew for each try.
pub(super) type BodySource<'a> = &'a (dyn Fn() -> Body + Send + Sync);

/// What is asked of a server.
pub(super) struct Exchange<'a> {
    /// What it is about, for messages.
    pub(super) reference: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) scopes: &'a [String],
    pub(super) body: Option<BodySource<'a>>,
    /// For the whole answer; transfers of blobs have none.
    pub(super) timeout: Option<Duration>,
    /// What is being done, for messages.
    pub(super) action: &'static str,
}

impl Registry {
    /// Sends a request once (twice if it has to be authorized) and follows redirects. Answers other than success are
    /// errors.
    pub(super) async fn exchange(&self, endpoint: &Endpoint, call: &Exchange<'_>) -> Result<Response, RegistryError> {
        let is_home = Url::parse(&endpoint.base()).is_ok_and(|base| is_same_server(&call.url, &base));
        let mut authorization = if is_home {
            self.tokens.get(&endpoint.host, call.scopes).await
        } else {
            None
        };
        let mut tries = 0;
        loop {
            let (response, was_redirected) = self.send(endpoint, call, authorization.as_ref()).await?;
            // Only the registry itself may ask for its credentials.
            if response.status() != StatusCode::UNAUTHORIZED || was_redirected || !is_home || tries == 2 {
                return accept(endpoint, call, response).await;
            }
            tries += 1;
            let Some(challenge) = challenge::choose(response.headers()) else {
                return accept(endpoint, call, response).await;
            };
            let fresh = self
                .authorize(endpoint, &challenge, call.scopes, authorization.as_ref())
                .await?;
            if fresh.is_none() {
                return accept(endpoint, call, response).await;
            }
            authorization = fresh;
        }
    }

    /// [`Registry::exchange`], again after transient failures. `is_last` says that nobody else could be asked.
    pub(super) async fn exchange_with_retries(
        &self,
        endpoint: &Endpoint,
        call: &Exchange<'_>,
        is_last: bool,
    ) -> Result<Response, RegistryError> {
        let mut failures = 0;
        loop {
            let error = match self.exchange(endpoint, call).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            failures += 1;
            let Some(pause) = self.client.retry().pause_after(&error, failures, is_last) else {
                return Err(error);
            };
            tracing::debug!(registry.host = %endpoint.host, error = %error, failures, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Exchange<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), RegistryError> {
        let client = self.client.http(endpoint)?;
        let mut url = call.url.clone();
        let mut hops = 0;
        loop {
            let mut request = client
                .request(call.method.clone(), url.clone())
                .headers(call.headers.clone());
            if let Some(authorization) = authorization.filter(|_| is_same_server(&url, &call.url)) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            if let Some(body) = call.body {
                request = request.body(body());
            }
            if let Some(timeout) = call.timeout {
                request = request.timeout(timeout);
            }
            let response = request.send().await.map_err(|source| transport(call, source))?;
            let is_safe = matches!(call.method, Method::GET | Method::HEAD);
            if !is_safe || !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok((response, hops > 0));
            }
            hops += 1;
            if hops > MAX_REDIRECTS {
                return Err(protocol(endpoint, call, "too many redirects".to_owned()));
            }
            url = redirect_target(&url, &response)
                .filter(|target| target.scheme() == "https" || (target.scheme() == "http" && endpoint.allows_http()))
                .ok_or_else(|| protocol(endpoint, call, "redirect to nowhere, or away from https".to_owned()))?;
        }
    }
}

fn redirect_target(from: &Url, response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let mut target = from.join(location).ok()?;
    target.set_username("").ok()?;
    target.set_password(None).ok()?;
    Some(target)
}

fn is_same_server(url: &Url, other: &Url) -> bool {
    url.origin() == other.origin()
}

/// Turns an answer that is no success into an error.
async fn accept(endpoint: &Endpoint, call: &Exchange<'_>, response: Response) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = retry_after(&response);
    let problem = (status == StatusCode::UNAUTHORIZED)
        .then(|| challenge::problem(response.headers()))
        .flatten();
    let body = read_limited(response, MAX_ERROR_BODY).await.unwrap_or_default();
    let message = error_message(&body);
    let reference = call.reference.to_owned();
    if let Some(problem) = problem {
        return Err(RegistryError::Forbidden {
            reference,
            access: access(call.scopes),
            problem: printable(&problem),
            message,
        });
    }
    let request = named_request(&call.method, &call.url);
    let status_code = status.as_u16();
    Err(match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound {
            reference,
            hosts: vec![endpoint.host.clone()],
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
            reference,
            request,
            status: status_code,
            message,
        },
        _ => RegistryError::Status {
            reference,
            request,
            status: status_code,
            message,
            retry_after,
        },
    })
}

/// What is to be done with a repository, by what is to be allowed.
fn access(scopes: &[String]) -> &'static str {
    let pushes = scopes.iter().any(|scope| scope.ends_with("push"));
    if pushes { "push" } else { "pull" }
}

/// The pause the server asks for, in seconds; dates, the other form, are not worth a parser here.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The registry's own words: its first error's code, in the form that other clients give it (`name unknown`), and its
/// message, in printable characters.
fn error_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<OneError>,
    }
    #[derive(Deserialize)]
    struct OneError {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(body) else {
        return String::new();
    };
    let text = errors
        .first()
        .map(|error| (error.code.to_lowercase().replace('_', " "), error.message.as_str()))
        .map(|(code, message)| match (code.as_str(), message) {
            (_, "") => code,
            ("", message) => message.to_owned(),
            (code, message) => format!("{code}: {message}"),
        });
    printable(&text.unwrap_or_default())
}

/// As much of what a server says as fits into a message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(512).collect()
}

pub(super) fn transport(call: &Exchange<'_>, source: reqwest::Error) -> RegistryError {
    RegistryError::Transport {
        reference: call.reference.to_owned(),
        action: call.action,
        request: request_line(&call.method, &call.url),
        source: NetworkError::new(&call.url, source),
    }
}

/// A request as programs written in Go name it.
pub(super) fn request_line(method: &Method, url: &Url) -> String {
    let method = method.as_str();
    let (first, rest) = method.split_at(usize::from(!method.is_empty()));
    format!("{first}{} \"{}\"", rest.to_lowercase(), without_query(url))
}

/// A request as other clients of registries name it when its answer is not what they want.
pub(super) fn named_request(method: &Method, url: &Url) -> String {
    format!("{method} request to {}", without_query(url))
}

/// Queries may hold what is secret.
fn without_query(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url
}

pub(super) fn protocol(endpoint: &Endpoint, call: &Exchange<'_>, problem: String) -> RegistryError {
    RegistryError::Protocol {
        reference: call.reference.to_owned(),
        host: endpoint.host.clone(),
        problem,
    }
}

/// Reads a body of at most `limit` bytes; `Err(None)` when it is longer.
pub(super) async fn read_limited(response: Response, limit: usize) -> Result<Bytes, Option<reqwest::Error>> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(Some)?;
        if body.len() + chunk.len() > limit {
            return Err(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}
