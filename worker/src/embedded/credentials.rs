//! Registry credentials from the clients that wait for a piece of work.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_session::{LOOKUP_TIMEOUT, Session, SessionError, SessionManager, auth};
use cairn_solver::SessionGroup;

use crate::registry::{Credentials, CredentialsError, Secret, Token, TokenRequest, UserPassword};

/// Random bytes that tell daemons apart when they ask who hands out tokens.
const SALT: usize = 32;

/// Asks the sessions of a group, one after another.
pub(super) struct SessionCredentials {
    sessions: SessionManager,
    group: SessionGroup,
}

impl SessionCredentials {
    pub(super) fn new(sessions: SessionManager, group: SessionGroup) -> Self {
        Self { sessions, group }
    }

    /// Asks one session after another until one knows something; the last failure counts if none does.
    async fn ask<T, F>(&self, question: impl Fn(Session) -> F + Send) -> Result<Option<T>, CredentialsError>
    where
        F: Future<Output = Result<Option<T>, SessionError>> + Send,
        T: Send,
    {
        let mut failure = None;
        for id in self.group.ids() {
            let answer = match self.sessions.get(&id, LOOKUP_TIMEOUT).await {
                Ok(session) => question(session).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Credentials for SessionCredentials {
    async fn credentials(&self, host: &str) -> Result<Option<UserPassword>, CredentialsError> {
        self.ask(|session| async move {
            let known = auth::credentials(&session, host).await?;
            Ok((!known.is_anonymous()).then(|| UserPassword {
                secret: Secret::new(String::from_utf8_lossy(known.secret.expose()).into_owned()),
                username: known.username,
            }))
        })
        .await
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        self.ask(|session| async move {
            let mut salt = [0; SALT];
            // Without randomness the client still answers; the salt only keeps daemons apart.
            let _filled = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
            let salt = Bytes::copy_from_slice(&salt);
            if auth::token_authority(&session, &request.host, salt).await?.is_none() {
                return Ok(None);
            }
            let wanted = auth::TokenRequest {
                client_id: "buildkit-client".to_owned(),
                host: request.host.clone(),
                realm: request.realm.clone(),
                service: request.service.clone(),
                scopes: request.scopes.clone(),
            };
            let token = auth::fetch_token(&session, wanted).await?;
            Ok(Some(Token {
                secret: Secret::new(String::from_utf8_lossy(token.token.expose()).into_owned()),
                expires_in: token.expires_in.unwrap_or_default(),
            }))
        })
        .await
    }
}
