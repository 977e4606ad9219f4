//! The client's half: directories with OCI layouts, to be read and, where the client says so, written.

use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use cairn_proto::content::content_server::{Content, ContentServer};
use cairn_proto::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
    ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse, StatusRequest, StatusResponse,
    UpdateRequest, UpdateResponse, WriteContentRequest, WriteContentResponse,
};
use futures_util::stream::{self, BoxStream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::receive::answer_writes;
use super::{INFO, READ, STORE, WRITE};
use crate::metadata_values;
use crate::packets::Answer;
use crate::services::Services;

/// Bytes per message.
const MESSAGE: usize = 256 << 10;

/// A directory with an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutDir(pub PathBuf);

impl LayoutDir {
    /// Where a blob is, or would be; `None` for what is no digest and could lead anywhere.
    pub(super) fn blob(&self, digest: &str) -> Option<PathBuf> {
        let (algorithm, hash) = digest.split_once(':')?;
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return None,
        };
        let fits = hash.len() == length && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| self.0.join("blobs").join(algorithm).join(hash))
    }
}

/// Offers OCI layouts by the names of their stores; see [`super::layout_store`].
///
/// Blobs can be added to those in `writable`, which must exist; what is in both can be read too.
pub fn serve(services: &mut Services, stores: BTreeMap<String, LayoutDir>, writable: BTreeMap<String, LayoutDir>) {
    let mut methods = vec![INFO, READ];
    if !writable.is_empty() {
        methods.push(WRITE);
    }
    let mut all = writable.clone();
    all.extend(stores);
    let stores = Layouts {
        stores: Arc::new(all),
        writable: Arc::new(writable),
    };
    services.add(ContentServer::new(stores), &methods);
}

struct Layouts {
    stores: Arc<BTreeMap<String, LayoutDir>>,
    writable: Arc<BTreeMap<String, LayoutDir>>,
}

impl Layouts {
    async fn open(&self, metadata: &MetadataMap, digest: &str) -> Result<(File, u64), Status> {
        let name = metadata_values::read(metadata, STORE).pop().unwrap_or_default();
        let store = self.stores.get(&name);
        let store = store.ok_or_else(|| Status::not_found(format!("no content store {name:?}")))?;
        let path = store.blob(digest);
        let path = path.ok_or_else(|| Status::invalid_argument(format!("invalid digest {digest:?}")))?;
        let open = async {
            let file = File::open(&path).await?;
            let metadata = file.metadata().await?;
            if !metadata.is_file() {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            Ok((file, metadata.len()))
        };
        open.await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Status::not_found(format!("content {digest}: not found")),
            _ => Status::unknown(format!("failed to open {}: {error}", path.display())),
        })
    }
}

#[async_trait]
impl Content for Layouts {
    type ListStream = BoxStream<'static, Result<ListContentResponse, Status>>;
    type ReadStream = Answer<ReadContentResponse>;
    type WriteStream = BoxStream<'static, Result<WriteContentResponse, Status>>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let (_, size) = self.open(&metadata, &message.digest).await?;
        let info = Info {
            digest: message.digest,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..Info::default()
        };
        Ok(Response::new(InfoResponse { info: Some(info) }))
    }

    async fn read(&self, request: Request<ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        let (mut file, size) = self.open(&metadata, &message.digest).await?;
        let offset = u64::try_from(message.offset).ok().filter(|offset| *offset <= size);
        let mut offset = offset.ok_or_else(|| Status::out_of_range(format!("offset {}", message.offset)))?;
        let length = u64::try_from(message.size).map_err(|_| Status::out_of_range("negative size"))?;
        let failed = |error| Status::unknown(format!("failed to read a blob: {error}"));
        file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        let mut rest = file.take(if length == 0 { u64::MAX } else { length });
        Ok(Response::new(Answer::start(move |messages| async move {
            loop {
                let mut data = BytesMut::with_capacity(MESSAGE);
                if rest.read_buf(&mut data).await.map_err(failed)? == 0 {
                    return Ok(());
                }
                let read = data.len();
                let message = ReadContentResponse {
                    offset: i64::try_from(offset).unwrap_or(i64::MAX),
                    data: data.freeze(),
                };
                offset += read as u64;
                if messages.send(message).await.is_err() {
                    return Ok(());
                }
            }
        })))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(read_only())
    }

    async fn list(&self, _: Request<ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented("blobs of an OCI layout are not listed"))
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(read_only())
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::not_found("nothing is being written"))
    }

    async fn list_statuses(&self, _: Request<ListStatusesRequest>) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (metadata, _, messages) = request.into_parts();
        let name = metadata_values::read(&metadata, STORE).pop().unwrap_or_default();
        let Some(store) = self.writable.get(&name).cloned() else {
            return Ok(Response::new(Box::pin(stream::iter([Err(read_only())]))));
        };
        let answers = Answer::start(move |answers| answer_writes(store, messages, answers));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<()>, Status> {
        Err(read_only())
    }
}

fn read_only() -> Status {
    Status::permission_denied("OCI layouts are offered for reading only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_lead_to_files() {
        let dir = LayoutDir("/l".into());
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(
            dir.blob(&format!("sha256:{hash}")),
            Some(format!("/l/blobs/sha256/{hash}").into())
        );
        let upper = hash.to_uppercase();
        for text in [
            "",
            "sha256:",
            "sha256:..",
            "../..:x",
            &hash,
            &format!("md5:{hash}"),
            &format!("sha512:{hash}"),
        ] {
            assert_eq!(dir.blob(text), None, "{text}");
        }
        assert_eq!(dir.blob(&format!("sha256:{upper}")), None);
        assert_eq!(dir.blob(&format!("sha256:../../../{}", &hash[9..])), None);
    }
}
