//! Blobs that the daemon puts into a client's store, as containerd's service takes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairn_proto::content::content_server::{Content, ContentServer};
use cairn_proto::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
    ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, StatusRequest, StatusResponse,
    UpdateRequest, UpdateResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use cairn_session::content::{EXPORT_STORE, RemoteContent};
use cairn_session::{Services, SessionError};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use crate::support::{TRANSPORTS, Transport, big, connect};

const METHODS: [&str; 3] = [
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Write",
    "/containerd.services.content.v1.Content/Abort",
];

/// How a store behaves towards a digest.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Takes,
    HasItAfterAll,
    FailsOnData,
    HangsUp,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    aborted: Vec<String>,
}

/// A store that keeps blobs in memory.
struct Store {
    manner: Manner,
    state: Arc<Mutex<State>>,
}

/// One upload.
struct Upload {
    manner: Manner,
    state: Arc<Mutex<State>>,
    data: Vec<u8>,
}

impl Upload {
    fn take(&mut self, request: &WriteContentRequest) -> Result<Option<WriteContentResponse>, Status> {
        let action = WriteAction::try_from(request.action).unwrap();
        match (self.manner, action) {
            (Manner::HasItAfterAll, _) => return Err(Status::already_exists("there it is")),
            (Manner::FailsOnData, WriteAction::Write) => return Err(Status::resource_exhausted("disk full")),
            (Manner::HangsUp, WriteAction::Write) => return Ok(None),
            _ => {}
        }
        // As containerd does: an offset of zero starts anew, any other must be where the data end.
        match request.offset {
            0 => self.data.clear(),
            offset if usize::try_from(offset) == Ok(self.data.len()) => {}
            offset => return Err(Status::out_of_range(format!("offset {offset}"))),
        }
        self.data.extend_from_slice(&request.data);
        if action == WriteAction::Commit {
            if usize::try_from(request.total) != Ok(self.data.len()) {
                return Err(Status::failed_precondition("wrong size"));
            }
            let data = std::mem::take(&mut self.data);
            self.state.lock().unwrap().blobs.insert(request.expected.clone(), data);
        }
        Ok(Some(WriteContentResponse {
            action: request.action,
            ..WriteContentResponse::default()
        }))
    }
}

#[async_trait]
impl Content for Store {
    type ListStream = BoxStream<'static, Result<ListContentResponse, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadContentResponse, Status>>;
    type WriteStream = BoxStream<'static, Result<WriteContentResponse, Status>>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        assert_eq!(
            request.metadata().get("buildkit-attachable-store-id").unwrap(),
            "export"
        );
        match self.state.lock().unwrap().blobs.contains_key(&request.get_ref().digest) {
            true => Ok(Response::new(InfoResponse {
                info: Some(Info::default()),
            })),
            false => Err(Status::not_found("no such blob")),
        }
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        assert_eq!(
            request.metadata().get("buildkit-attachable-store-id").unwrap(),
            "export"
        );
        let upload = Upload {
            manner: self.manner,
            state: self.state.clone(),
            data: Vec::new(),
        };
        let answers = stream::unfold(Some((upload, request.into_inner())), |state| async move {
            let (mut upload, mut requests) = state?;
            let request = requests.next().await?.ok()?;
            match upload.take(&request) {
                Ok(answer) => Some((Ok(answer?), Some((upload, requests)))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        self.state.lock().unwrap().aborted.push(request.into_inner().r#ref);
        Ok(Response::new(()))
    }

    async fn read(&self, _: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("read"))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(Status::unimplemented("update"))
    }

    async fn list(&self, _: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented("list"))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("delete"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }

    async fn list_statuses(&self, _: Request<ListStatusesRequest>) -> Result<Response<ListStatusesResponse>, Status> {
        Err(Status::unimplemented("statuses"))
    }
}

fn services(manner: Manner) -> (Services, Arc<Mutex<State>>) {
    let state = Arc::<Mutex<State>>::default();
    let store = Store {
        manner,
        state: state.clone(),
    };
    let mut services = Services::new();
    services.add(ContentServer::new(store), &METHODS);
    (services, state)
}

/// Writes a blob of any digest; `false` if the client has it.
async fn put(store: &RemoteContent, digest: &str, data: &[u8]) -> Result<bool, SessionError> {
    let Some(mut writer) = store.write(digest, data.len() as u64).await? else {
        return Ok(false);
    };
    writer.send(Bytes::copy_from_slice(data)).await?;
    writer.commit().await?;
    Ok(true)
}

#[tokio::test]
async fn blobs_arrive_whole_and_once() {
    for transport in TRANSPORTS {
        let (services, state) = services(Manner::Takes);
        let connected = connect(transport, services).await;
        let store = RemoteContent::new(&connected.session, EXPORT_STORE);
        let large = [big(), big(), big()].concat();
        for (digest, data) in [("sha256:a", large.as_slice()), ("sha256:b", b"x"), ("sha256:c", b"")] {
            assert!(put(&store, digest, data).await.unwrap(), "{digest}");
            assert!(!put(&store, digest, data).await.unwrap(), "{digest}");
            assert!(state.lock().unwrap().blobs[digest] == data, "{digest}");
        }
        assert_eq!(state.lock().unwrap().aborted, Vec::<String>::new());
    }
}

#[tokio::test]
async fn uploads_that_fail_are_withdrawn() {
    for (manner, want) in [
        (Manner::FailsOnData, "disk full"),
        (Manner::HangsUp, "ended the call early"),
    ] {
        let (services, state) = services(manner);
        let connected = connect(Transport::Memory, services).await;
        let store = RemoteContent::new(&connected.session, EXPORT_STORE);
        let error = put(&store, "sha256:a", b"data").await.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        let aborted = state.lock().unwrap().aborted.clone();
        assert!(aborted.len() == 1 && aborted[0].ends_with("-sha256:a"), "{aborted:?}");
    }
}

#[tokio::test]
async fn blobs_that_turn_out_to_be_there_are_left() {
    let (services, _) = services(Manner::HasItAfterAll);
    let connected = connect(Transport::Memory, services).await;
    let store = RemoteContent::new(&connected.session, EXPORT_STORE);
    assert!(!put(&store, "sha256:a", b"data").await.unwrap());
}

#[tokio::test]
async fn clients_without_stores_and_clients_that_leave_are_errors() {
    let without = connect(Transport::Memory, Services::new()).await;
    let store = RemoteContent::new(&without.session, EXPORT_STORE);
    let error = put(&store, "sha256:a", b"data").await.unwrap_err();
    assert!(matches!(error, SessionError::Unsupported { .. }), "{error}");

    let (services, _) = services(Manner::Takes);
    let mut connected = connect(Transport::Memory, services).await;
    let store = RemoteContent::new(&connected.session, EXPORT_STORE);
    let mut writer = store.write("sha256:a", 4).await.unwrap().unwrap();
    drop(connected.client.take());
    let error = writer.send(Bytes::from_static(b"data")).await.unwrap_err();
    assert!(
        matches!(error.code(), Code::Unavailable | Code::Cancelled | Code::Unknown),
        "{error}"
    );
}
