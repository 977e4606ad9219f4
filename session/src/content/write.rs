//! The daemon's half: putting blobs into a client's store.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::content::content_client::ContentClient;
use cairn_proto::content::{AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::remote::RemoteContent;
use super::{ABORT, WRITE};
use crate::error::SessionError;
use crate::packets;

/// How long a client may take to answer. The last answer comes only when the blob is on its disk.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Clients accept messages of 4 MiB; this much data goes into one.
const MESSAGE: usize = 1 << 20;

/// Makes the names of uploads different: a store writes under one name once at a time.
static UPLOADS: AtomicU64 = AtomicU64::new(0);

impl RemoteContent {
    /// Begins to write a blob; `None` if the client has it.
    ///
    /// # Errors
    /// [`SessionError`] if the client takes no blobs, or cannot answer.
    pub async fn write(&self, digest: &str, size: u64) -> Result<Option<BlobWriter>, SessionError> {
        self.session().require(WRITE)?;
        if self.size(digest).await?.is_some() {
            return Ok(None);
        }
        let (requests, received) = mpsc::channel(1);
        let request = self.request(ReceiverStream::new(received));
        let mut client = ContentClient::new(self.session().channel());
        let mut writer = BlobWriter {
            store: self.clone(),
            upload: format!("cairn-{}-{digest}", UPLOADS.fetch_add(1, Ordering::Relaxed)),
            digest: digest.to_owned(),
            size,
            offset: 0,
            requests,
            answers: packets::incoming(async move { client.write(request).await }),
        };
        match writer.call(WriteAction::Stat, Bytes::new()).await {
            Ok(()) => Ok(Some(writer)),
            Err(error) if error.code() == Code::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A blob on its way to a client. One that is dropped before [`BlobWriter::commit`] is not there.
pub struct BlobWriter {
    store: RemoteContent,
    /// What the client calls the upload.
    upload: String,
    digest: String,
    size: u64,
    offset: u64,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Pin<Box<dyn Stream<Item = Result<WriteContentResponse, Status>> + Send>>,
}

impl BlobWriter {
    /// Sends the next bytes, any number of them.
    ///
    /// # Errors
    /// [`SessionError`] if the client refuses, fails, leaves or falls silent. Nothing more can be sent then.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), SessionError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MESSAGE));
            let sent = piece.len() as u64;
            if let Err(error) = self.call(WriteAction::Write, piece).await {
                self.abort().await;
                return Err(error);
            }
            self.offset += sent;
        }
        Ok(())
    }

    /// Ends the blob, which the client then verifies, and waits until it is there.
    ///
    /// # Errors
    /// [`SessionError`], also if the bytes are not those of the digest.
    pub async fn commit(mut self) -> Result<(), SessionError> {
        match self.call(WriteAction::Commit, Bytes::new()).await {
            // Somebody else was faster.
            Err(error) if error.code() == Code::AlreadyExists => Ok(()),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends a message and waits for its answer.
    async fn call(&mut self, action: WriteAction, data: Bytes) -> Result<(), SessionError> {
        let request = WriteContentRequest {
            action: action.into(),
            r#ref: self.upload.clone(),
            total: i64::try_from(self.size).unwrap_or(i64::MAX),
            expected: self.digest.clone(),
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            data,
            ..WriteContentRequest::default()
        };
        let (requests, answers) = (&self.requests, &mut self.answers);
        let exchange = async {
            // If the client takes no more, its answer says why.
            drop(requests.send(request).await);
            answers.next().await
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange);
        match self.store.session().until_closed(answer).await? {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(status))) => Err(SessionError::call(WRITE, status)),
            Ok(None) => {
                let status = Status::data_loss("the client ended the call early");
                Err(SessionError::call(WRITE, status))
            }
            Err(_) => Err(SessionError::Timeout {
                method: WRITE,
                after: TIMEOUT,
            }),
        }
    }

    /// Has the client remove what it got. A client that does not is left with a file that it never uses.
    async fn abort(&mut self) {
        let request = self.store.request(AbortRequest {
            r#ref: self.upload.clone(),
        });
        let session = self.store.session();
        let mut client = ContentClient::new(session.channel());
        let aborted = session.unary(ABORT, TIMEOUT, client.abort(request)).await;
        if let Err(error) = aborted {
            tracing::debug!(upload = self.upload, %error, "an unfinished upload stays at the client");
        }
    }
}
