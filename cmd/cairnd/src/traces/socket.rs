//! The socket on which steps and frontends send spans of their own.
//!
//! Whoever runs something in a build can talk to it, so it offers nothing else, and little room: what is sent there can
//! do no more than be in the trace of a build that runs, and must know the random id of that.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_proto::otlp::trace_service_server::TraceServiceServer;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::Server;

use super::{TraceReceiver, Traces};
use crate::unix_socket::{self, SocketFile};
use crate::{accept, server, trailers};

/// Most connections; a process has one.
const MAX_CONNECTIONS: usize = 64;
/// Most calls at a time on one of them.
const MAX_CALLS: u32 = 2;
/// Largest call. Libraries send some hundred spans at a time, of a kilobyte or less.
const MAX_MESSAGE: usize = 1 << 20;
/// Most bytes of headers of a call.
const MAX_HEADERS: u32 = 16 << 10;
/// Who may talk to it: steps are all kinds of users.
const MODE: u32 = 0o666;

/// The socket, being served. Gone when dropped, with all connections.
pub(crate) struct StepSocket {
    path: PathBuf,
    _serving: AbortOnDropHandle<()>,
    // In this order: the file is found through the directory.
    _file: SocketFile,
    _dir: fs::File,
}

impl StepSocket {
    /// Listens at `path`, and keeps what belongs to `traces`.
    ///
    /// # Errors
    /// If nobody can listen there.
    pub(crate) async fn open(path: &Path, traces: Traces) -> io::Result<Self> {
        unix_socket::make_dir(path)?;
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
        };
        // Names of sockets are short, and nobody needs this one: it is mounted.
        let dir = fs::File::open(dir)?;
        let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
        let (listener, file) = unix_socket::listen(&short, MODE).await?;
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let served = limited()
            .add_routes(routes(traces))
            .serve_with_incoming(accept::connections(listener, places));
        let serving = tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "spans of steps are not collected any more");
            }
        });
        Ok(Self {
            path: path.to_owned(),
            _serving: AbortOnDropHandle::new(serving),
            _file: file,
            _dir: dir,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn limited() -> Server {
    server::plain()
        .max_concurrent_streams(MAX_CALLS)
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_connection_window_size(u32::try_from(MAX_MESSAGE).unwrap_or(u32::MAX))
}

fn routes(traces: Traces) -> Routes {
    let service = TraceServiceServer::new(TraceReceiver(traces)).max_decoding_message_size(MAX_MESSAGE);
    trailers::bounded(Routes::new(service))
}
