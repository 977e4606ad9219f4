//! Opening the one connection to a daemon.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use cairn_session::windows;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::address::Address;
use crate::error::ClientError;

/// A machine that is up answers sooner; one that is not should not keep the user waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Large enough that outputs written through the session are not slowed by round trips.
const STREAM_WINDOW: u32 = 4 << 20;
/// Most bytes of headers of one answer. The details of an error are among them, and hold a whole Dockerfile.
const MAX_HEADERS: u32 = 16 << 20;

/// Connects to `address`.
pub(crate) async fn connect(address: &Address) -> Result<Channel, ClientError> {
    let connected = match address {
        Address::Unix(path) => connect_unix(path.clone()).await,
        Address::Tcp(host_port) => connect_tcp(host_port).await,
    };
    connected.map_err(|source| ClientError::Connect {
        address: address.clone(),
        source,
    })
}

/// Speaks to a daemon at the other end of `stream`.
pub(crate) async fn connect_stream<S>(stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = Mutex::new(Some(stream));
    let connector = service_fn(move |_: Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        // A stream cannot be opened a second time.
        let stream = stream.map(TokioIo::new).ok_or(std::io::ErrorKind::NotConnected);
        std::future::ready(stream.map_err(std::io::Error::from))
    });
    endpoint(Endpoint::from_static("http://localhost"))
        .connect_with_connector(connector)
        .await
}

async fn connect_unix(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint(Endpoint::from_static("http://localhost"))
        .connect_with_connector(connector)
        .await
}

async fn connect_tcp(host_port: &str) -> Result<Channel, tonic::transport::Error> {
    let uri = format!("http://{host_port}");
    endpoint(Endpoint::from_shared(uri)?).connect().await
}

fn endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(windows::CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
}
