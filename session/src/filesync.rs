//! Local directories of the client: the daemon receives them, the client sends them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_proto::filesync::file_sync_client::FileSyncClient;
use cairn_proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use cairn_proto::fsutil::Packet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::fsutil::{self, LocalTree, ReceiveSink, ReceiveSummary, Selection, TransferError, TransferLimits};
use crate::metadata_values;
use crate::packets::{self, Answer, PACKETS};
use crate::services::Services;
use crate::session::Session;

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const DIR_NAME: &str = "dir-name";
const INCLUDE: &str = "include-patterns";
const EXCLUDE: &str = "exclude-patterns";
const FOLLOW: &str = "followpaths";

/// What is wanted of which directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirRequest {
    /// The name under which the client offers the directory.
    pub name: String,
    /// What to send of it.
    pub selection: Selection,
}

impl DirRequest {
    fn to_metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata_values::insert(&mut metadata, DIR_NAME, std::slice::from_ref(&self.name));
        metadata_values::insert(&mut metadata, INCLUDE, &self.selection.include);
        metadata_values::insert(&mut metadata, EXCLUDE, &self.selection.exclude);
        metadata_values::insert(&mut metadata, FOLLOW, &self.selection.follow);
        metadata
    }

    fn from_metadata(metadata: &MetadataMap) -> Self {
        Self {
            name: metadata_values::read(metadata, DIR_NAME).pop().unwrap_or_default(),
            selection: Selection {
                include: metadata_values::read(metadata, INCLUDE),
                exclude: metadata_values::read(metadata, EXCLUDE),
                follow: metadata_values::read(metadata, FOLLOW),
            },
        }
    }
}

/// Receives a directory of the client into `sink`.
///
/// # Errors
/// [`TransferError`]; the call ends with an error as soon as the session does.
pub async fn receive<K: ReceiveSink>(
    session: &Session,
    request: &DirRequest,
    limits: &TransferLimits,
    sink: &mut K,
) -> Result<ReceiveSummary, TransferError> {
    session.require(DIFF_COPY)?;
    let (outgoing, packets) = mpsc::channel(PACKETS);
    let mut call = Request::new(ReceiverStream::new(packets));
    *call.metadata_mut() = request.to_metadata();
    let mut client = FileSyncClient::new(session.channel());
    let incoming = packets::incoming(async move { client.diff_copy(call).await });
    session
        .until_closed(fsutil::receive(incoming, outgoing, limits, sink))
        .await?
}

/// A directory that the client offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whether files keep their owners; otherwise all belong to root.
    pub keeps_owner: bool,
}

/// Offers directories by name.
pub fn serve(services: &mut Services, dirs: BTreeMap<String, LocalDir>) {
    services.add(FileSyncServer::new(LocalDirs { dirs }), &[DIFF_COPY]);
}

struct LocalDirs {
    dirs: BTreeMap<String, LocalDir>,
}

#[async_trait]
impl FileSync for LocalDirs {
    type DiffCopyStream = Answer<Packet>;
    type TarStreamStream = Answer<Packet>;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let DirRequest { name, selection } = DirRequest::from_metadata(request.metadata());
        let dir = self.dirs.get(&name).cloned();
        let dir = dir.ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;
        let prepare = move || LocalTree::new(&dir.path, &selection, dir.keeps_owner);
        let tree = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|_| Status::internal("reading stopped"))?;
        let tree = Arc::new(tree.map_err(|error| Status::unknown(error.to_string()))?);
        let incoming = request.into_inner();
        Ok(Response::new(Answer::start(move |outgoing| async move {
            fsutil::send(incoming, outgoing, tree, Arc::new(|_| {})).await?;
            Ok(())
        })))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("directories are not offered as tar streams"))
    }
}
