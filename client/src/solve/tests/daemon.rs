//! A daemon of a few lines: plays one role per test.

use std::time::Duration;

use bytes::Bytes;
use cairn_proto::control::control_server::{Control, ControlServer};
use cairn_proto::control::{
    BuildHistoryEvent, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord, Vertex,
};
use cairn_proto::types::{BuildkitVersion, WorkerRecord};
use cairn_session::filesend::{ExportTarget, FileStream};
use cairn_session::{SessionHeaders, SessionManager, auth, secrets};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use crate::Client;

/// What becomes of the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Asks for everything that is on offer, writes output 0, and succeeds.
    Succeed,
    /// Fails with details.
    Fail,
    /// Refuses the request; nothing is told about the build.
    Refuse,
    /// Runs until the client loses interest.
    Hang,
    /// Succeeds, but the stream of news never ends.
    Babble,
}

pub(super) struct Daemon {
    pub(super) client: Client,
    /// Fires when the build's call is over, also when the client gave it up.
    pub(super) build_over: CancellationToken,
    _server: AbortOnDropHandle<()>,
    /// Cut when the daemon is dropped: a server's connections outlive the server.
    _wire: AbortOnDropHandle<()>,
}

struct Actor {
    role: Role,
    sessions: SessionManager,
    over: CancellationToken,
}

pub(super) async fn start(role: Role) -> Daemon {
    let (ours, mut near) = tokio::io::duplex(64 << 10);
    let (mut far, theirs) = tokio::io::duplex(64 << 10);
    let wire = tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut near, &mut far).await) });
    let build_over = CancellationToken::new();
    let actor = Actor {
        role,
        sessions: SessionManager::new(10),
        over: build_over.clone(),
    };
    let connections = stream::once(async { Ok::<_, std::io::Error>(theirs) });
    let server = tokio::spawn(async {
        let server = tonic::transport::Server::builder().add_service(ControlServer::new(actor));
        server
            .serve_with_incoming(connections.chain(stream::pending()))
            .await
            .unwrap();
    });
    let client = Client::from_stream(ours).await.unwrap();
    Daemon {
        client,
        build_over,
        _server: AbortOnDropHandle::new(server),
        _wire: AbortOnDropHandle::new(wire),
    }
}

impl Actor {
    async fn succeed(&self, request: &SolveRequest) -> Result<SolveResponse, Status> {
        let session = self.sessions.get(&request.session, Duration::from_secs(5)).await;
        let session = session.map_err(|error| Status::unknown(error.to_string()))?;
        let secret = secrets::get_secret(&session, "token").await.unwrap();
        let secret = secret.map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap());
        let credentials = auth::credentials(&session, "registry.test").await.unwrap();
        if request
            .exporters
            .first()
            .is_some_and(|exporter| exporter.r#type == "tar")
        {
            let target = ExportTarget::default();
            let file = FileStream::open(&session, &target).unwrap();
            file.write(Bytes::from_static(b"archive")).await.unwrap();
            file.finish().await.unwrap();
        }
        let mut exporter_response = request.frontend_attrs.clone();
        exporter_response.insert("secret".to_owned(), secret.unwrap_or_default());
        exporter_response.insert("user".to_owned(), credentials.username);
        exporter_response.insert("key".to_owned(), session.shared_key().to_owned());
        Ok(SolveResponse { exporter_response })
    }
}

fn failure() -> Status {
    let detail = prost_types::Any {
        type_url: "github.com/moby/buildkit/errdefs.Vertex+json".to_owned(),
        value: br#"{"digest":"sha256:a"}"#.to_vec(),
    };
    let details = cairn_proto::rpc::Status {
        code: 2,
        message: "it broke".to_owned(),
        details: vec![detail],
    };
    Status::with_details(Code::Unknown, "it broke", details.encode_to_vec().into())
}

#[async_trait]
impl Control for Actor {
    type PruneStream = BoxStream<'static, Result<UsageRecord, Status>>;
    type StatusStream = BoxStream<'static, Result<StatusResponse, Status>>;
    type SessionStream = BoxStream<'static, Result<BytesMessage, Status>>;
    type ListenBuildHistoryStream = BoxStream<'static, Result<BuildHistoryEvent, Status>>;

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let _over: DropGuard = self.over.clone().drop_guard();
        match self.role {
            Role::Succeed | Role::Babble => self.succeed(request.get_ref()).await.map(Response::new),
            Role::Fail => Err(failure()),
            Role::Refuse => Err(Status::unknown("exporter \"x\" could not be found")),
            Role::Hang => std::future::pending().await,
        }
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let vertex = Vertex {
            digest: "sha256:a".to_owned(),
            name: "[1/1] RUN a".to_owned(),
            ..Vertex::default()
        };
        let first = StatusResponse {
            vertexes: vec![vertex],
            ..StatusResponse::default()
        };
        let first = stream::once(async { Ok(first) });
        let until_over = {
            let over = self.over.clone();
            stream::once(async move { over.cancelled().await }).filter_map(|()| async { None })
        };
        let news: Self::StatusStream = match self.role {
            Role::Refuse => stream::pending().boxed(),
            Role::Babble => first.chain(stream::pending()).boxed(),
            _ => first.chain(until_over).boxed(),
        };
        let mut response = Response::new(news);
        response
            .metadata_mut()
            .insert("buildkit-current-timestamp", "2001-09-09T01:46:40.5Z".parse().unwrap());
        Ok(response)
    }

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let headers = SessionHeaders::from_metadata(request.metadata()).unwrap();
        let (outgoing, messages) = mpsc::channel(8);
        let incoming = request.into_inner().map(|message| message.map(|message| message.data));
        let handle = self.sessions.register(headers, incoming, outgoing).await.unwrap();
        let messages = ReceiverStream::new(messages).map(move |data| {
            // The session lasts as long as its stream.
            let _alive = &handle;
            Ok(BytesMessage { data })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let version = BuildkitVersion {
            version: "v1".to_owned(),
            ..BuildkitVersion::default()
        };
        Ok(Response::new(InfoResponse {
            buildkit_version: Some(version),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let id = request.into_inner().filter.join(",");
        Ok(Response::new(ListWorkersResponse {
            record: vec![WorkerRecord {
                id,
                ..WorkerRecord::default()
            }],
        }))
    }

    async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        Err(Status::internal("no disk"))
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        let record = |id: String| {
            Ok(UsageRecord {
                id,
                ..UsageRecord::default()
            })
        };
        let records = [
            record(format!("{}", request.keep_duration)),
            record(format!("{}", request.reserved_space)),
            record(format!("{}", request.max_used_space)),
            record(format!("{}", request.min_free_space)),
        ];
        Ok(Response::new(boxed(stream::iter(records))))
    }

    async fn listen_build_history(
        &self,
        _: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        Err(Status::unimplemented("history"))
    }

    async fn update_build_history(
        &self,
        _: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        Err(Status::unimplemented("history"))
    }
}

fn boxed<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    stream.boxed()
}
