//! The connection inside a session: HTTP/2 over two streams of byte messages.
//!
//! The client of the outer call is the *server* inside it: [`connect`] is the daemon's half, [`serve`] the
//! client's. Message boundaries carry no meaning.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cairn_proto::control::BytesMessage;
use cairn_proto::control::control_client::ControlClient;
use futures_util::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use crate::services::Services;

/// Size of the byte messages we write.
const MESSAGE: usize = 32 << 10;
/// Messages under way in one direction.
const MESSAGES: usize = 32;
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME: u32 = 1 << 20;
/// Most bytes of headers of one call or answer. All patterns of an ignore file are among them.
const MAX_HEADERS: u32 = 16 << 20;

/// The byte stream of one session, from either side.
pub struct TunnelIo {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    writer: PollSender<Bytes>,
    /// Tells, when the connection lets go of its stream, that the session is over.
    _guard: DropGuard,
}

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
            _guard: closed.drop_guard(),
        }
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.reader.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.writer.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let len = buf.len().min(MESSAGE);
        let sent = self.writer.send_item(Bytes::copy_from_slice(&buf[..len]));
        Poll::Ready(sent.map(|()| len).map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.close();
        Poll::Ready(Ok(()))
    }
}

/// Speaks HTTP/2 as a client over `io`. Exactly one connection is made; once it is lost, every call fails.
///
/// Does not wait for the other side, so it may be called before the outer call is answered.
///
/// # Errors
/// If the connection fails before anything is sent.
pub async fn connect(io: TunnelIo) -> Result<Channel, tonic::transport::Error> {
    let io = Arc::new(Mutex::new(Some(io)));
    let connector = service_fn(move |_: Uri| {
        let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(
            io.map(TokioIo::new)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
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
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(services.into_routes()))
        .await
}
