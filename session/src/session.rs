//! One open session, as the daemon sees it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::error::SessionError;
use crate::headers::SessionHeaders;

/// A client's session. Clones are handles on the same session.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    headers: SessionHeaders,
    channel: Channel,
    closed: CancellationToken,
}

impl Session {
    pub(crate) fn new(headers: SessionHeaders, channel: Channel, closed: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                headers,
                channel,
                closed,
            }),
        }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.headers.id
    }

    /// What seeds the reuse of directories received earlier; may be empty.
    #[must_use]
    pub fn shared_key(&self) -> &str {
        &self.inner.headers.shared_key
    }

    /// The connection on which the client serves.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.inner.channel.clone()
    }

    /// Fires when the session is over.
    #[must_use]
    pub fn closed(&self) -> &CancellationToken {
        &self.inner.closed
    }

    /// Whether the client announced the method, given by its full path.
    #[must_use]
    pub fn supports(&self, method: &str) -> bool {
        self.inner.headers.supports(method)
    }

    pub(crate) fn health_timeout(&self) -> Option<Duration> {
        self.inner.headers.health_timeout
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Refuses methods that the client did not announce.
    pub(crate) fn require(&self, method: &'static str) -> Result<(), SessionError> {
        if self.supports(method) {
            Ok(())
        } else {
            Err(SessionError::Unsupported { method })
        }
    }

    /// Runs `work` unless and until the session ends.
    pub(crate) async fn until_closed<T>(&self, work: impl Future<Output = T>) -> Result<T, SessionError> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.inner.closed.cancelled() => Err(SessionError::Closed { id: self.id().to_owned() }),
        }
    }

    /// Makes one unary call, bounded by `timeout` and by the life of the session.
    pub(crate) async fn unary<T>(
        &self,
        method: &'static str,
        timeout: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, SessionError> {
        self.require(method)?;
        match self.until_closed(tokio::time::timeout(timeout, call)).await? {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(SessionError::call(method, status)),
            Err(_) => Err(SessionError::Timeout { method, after: timeout }),
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
