//! The daemon's half.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::fsutil::Packet;
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::Codec;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::pieces::{Piece, PieceCodec, until_end};
use super::{DIFF_COPY, EXPORTER_ID, METADATA_PREFIX, MULTI_PLATFORM};
use crate::error::SessionError;
use crate::fsutil::{self, SendSummary, TransferError, Tree};
use crate::packets::{self, PACKETS};
use crate::session::Session;

/// Clients accept messages of 4 MiB; this much goes into one.
const MAX_MESSAGE: usize = 1 << 20;

/// Which output of the build is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportTarget {
    /// Index of the exporter in the build request.
    pub exporter: u32,
    /// Whether one tree holds the results of all platforms, which clients ask for when they mirror.
    pub is_multi_platform: bool,
    /// The exporter's response so far; only file targets look at it.
    pub metadata: BTreeMap<String, String>,
}

impl ExportTarget {
    fn to_metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(EXPORTER_ID, AsciiMetadataValue::from(self.exporter));
        if self.is_multi_platform {
            metadata.insert(MULTI_PLATFORM, AsciiMetadataValue::from_static("1"));
        }
        for (key, value) in &self.metadata {
            let key = format!("{METADATA_PREFIX}{}", key.to_ascii_lowercase());
            // What metadata cannot express, clients cannot expect in it.
            if let (Ok(key), Ok(value)) = (AsciiMetadataKey::from_bytes(key.as_bytes()), value.parse()) {
                metadata.insert(key, value);
            }
        }
        metadata
    }
}

/// How a client took a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOutcome {
    /// It is written.
    Written,
    /// The client has it already, or does not want it.
    NotWanted,
}

/// A file being written by the client. Dropping it before [`FileStream::finish`] abandons the file.
pub struct FileStream {
    session: Session,
    pieces: mpsc::Sender<Piece>,
    call: AbortOnDropHandle<Result<(), Status>>,
}

impl FileStream {
    /// Opens the client's file target.
    ///
    /// # Errors
    /// [`SessionError::Unsupported`] if the client takes no output.
    pub fn open(session: &Session, target: &ExportTarget) -> Result<Self, SessionError> {
        session.require(DIFF_COPY)?;
        let (pieces, received) = mpsc::channel(PACKETS);
        let mut request = Request::new(until_end(received));
        *request.metadata_mut() = target.to_metadata();
        let call = AbortOnDropHandle::new(tokio::spawn(call(session.channel(), request)));
        Ok(Self {
            session: session.clone(),
            pieces,
            call,
        })
    }

    /// Sends the next piece of the file, of any size. Returns false once the client takes no more; what that
    /// means, [`FileStream::finish`] tells.
    ///
    /// # Errors
    /// [`SessionError::Closed`].
    pub async fn write(&self, mut data: Bytes) -> Result<bool, SessionError> {
        while !data.is_empty() {
            let data = data.split_to(data.len().min(MAX_MESSAGE));
            if self
                .session
                .until_closed(self.pieces.send(Piece::Data(data)))
                .await?
                .is_err()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the file and waits until the client has it.
    ///
    /// # Errors
    /// [`SessionError`] if the client failed to write it or went away.
    pub async fn finish(self) -> Result<FileOutcome, SessionError> {
        let Self { session, pieces, call } = self;
        let end = async {
            // If the client takes no more, its answer says why.
            drop(pieces.send(Piece::End).await);
            call.await
        };
        match session.until_closed(end).await? {
            Ok(Ok(())) => Ok(FileOutcome::Written),
            Ok(Err(status)) if status.code() == Code::AlreadyExists => Ok(FileOutcome::NotWanted),
            Ok(Err(status)) => Err(SessionError::call(DIFF_COPY, status)),
            Err(_) => Err(SessionError::Closed {
                id: session.id().to_owned(),
            }),
        }
    }
}

/// Makes the call and drains its answer, which carries nothing but its end.
async fn call(channel: Channel, request: Request<impl Stream<Item = Piece> + Send + 'static>) -> Result<(), Status> {
    let mut answer = streaming(channel, request, PieceCodec).await?.into_inner();
    while answer.message().await?.is_some() {}
    Ok(())
}

/// Sends a tree to a directory target, and returns when the client has written it.
///
/// # Errors
/// [`TransferError`]; the call ends with an error as soon as the session does.
pub async fn send_tree(
    session: &Session,
    target: &ExportTarget,
    tree: Arc<dyn Tree>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<SendSummary, TransferError> {
    session.require(DIFF_COPY)?;
    let (outgoing, packets) = mpsc::channel(PACKETS);
    let mut request = Request::new(ReceiverStream::new(packets));
    *request.metadata_mut() = target.to_metadata();
    let mut incoming = packets::incoming(streaming(
        session.channel(),
        request,
        ProstCodec::<Packet, Packet>::default(),
    ));
    let work = async {
        let summary = fsutil::send(&mut incoming, outgoing, tree, progress).await?;
        finish(incoming).await?;
        Ok(summary)
    };
    session.until_closed(work).await?
}

/// Reads to the end of the client's stream, which is where it says whether all went well.
async fn finish(mut incoming: impl Stream<Item = Result<Packet, Status>> + Unpin) -> Result<(), TransferError> {
    match incoming.next().await {
        None => Ok(()),
        Some(Ok(_)) => Err(TransferError::UnexpectedPacket("something after the end")),
        Some(Err(status)) => Err(status.into()),
    }
}

/// Calls the method with the messages that the kind of target speaks: bytes for files, packets for directories.
async fn streaming<C: Codec>(
    channel: Channel,
    request: Request<impl Stream<Item = C::Encode> + Send + 'static>,
    codec: C,
) -> Result<Response<Streaming<C::Decode>>, Status>
where
    C::Encode: Send + Sync + 'static,
    C::Decode: Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(format!("session connection failed: {error}")))?;
    client
        .streaming(request, PathAndQuery::from_static(DIFF_COPY), codec)
        .await
}
