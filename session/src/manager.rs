//! All open sessions of a daemon: registration, lookup by id, and the watch over their health.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::SessionError;
use crate::headers::SessionHeaders;
use crate::session::Session;
use crate::{health, tunnel};

/// How long nearly all callers wait for a session to appear.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many sessions a daemon serves at a time unless told otherwise.
pub const DEFAULT_MAX_SESSIONS: usize = 10_000;

/// The sessions of a daemon. Clones share them.
#[derive(Clone)]
pub struct SessionManager {
    shared: Arc<Shared>,
}

struct Shared {
    sessions: Mutex<HashMap<String, Session>>,
    /// Told of every registration.
    appeared: Notify,
    max_sessions: usize,
}

impl Default for SessionManager {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_SESSIONS)
    }
}

impl SessionManager {
    /// A manager of at most `max_sessions` sessions.
    #[must_use]
    pub fn new(max_sessions: usize) -> Self {
        let sessions = Mutex::new(HashMap::new());
        Self {
            shared: Arc::new(Shared {
                sessions,
                appeared: Notify::new(),
                max_sessions,
            }),
        }
    }

    /// Takes in a new session over the two directions of its stream. An older session of the same id ends.
    ///
    /// Does not wait for the client. The session lasts until the returned handle is dropped, the stream ends,
    /// the client stops answering, or another session takes its id.
    ///
    /// # Errors
    /// [`SessionError::TooManySessions`] or [`SessionError::Connect`].
    pub async fn register<S, E>(
        &self,
        headers: SessionHeaders,
        incoming: S,
        outgoing: mpsc::Sender<Bytes>,
    ) -> Result<SessionHandle, SessionError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let closed = CancellationToken::new();
        let io = tunnel::TunnelIo::new(incoming, outgoing, closed.clone());
        let connected = tunnel::connect(io).await;
        let channel = connected.map_err(|source| SessionError::Connect {
            id: headers.id.clone(),
            source,
        })?;
        let session = Session::new(headers, channel, closed);
        self.shared.insert(&session)?;
        let watch = AbortOnDropHandle::new(tokio::spawn(health::watch(session.clone())));
        Ok(SessionHandle {
            session,
            shared: Arc::clone(&self.shared),
            _watch: watch,
        })
    }

    /// Finds a session, waiting up to `wait` for it to appear. Of an id `prefix:rest` only `rest` counts.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// [`SessionError::NotFound`] when the time is up.
    pub async fn get(&self, id: &str, wait: Duration) -> Result<Session, SessionError> {
        let id = id.split_once(':').map_or(id, |(_, rest)| rest);
        let found = tokio::time::timeout(wait, self.shared.wait_for(id)).await;
        found.map_err(|_| SessionError::NotFound { id: id.to_owned() })
    }

    /// Tries sessions one after another until `work` succeeds with one; the last failure wins.
    ///
    /// # Errors
    /// Those of `work` and of [`SessionManager::get`], or [`SessionError::NoSessions`] if `ids` is empty.
    pub async fn any<T, E, F>(&self, ids: &[String], mut work: impl FnMut(Session) -> F) -> Result<T, E>
    where
        E: From<SessionError>,
        F: Future<Output = Result<T, E>>,
    {
        let mut last = E::from(SessionError::NoSessions);
        for id in ids {
            match self.get(id, LOOKUP_TIMEOUT).await {
                Ok(session) => match work(session).await {
                    Ok(done) => return Ok(done),
                    Err(error) => last = error,
                },
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// How many sessions are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, session: &Session) -> Result<(), SessionError> {
        let mut sessions = self.lock();
        if sessions.len() >= self.max_sessions && !sessions.contains_key(session.id()) {
            return Err(SessionError::TooManySessions(self.max_sessions));
        }
        let replaced = sessions.insert(session.id().to_owned(), session.clone());
        drop(sessions);
        if let Some(replaced) = replaced {
            replaced.closed().cancel();
        }
        self.appeared.notify_waiters();
        Ok(())
    }

    fn remove(&self, session: &Session) {
        let mut sessions = self.lock();
        if sessions
            .get(session.id())
            .is_some_and(|current| current.is_same(session))
        {
            sessions.remove(session.id());
        }
    }

    async fn wait_for(&self, id: &str) -> Session {
        loop {
            let appeared = self.appeared.notified();
            tokio::pin!(appeared);
            // Listening starts before looking, so that no registration falls in between.
            appeared.as_mut().enable();
            let found = self
                .lock()
                .get(id)
                .filter(|session| !session.closed().is_cancelled())
                .cloned();
            match found {
                Some(session) => return session,
                None => appeared.await,
            }
        }
    }
}

/// Keeps a registered session open; dropping it ends the session.
pub struct SessionHandle {
    session: Session,
    shared: Arc<Shared>,
    _watch: AbortOnDropHandle<()>,
}

impl SessionHandle {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Waits for the end of the session.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) {
        self.session.closed().cancelled().await;
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.session.closed().cancel();
        self.shared.remove(&self.session);
    }
}
