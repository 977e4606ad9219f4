//! The connection inside a session: HTTP/2 over two streams of byte messages.
//!
//! The client of the outer call is the *server* inside it: [`connect`] is the daemon's half, [`serve`] the
//! client's. Message boundaries carry no meaning, but some clients trip over messages that they do not wait for any more:
//! see `Opening`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cairn_proto::control::BytesMessage;
use cairn_proto::control::control_client::ControlClient;
use futures_util::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use crate::services::Services;
use crate::windows;

/// Most bytes of the messages that we write.
const MESSAGE: usize = 32 << 10;
/// Messages under way in one direction.
const MESSAGES: usize = 32;
const MAX_FRAME: u32 = 1 << 20;
/// How long the daemon waits for the client to speak first.
const OPENING: Duration = Duration::from_millis(250);
/// Most bytes of headers of one call or answer. All patterns of an ignore file are among them.
const MAX_HEADERS: u32 = 16 << 20;

/// The byte stream of one session, from either side.
pub struct TunnelIo {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    writer: PollSender<Bytes>,
    /// Written, but not sent yet: what is flushed together is one message.
    written: BytesMut,
    opening: Option<Opening>,
    /// Tells, when the connection lets go of its stream, that the session is over.
    _guard: DropGuard,
}

/// While the daemon has not said anything.
///
/// Clients open sessions that they close at once, and those written in Go may then take what they had not read yet for
/// more bytes than it was, and complain of a broken protocol. So the daemon speaks when the client does, which shows that
/// it reads, and says all that belongs to the beginning in one message. A client that itself waits is spoken to after
/// a moment.
struct Opening(Pin<Box<Sleep>>);

impl TunnelIo {
    /// Joins both directions. `closed` fires once the stream is no longer in use.
    pub fn new<S, E>(incoming: S, outgoing: mpsc::Sender<Bytes>, closed: CancellationToken) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let incoming = incoming.map(|item| item.map_err(io::Error::other));
        Self {
            reader: Box::pin(StreamReader::new(incoming)),
            writer: PollSender::new(outgoing),
            written: BytesMut::new(),
            opening: None,
            _guard: closed.drop_guard(),
        }
    }

    /// Sends what was written, if anything was.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.writer.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let message = self.written.split().freeze();
        let sent = self.writer.send_item(message);
        Poll::Ready(sent.map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.reader.as_mut().poll_read(cx, buf);
        if let Some(Opening(patience)) = &mut self.opening {
            if buf.filled().len() > before {
                // What is answered to this is flushed together with what waits.
                self.opening = None;
            } else if read.is_pending() && patience.as_mut().poll(cx).is_ready() {
                self.opening = None;
                // There is room: nothing was sent before.
                if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        read
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.written.len() >= MESSAGE {
            self.opening = None;
            ready!(self.poll_send(cx))?;
        }
        let len = buf.len().min(MESSAGE - self.written.len());
        self.written.extend_from_slice(&buf[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.opening.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.writer.close();
        Poll::Ready(Ok(()))
    }
}

/// Speaks HTTP/2 as a client over `io`. Exactly one connection is made; once it is lost, every call fails.
///
/// Does not wait for the other side, so it may be called before the outer call is answered; calls on the channel do, for
/// a moment.
///
/// # Errors
/// If the connection fails before anything is sent.
pub async fn connect(mut io: TunnelIo) -> Result<Channel, tonic::transport::Error> {
    io.opening = Some(Opening(Box::pin(tokio::time::sleep(OPENING))));
    let io = Arc::new(Mutex::new(Some(io)));
    let connector = service_fn(move |_: Uri| {
        let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(
            io.map(TokioIo::new)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(windows::STREAM)
        .initial_connection_window_size(windows::CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
        .connect_with_connector(connector)
        .await
}

/// Why a client's session ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The session's id or key cannot be sent.
    #[error("failed to describe the session")]
    Headers(#[source] crate::SessionError),
    /// The daemon did not accept the session.
    #[error("failed to open a session: {}", .0.message())]
    Open(#[source] Box<Status>),
    /// The connection inside the session broke.
    #[error("session connection failed")]
    Connection(#[source] hyper::Error),
}

/// Opens a session at a daemon and serves it until the daemon ends it.
///
/// # Cancel safety
/// Dropping the future ends the session.
///
/// # Errors
/// [`ServeError`]; an orderly end by the daemon is none.
pub async fn serve(
    mut control: ControlClient<Channel>,
    id: &str,
    shared_key: &str,
    services: Services,
) -> Result<(), ServeError> {
    let (outgoing, messages) = mpsc::channel(MESSAGES);
    let mut request = Request::new(ReceiverStream::new(messages).map(|data| BytesMessage { data }));
    let methods = services.methods();
    *request.metadata_mut() = crate::headers::to_metadata(id, shared_key, methods).map_err(ServeError::Headers)?;
    let response = control
        .session(request)
        .await
        .map_err(|status| ServeError::Open(Box::new(status)))?;
    let incoming = response.into_inner().map(|message| message.map(|message| message.data));
    let io = TunnelIo::new(incoming, outgoing, CancellationToken::new());
    serve_io(io, services).await.map_err(ServeError::Connection)
}

/// Serves a session over a byte stream, until the other side ends it.
///
/// # Cancel safety
/// Dropping the future ends the session.
///
/// # Errors
/// If the connection breaks.
pub async fn serve_io(io: TunnelIo, services: Services) -> Result<(), hyper::Error> {
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(windows::STREAM)
        .initial_connection_window_size(windows::CONNECTION)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(services.into_routes()))
        .await
}

#[cfg(test)]
mod tests;
