//! Connections of clients: as many as there is room for, from whoever begins to speak in time.
//!
//! A connection that cannot be accepted, for want of file descriptors or memory, costs that client a while and nobody
//! else anything: the listener goes on. One on which nobody speaks is given up.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// How long a client may take to begin to speak.
const GREETING: Duration = Duration::from_secs(10);
/// With how many bytes every connection begins, before the first frame.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// How long to wait when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// The most connections, however many files may be open.
const MOST: usize = 1 << 16;

/// A socket on which clients knock.
pub(crate) trait Listen: Send + Sync + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    /// Takes the next connection. Cancel safe.
    fn take(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Listen for UnixListener {
    type Io = UnixStream;

    async fn take(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listen for TcpListener {
    type Io = TcpStream;

    async fn take(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Places for connections: half of the files that this process may have open, as builds need the others.
pub(crate) fn places() -> Arc<Semaphore> {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(MOST);
    Arc::new(Semaphore::new((files / 2).clamp(1, MOST)))
}

/// Connections as they come; never an error, never the end.
pub(crate) fn connections<L: Listen>(
    listener: L,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Connection<L::Io>>> {
    stream::unfold((listener, places), |(listener, places)| async move {
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.take().await {
                Ok(io) => return Some((Ok(Connection::new(io, place)), (listener, places))),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

/// A client's connection.
pub(crate) struct Connection<I> {
    io: I,
    /// What is still missing of the greeting, and until when.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl<I> Connection<I> {
    fn new(io: I, place: OwnedSemaphorePermit) -> Self {
        Self {
            io,
            greeting: Some((PREFACE, Box::pin(tokio::time::sleep(GREETING)))),
            _place: place,
        }
    }

    fn heard(&mut self, bytes: usize) {
        if let Some((missing, _)) = &mut self.greeting {
            *missing = missing.saturating_sub(bytes);
            if *missing == 0 {
                self.greeting = None;
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(outcome) = Pin::new(&mut self.io).poll_read(cx, buf) {
            self.heard(buf.filled().len() - before);
            return Poll::Ready(outcome);
        }
        if let Some((_, deadline)) = &mut self.greeting {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<I: Connected> Connected for Connection<I> {
    type ConnectInfo = I::ConnectInfo;

    fn connect_info(&self) -> I::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Hands out what it was given.
    struct Scripted(Mutex<Vec<io::Result<DuplexStream>>>);

    impl Connected for Pipe {
        type ConnectInfo = ();

        fn connect_info(&self) {}
    }

    struct Pipe(DuplexStream);

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl Listen for Scripted {
        type Io = Pipe;

        async fn take(&self) -> io::Result<Pipe> {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(next) => next.map(Pipe),
                None => std::future::pending().await,
            }
        }
    }

    fn scripted(
        results: Vec<io::Result<DuplexStream>>,
        places: usize,
    ) -> impl Stream<Item = io::Result<Connection<Pipe>>> {
        connections(Scripted(Mutex::new(results)), Arc::new(Semaphore::new(places)))
    }

    #[tokio::test(start_paused = true)]
    async fn cve_2024_47609_failures_to_accept_do_not_end_the_listener() {
        let (near, _far) = tokio::io::duplex(64);
        let too_many_files = || Err(io::Error::from_raw_os_error(24));
        let incoming = scripted(vec![Ok(near), too_many_files(), too_many_files()], 1);
        let mut incoming = std::pin::pin!(incoming);
        incoming.next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_given_up_and_who_has_spoken_may_be_silent() {
        let (near, mut far) = tokio::io::duplex(64);
        let (silent, mut half) = tokio::io::duplex(64);
        let incoming = scripted(vec![Ok(near), Ok(silent)], 2);
        let mut incoming = std::pin::pin!(incoming);
        let mut silent = incoming.next().await.unwrap().unwrap();
        half.write_all(&[b'x'; PREFACE - 1]).await.unwrap();
        let mut rest = Vec::new();
        let error = silent.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!((error.kind(), rest.len()), (io::ErrorKind::TimedOut, PREFACE - 1));

        let mut spoken = incoming.next().await.unwrap().unwrap();
        far.write_all(&[b'x'; PREFACE]).await.unwrap();
        spoken.read_exact(&mut [0; PREFACE]).await.unwrap();
        let silence = tokio::time::timeout(GREETING * 10, spoken.read_u8()).await;
        assert!(silence.is_err(), "{silence:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_as_many_connections_as_places() {
        let pipes: Vec<_> = (0..2).map(|_| tokio::io::duplex(64)).collect();
        let (near, _far): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let incoming = scripted(near.into_iter().map(Ok).collect(), 1);
        let mut incoming = std::pin::pin!(incoming);
        let first = incoming.next().await.unwrap().unwrap();
        let second = tokio::time::timeout(GREETING, incoming.next()).await;
        assert!(second.is_err(), "no place was free");
        drop(first);
        incoming.next().await.unwrap().unwrap();
    }
}
