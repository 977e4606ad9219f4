//! Registry credentials from the clients that wait for a piece of work.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_session::{LOOKUP_TIMEOUT, Session, SessionError, SessionManager, auth};
use cairn_solver::SessionGroup;
use parking_lot::Mutex;
use tonic::Code;

use crate::registry::{
    ClientOptions, Credentials, CredentialsError, Registry, RegistryClient, RegistryHosts, RetryPolicy, Secret, Token,
    TokenRequest, UserPassword,
};

/// Random bytes that tell daemons apart when they ask who hands out tokens.
const SALT: usize = 32;

/// Builds whose tokens are remembered at a time.
const MAX_REMEMBERED: usize = 64;

/// Registries as seen by each build, so that a token serves all of a build's requests. Nobody gets another's.
pub(super) struct Registries {
    client: RegistryClient,
    /// Asks nobody twice: for questions to which there is another answer.
    hasty: RegistryClient,
    sessions: SessionManager,
    salt: Bytes,
    /// By the sessions of the build, oldest first.
    known: Mutex<VecDeque<(Vec<String>, Registry)>>,
}

impl Registries {
    /// # Errors
    /// If the system has no randomness to give.
    pub(super) fn new(hosts: RegistryHosts, sessions: SessionManager) -> std::io::Result<Self> {
        let mut salt = [0; SALT];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
        let once = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        let hasty = ClientOptions {
            retry: once,
            ..ClientOptions::default()
        };
        Ok(Self {
            client: RegistryClient::new(hosts.clone(), ClientOptions::default()),
            hasty: RegistryClient::new(hosts, hasty),
            sessions,
            salt: Bytes::copy_from_slice(&salt),
            known: Mutex::default(),
        })
    }

    /// Registries for whoever waits for a piece of work.
    pub(super) fn of(&self, group: &SessionGroup) -> Registry {
        let ids = group.ids();
        let mut known = self.known.lock();
        if let Some((_, registry)) = known.iter().find(|(known, _)| *known == ids) {
            return registry.clone();
        }
        let registry = self.client.with_credentials(self.credentials(group));
        if known.len() == MAX_REMEMBERED {
            known.pop_front();
        }
        known.push_back((ids, registry.clone()));
        registry
    }

    /// The same, but whoever does not answer at once is not asked again.
    pub(super) fn hasty(&self, group: &SessionGroup) -> Registry {
        self.hasty.with_credentials(self.credentials(group))
    }

    fn credentials(&self, group: &SessionGroup) -> Arc<SessionCredentials> {
        Arc::new(SessionCredentials {
            sessions: self.sessions.clone(),
            group: group.clone(),
            salt: self.salt.clone(),
        })
    }
}

/// Asks the sessions of a group, one after another.
struct SessionCredentials {
    sessions: SessionManager,
    group: SessionGroup,
    salt: Bytes,
}

impl SessionCredentials {
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
            let authority = auth::token_authority(&session, &request.host, self.salt.clone()).await?;
            if authority.is_none() {
                return Ok(None);
            }
            let wanted = auth::TokenRequest {
                client_id: "buildkit-client".to_owned(),
                host: request.host.clone(),
                realm: request.realm.clone(),
                service: request.service.clone(),
                scopes: request.scopes.clone(),
            };
            let token = match auth::fetch_token(&session, wanted).await {
                Ok(token) => token,
                // The client cannot reach the token server, or may not: this daemon may be configured to.
                Err(error) if matches!(error.code(), Code::Unavailable | Code::FailedPrecondition) => return Ok(None),
                Err(error) => return Err(error),
            };
            Ok(Some(Token {
                secret: Secret::new(String::from_utf8_lossy(token.token.expose()).into_owned()),
                expires_in: token.expires_in.unwrap_or_default(),
            }))
        })
        .await
    }
}
