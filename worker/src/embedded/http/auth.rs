//! What requests are authorized with: secrets of the clients that wait for the file.

use cairn_session::{LOOKUP_TIMEOUT, Secret, SessionError, secrets};
use cairn_solver::llb::HttpSource;
use cairn_solver::worker::CallContext;
use reqwest::header::HeaderValue;
use url::Url;

use super::HttpSources;
use super::error::HttpError;

/// Secret with a whole header, when the host's name follows.
const HEADER_SECRET: &str = "HTTP_AUTH_HEADER_";
/// Secret with a token, when the host's name follows.
const TOKEN_SECRET: &str = "HTTP_AUTH_TOKEN_";

impl HttpSources {
    /// The `Authorization` for the host of `url`: from the secret that the source names, else from those that are named
    /// after the host, if there are any.
    pub(super) async fn authorization(
        &self,
        source: &HttpSource,
        url: &Url,
        context: &CallContext,
    ) -> Result<Option<HeaderValue>, HttpError> {
        let host = url.host_str().unwrap_or_default();
        let wrong = |id: &str, problem: String| HttpError::Secret {
            id: id.to_owned(),
            problem,
        };
        if !source.auth_header_secret.is_empty() {
            let id = &source.auth_header_secret;
            let secret = self
                .secret(id, context)
                .await
                .map_err(|error| wrong(id, error.to_string()))?;
            let secret = secret.ok_or_else(|| wrong(id, format!("secret {id}: not found")))?;
            return header(&secret, "")
                .map(Some)
                .ok_or_else(|| wrong(id, format!("secret {id} is no header value")));
        }
        for (prefix, scheme) in [(HEADER_SECRET, ""), (TOKEN_SECRET, "Bearer ")] {
            let id = format!("{prefix}{host}");
            match self.secret(&id, context).await {
                Ok(Some(secret)) => {
                    let value = header(&secret, scheme);
                    return value
                        .map(Some)
                        .ok_or_else(|| wrong(&id, format!("secret {id} is no header value")));
                }
                Ok(None) => {}
                // Nobody asked for it: the server says whether it matters.
                Err(error) => tracing::debug!(%error, "a client could not be asked for secrets"),
            }
        }
        Ok(None)
    }

    /// Asks one client after another; the failure of one counts only if no other knows the secret.
    async fn secret(&self, id: &str, context: &CallContext) -> Result<Option<Secret>, SessionError> {
        let mut failure = None;
        for session in context.sessions.ids() {
            let answer = match self.sessions.get(&session, LOOKUP_TIMEOUT).await {
                Ok(session) => secrets::get_secret(&session, id).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(Some(secret)) => return Ok(Some(secret)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

/// A secret as a header, without the line end that files have.
fn header(secret: &Secret, scheme: &str) -> Option<HeaderValue> {
    let text = format!("{scheme}{}", secret.expose_str()?.trim_end_matches(['\r', '\n']));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
