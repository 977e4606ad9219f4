//! A daemon inside another program, without a socket.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::config::Config;
use crate::daemon::{Daemon, StartError};
use crate::{server, services};

/// Buffer of the in-memory connection, in bytes.
const PIPE: usize = 1 << 20;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 16;

/// A running daemon. Dropping it stops it; [`Embedded::shutdown`] does so in an orderly way.
pub struct Embedded {
    daemon: Daemon,
    channel: Channel,
    _stop: DropGuard,
    _server: AbortOnDropHandle<()>,
    _lock: std::fs::File,
}

/// Starts a daemon in this process; `config.addresses` is not used.
///
/// # Errors
/// [`StartError`]: the state directory is in use or unusable, or the worker cannot start.
pub async fn start(config: Config) -> Result<Embedded, StartError> {
    let lock = server::lock_root(&config.root)?;
    let daemon = Daemon::open(config).await?;
    let (connect, accept) = mpsc::channel::<tokio::io::DuplexStream>(BACKLOG);
    let stop = CancellationToken::new();
    let served = server::plain()
        .add_routes(services::routes(&daemon))
        .serve_with_incoming_shutdown(
            ReceiverStream::new(accept).map(Ok::<_, io::Error>),
            stop.clone().cancelled_owned(),
        );
    let server = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "the embedded daemon stopped serving");
        }
    }));
    let connector = tower::service_fn(move |_: Uri| {
        let connect = connect.clone();
        async move {
            let (near, far) = tokio::io::duplex(PIPE);
            connect.send(far).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok::<_, io::Error>(TokioIo::new(near))
        }
    });
    Ok(Embedded {
        daemon,
        channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector),
        _stop: stop.drop_guard(),
        _server: server,
        _lock: lock,
    })
}

impl Embedded {
    /// A connection to the daemon.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Ends all builds, writes everything down and stops.
    pub async fn shutdown(self) {
        self.daemon.close().await;
    }
}
