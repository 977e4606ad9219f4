use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_proto::control::BytesMessage;
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::fsutil::Stat;
use cairn_session::fsutil::{BoxError, Decision, ReceiveSink};
use cairn_session::{LOOKUP_TIMEOUT, Services, Session, SessionHandle, SessionHeaders, SessionManager, tunnel};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// What a test's session runs over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    Memory,
    UnixSocket,
}

pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Memory, Transport::UnixSocket];

/// A session with a client on its other end.
pub(crate) struct Connected {
    pub(crate) session: Session,
    pub(crate) manager: SessionManager,
    /// Aborting it makes the client disappear.
    pub(crate) client: Option<AbortOnDropHandle<()>>,
    _handle: Option<SessionHandle>,
    _server: Option<AbortOnDropHandle<()>>,
    _dir: Option<tempfile::TempDir>,
}

pub(crate) async fn connect(transport: Transport, services: Services) -> Connected {
    match transport {
        Transport::Memory => in_memory(services).await,
        Transport::UnixSocket => over_unix_socket(services).await,
    }
}

async fn in_memory(services: Services) -> Connected {
    let manager = SessionManager::default();
    let (to_client, from_daemon) = mpsc::channel::<Bytes>(8);
    let (to_daemon, from_client) = mpsc::channel::<Bytes>(8);
    let headers = SessionHeaders::new("id", "key", services.methods());
    let incoming = ReceiverStream::new(from_daemon).map(Ok::<_, std::io::Error>);
    let io = tunnel::TunnelIo::new(incoming, to_daemon, CancellationToken::new());
    let client = AbortOnDropHandle::new(tokio::spawn(async move { drop(tunnel::serve_io(io, services).await) }));
    let incoming = ReceiverStream::new(from_client).map(Ok::<_, std::io::Error>);
    let handle = manager.register(headers, incoming, to_client).await.unwrap();
    let session = handle.session().clone();
    Connected {
        session,
        manager,
        client: Some(client),
        _handle: Some(handle),
        _server: None,
        _dir: None,
    }
}

async fn over_unix_socket(services: Services) -> Connected {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let manager = SessionManager::default();
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let daemon = Daemon {
        manager: manager.clone(),
    };
    let server = Server::builder()
        .add_service(daemon)
        .serve_with_incoming(UnixListenerStream::new(listener));
    let server = AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }));
    let channel = Endpoint::from_shared(format!("unix://{}", path.display()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let control = ControlClient::new(channel);
    let client = AbortOnDropHandle::new(tokio::spawn(async move {
        drop(tunnel::serve(control, "id", "key", services).await);
    }));
    let session = manager.get("id", LOOKUP_TIMEOUT).await.unwrap();
    Connected {
        session,
        manager,
        client: Some(client),
        _handle: None,
        _server: Some(server),
        _dir: Some(dir),
    }
}

/// The one method of the daemon's service that matters here.
#[derive(Clone)]
struct Daemon {
    manager: SessionManager,
}

impl NamedService for Daemon {
    const NAME: &'static str = "moby.buildkit.v1.Control";
}

impl tower::Service<http::Request<tonic::body::Body>> for Daemon {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/moby.buildkit.v1.Control/Session");
        let daemon = self.clone();
        let codec = tonic_prost::ProstCodec::<BytesMessage, BytesMessage>::default();
        Box::pin(async move { Ok(Grpc::new(codec).streaming(daemon, request).await) })
    }
}

impl StreamingService<BytesMessage> for Daemon {
    type Response = BytesMessage;
    type ResponseStream = futures_util::stream::BoxStream<'static, Result<BytesMessage, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let manager = self.manager.clone();
        Box::pin(async move {
            let headers = SessionHeaders::from_metadata(request.metadata())?;
            let (outgoing, messages) = mpsc::channel(8);
            let incoming = request.into_inner().map(|message| message.map(|message| message.data));
            let handle = manager.register(headers, incoming, outgoing).await?;
            let answer = ReceiverStream::new(messages).map(move |data| {
                let _keep_open = &handle;
                Ok(BytesMessage { data })
            });
            Ok(Response::new(answer.boxed()))
        })
    }
}

/// Keeps what it receives in memory, and fetches only what it does not know.
#[derive(Default)]
pub(crate) struct MemorySink {
    pub(crate) known: HashMap<Vec<u8>, Stat>,
    pub(crate) entries: Vec<Stat>,
    pub(crate) content: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) is_list_complete: bool,
    pub(crate) is_complete: bool,
    pub(crate) finished_files: usize,
}

impl MemorySink {
    /// For paths that are text.
    pub(crate) fn paths(&self) -> Vec<Cow<'_, str>> {
        let paths = self.entries.iter().map(|stat| stat.path().to_string_lossy());
        paths.collect()
    }

    pub(crate) fn stat(&self, path: &str) -> &Stat {
        self.entries
            .iter()
            .find(|stat| stat.path == path.as_bytes())
            .unwrap_or_else(|| panic!("{path} not received"))
    }
}

impl ReceiveSink for MemorySink {
    async fn entry(&mut self, _: u32, stat: Stat) -> Result<Decision, BoxError> {
        let is_known = self.known.get(&stat.path) == Some(&stat);
        self.entries.push(stat);
        Ok(if is_known { Decision::Skip } else { Decision::Fetch })
    }

    async fn data(&mut self, index: u32, chunk: Bytes) -> Result<(), BoxError> {
        let path = self.entries[index as usize].path.clone();
        self.content.entry(path).or_default().extend_from_slice(&chunk);
        Ok(())
    }

    async fn end_of_file(&mut self, index: u32) -> Result<(), BoxError> {
        self.content
            .entry(self.entries[index as usize].path.clone())
            .or_default();
        self.finished_files += 1;
        Ok(())
    }

    async fn end_of_list(&mut self) -> Result<(), BoxError> {
        self.is_list_complete = true;
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), BoxError> {
        self.is_complete = true;
        Ok(())
    }
}

/// A directory with one of everything.
pub(crate) fn sample_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("a/deep")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("a/deep/file"), "deep").unwrap();
    fs::write(root.join("a.txt"), "text").unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("big"), big()).unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::hard_link(root.join("a.txt"), root.join("twin")).unwrap();
    symlink("a/deep", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    symlink("../escape", root.join("a/up")).unwrap();
    dir
}

/// Content that takes many packets.
pub(crate) fn big() -> Vec<u8> {
    (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// What is in a directory, in a form that can be compared.
pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let time = (metadata.mtime(), metadata.mtime_nsec());
            let content = if metadata.is_dir() {
                waiting.push(path.clone());
                format!("dir {:o} {time:?}", metadata.mode())
            } else if metadata.is_symlink() {
                format!("link {:?} {time:?}", fs::read_link(&path).unwrap())
            } else {
                let sum = fs::read(&path)
                    .unwrap()
                    .iter()
                    .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                format!(
                    "file {:o} {} {sum} links {} {time:?}",
                    metadata.mode(),
                    metadata.len(),
                    metadata.nlink()
                )
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    found
}
