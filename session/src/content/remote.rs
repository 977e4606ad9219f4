//! The daemon's half: looking into a client's store.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::content::content_client::ContentClient;
use cairn_proto::content::{InfoRequest, ReadContentRequest, ReadContentResponse};
use futures_util::{Stream, StreamExt};
use tonic::{Code, Request, Status};

use super::{INFO, READ, STORE};
use crate::error::SessionError;
use crate::metadata_values;
use crate::packets;
use crate::session::Session;

const TIMEOUT: Duration = Duration::from_secs(60);

/// One store of one client.
#[derive(Clone, Debug)]
pub struct RemoteContent {
    session: Session,
    store: String,
}

impl RemoteContent {
    /// The store that the client calls `store`. Nothing is asked yet.
    #[must_use]
    pub fn new(session: &Session, store: &str) -> Self {
        Self {
            session: session.clone(),
            store: store.to_owned(),
        }
    }

    /// The length of a blob, as the client says; `None` if it has none of that digest.
    ///
    /// # Errors
    /// [`SessionError`] if the client cannot answer.
    pub async fn size(&self, digest: &str) -> Result<Option<u64>, SessionError> {
        let mut client = ContentClient::new(self.session.channel());
        let request = self.request(InfoRequest {
            digest: digest.to_owned(),
        });
        match self.session.unary(INFO, TIMEOUT, client.info(request)).await {
            Ok(response) => {
                let size = response.info.map_or(0, |info| info.size);
                Ok(Some(u64::try_from(size).unwrap_or(0)))
            }
            Err(error) if error.code() == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes of a blob from `offset` on. They are as the client sends them: whoever reads them verifies them.
    ///
    /// # Errors
    /// [`SessionError::Unsupported`] if the client has no stores.
    pub fn read(&self, digest: &str, offset: u64) -> Result<BlobStream, SessionError> {
        self.session.require(READ)?;
        let request = self.request(ReadContentRequest {
            digest: digest.to_owned(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            size: 0,
        });
        let mut client = ContentClient::new(self.session.channel());
        Ok(BlobStream {
            session: self.session.clone(),
            next: offset,
            messages: packets::incoming(async move { client.read(request).await }),
        })
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        metadata_values::insert(request.metadata_mut(), STORE, std::slice::from_ref(&self.store));
        request
    }
}

/// A blob on its way.
pub struct BlobStream {
    session: Session,
    /// Where the next message has to begin.
    next: u64,
    messages: Pin<Box<dyn Stream<Item = Result<ReadContentResponse, Status>> + Send>>,
}

impl BlobStream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`SessionError`] if the client fails, leaves, falls silent, or sends the blob out of order.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SessionError> {
        let message = tokio::time::timeout(TIMEOUT, self.messages.next());
        let message = match self.session.until_closed(message).await? {
            Ok(message) => message,
            Err(_) => {
                return Err(SessionError::Timeout {
                    method: READ,
                    after: TIMEOUT,
                });
            }
        };
        let Some(message) = message.transpose().map_err(|status| SessionError::call(READ, status))? else {
            return Ok(None);
        };
        let taken = take_piece(&mut self.next, message);
        taken.map(Some).map_err(|status| SessionError::call(READ, status))
    }
}

/// Takes the piece of a blob that begins at `next`, and no other.
pub(crate) fn take_piece(next: &mut u64, piece: ReadContentResponse) -> Result<Bytes, Status> {
    if u64::try_from(piece.offset) != Ok(*next) {
        let text = format!("got bytes from {}, not from {next}", piece.offset);
        return Err(Status::data_loss(text));
    }
    *next += piece.data.len() as u64;
    Ok(piece.data)
}
