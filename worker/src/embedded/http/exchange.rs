//! One question and its answer: conditions, redirects.

use std::time::Duration;

use cairn_solver::llb::HttpSource;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LOCATION,
};
use reqwest::{Client, Response, StatusCode};
use url::Url;

use super::error::HttpError;
use super::{Fetched, shown};
use crate::network::NetworkError;

const MAX_REDIRECTS: usize = 10;

/// What is asked, apart from where redirects lead.
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    /// For the server of `url` alone.
    pub(super) authorization: Option<HeaderValue>,
}

/// What the server says.
pub(super) enum Answer {
    /// The file is the one fetched before.
    Unchanged(Fetched),
    /// Here it comes.
    File(Response),
}

/// The headers of a request; with the conditions under which the file is not to be sent again.
pub(super) fn headers(source: &HttpSource, known: Option<&Fetched>) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    let mut insert = |name: &str, value: &str| -> Result<(), HttpError> {
        let wrong = || HttpError::Header { name: name.to_owned() };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        headers.insert(key, HeaderValue::from_str(value).map_err(|_| wrong())?);
        Ok(())
    };
    // The file itself is wanted, not some form of it that a digest does not fit.
    insert(ACCEPT_ENCODING.as_str(), "identity")?;
    for (name, value) in &source.headers {
        insert(name, value)?;
    }
    match known.map(|known| (&known.etag, &known.last_modified)) {
        Some((Some(etag), _)) => insert(IF_NONE_MATCH.as_str(), etag)?,
        Some((None, Some(date))) => insert(IF_MODIFIED_SINCE.as_str(), date)?,
        Some((None, None)) | None => {}
    }
    Ok(headers)
}

/// Asks, following redirects, until an answer begins.
pub(super) async fn get(
    client: &Client,
    ask: &Ask<'_>,
    known: Option<&Fetched>,
    patience: Duration,
) -> Result<Answer, HttpError> {
    let mut url = ask.url.clone();
    if ask.authorization.is_some() {
        without_user(&mut url);
    }
    for _ in 0..=MAX_REDIRECTS {
        let mut request = client.get(url.clone()).headers(ask.headers.clone());
        if let Some(authorization) = ask.authorization.as_ref().filter(|_| url.origin() == ask.url.origin()) {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = match tokio::time::timeout(patience, request.send()).await {
            Ok(response) => response.map_err(|source| transport(&url, source))?,
            Err(_) => {
                return Err(HttpError::Stalled {
                    url: shown(&url),
                    window: patience,
                });
            }
        };
        match response.status() {
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => url = redirect_target(&url, &response)?,
            status => {
                return match known {
                    Some(known) if is_unchanged(known, &response) => Ok(Answer::Unchanged(known.clone())),
                    _ if status.is_success() => Ok(Answer::File(response)),
                    _ => Err(HttpError::Status {
                        status: status.as_u16(),
                    }),
                };
            }
        }
    }
    Err(HttpError::Redirect {
        url: shown(ask.url),
        problem: format!("stopped after {MAX_REDIRECTS} redirects"),
    })
}

/// Some servers do not look at conditions, but say by the tag that nothing has changed.
fn is_unchanged(known: &Fetched, response: &Response) -> bool {
    let tag = response.headers().get(ETAG).and_then(|value| value.to_str().ok());
    let is_same = |tag: &str| known.etag.as_deref().is_some_and(|etag| strong(etag) == strong(tag));
    match response.status() {
        StatusCode::NOT_MODIFIED if known.etag.is_some() => tag.is_none_or(is_same),
        StatusCode::NOT_MODIFIED => known.last_modified.is_some(),
        StatusCode::OK => tag.is_some_and(is_same),
        _ => false,
    }
}

fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url, HttpError> {
    let wrong = |problem: &str| HttpError::Redirect {
        url: shown(from),
        problem: problem.to_owned(),
    };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| wrong("redirect to nowhere"))?;
    let mut target = from.join(location).map_err(|_| wrong("redirect to what is no URL"))?;
    if !matches!(target.scheme(), "http" | "https") || !target.has_host() {
        return Err(wrong("redirect to what is neither http nor https"));
    }
    if target.origin() != from.origin() {
        without_user(&mut target);
    }
    Ok(target)
}

fn without_user(url: &mut Url) {
    // Refused only for URLs without host, which are none here.
    let _no_name = url.set_username("");
    let _no_password = url.set_password(None);
}

fn transport(url: &Url, source: reqwest::Error) -> HttpError {
    HttpError::Transport {
        url: shown(url),
        source: NetworkError::new(url, source),
    }
}
