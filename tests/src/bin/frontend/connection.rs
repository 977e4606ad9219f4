//! The standard streams as a connection.

use std::sync::Mutex;

use hyper_util::rt::TokioIo;
use tokio::net::unix::pipe::{Receiver, Sender};
use tonic::transport::{Channel, Endpoint, Uri};

/// Connects to whoever holds the other ends.
pub(crate) async fn connect() -> anyhow::Result<Channel> {
    let reader = Receiver::from_owned_fd(rustix::stdio::stdin().try_clone_to_owned()?)?;
    let writer = Sender::from_owned_fd(rustix::stdio::stdout().try_clone_to_owned()?)?;
    let connection = Mutex::new(Some(TokioIo::new(tokio::io::join(reader, writer))));
    let connector = tower::service_fn(move |_: Uri| {
        let taken = connection.lock().ok().and_then(|mut connection| connection.take());
        std::future::ready(taken.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)))
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector(connector).await?)
}
