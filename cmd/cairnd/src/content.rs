//! The content service: blobs of results, and of the history of builds, for clients to read.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::pin::Pin;
use std::time::SystemTime;

use bytes::Bytes;
use cairn_proto::content as wire;
use cairn_proto::content::content_server::Content;
use cairn_solver::Digest;
use cairn_worker::content::{ContentError, ContentStore};
use cairn_worker::filter::{Field, Filters};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::convert::timestamp;

/// Most bytes in one message.
const CHUNK: u64 = 1 << 20;
/// Most blobs in one message.
const PAGE: usize = 100;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves [`Content`]; nothing can be changed through it.
pub(crate) struct ContentService {
    /// Asked in this order.
    pub(crate) stores: Vec<ContentStore>,
}

impl ContentService {
    /// Does work on the stores where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Vec<ContentStore>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let stores = self.stores.clone();
        let task = tokio::task::spawn_blocking(move || work(stores));
        task.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

#[tonic::async_trait]
impl Content for ContentService {
    type ListStream = Streamed<wire::ListContentResponse>;
    type ReadStream = Streamed<wire::ReadContentResponse>;
    type WriteStream = Streamed<wire::WriteContentResponse>;

    async fn info(&self, request: Request<wire::InfoRequest>) -> Result<Response<wire::InfoResponse>, Status> {
        let digest = digest(&request.get_ref().digest)?;
        let info = self.blocking(move |stores| {
            let file = open(&stores, &digest)?;
            info(&digest, &file)
        });
        Ok(Response::new(wire::InfoResponse {
            info: Some(info.await?),
        }))
    }

    async fn list(&self, request: Request<wire::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let filters =
            Filters::parse(&request.get_ref().filters).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let infos = self.blocking(move |stores| list(&stores, &filters)).await?;
        let pages: Vec<_> = infos
            .chunks(PAGE)
            .map(|infos| Ok(wire::ListContentResponse { info: infos.to_vec() }))
            .collect();
        Ok(Response::new(stream::iter(pages).boxed()))
    }

    async fn read(&self, request: Request<wire::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let wire::ReadContentRequest {
            digest: name,
            offset,
            size,
        } = request.into_inner();
        let digest = digest(&name)?;
        let number =
            |n: i64| u64::try_from(n).map_err(|_| Status::invalid_argument("offset and size cannot be negative"));
        let (offset, size) = (number(offset)?, number(size)?);
        let (file, end) = self
            .blocking(move |stores| {
                let mut file = open(&stores, &digest)?;
                let len = file.metadata().map_err(|error| unreadable(&digest, &error))?.len();
                let end = end(offset, size, len)
                    .ok_or_else(|| Status::out_of_range(format!("read past the end of blob {digest}, {len} bytes")))?;
                file.seek(SeekFrom::Start(offset))
                    .map_err(|error| unreadable(&digest, &error))?;
                Ok((file, end))
            })
            .await?;
        let chunks = stream::try_unfold((file, offset), move |(file, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || chunk(file, (end - at).min(CHUNK)));
            let (file, data) = read
                .await
                .map_err(|error| Status::internal(error.to_string()))?
                .map_err(|error| unreadable(&digest, &error))?;
            let next = at + data.len() as u64;
            let message = wire::ReadContentResponse {
                offset: i64::try_from(at).unwrap_or(i64::MAX),
                data,
            };
            Ok::<_, Status>(Some((message, (file, next))))
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        // Uploads are what clients could ask about, and there are none.
        Err(Status::not_found(format!(
            "ingest {:?} not found",
            request.get_ref().r#ref
        )))
    }

    async fn list_statuses(
        &self,
        _: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        Ok(Response::new(wire::ListStatusesResponse::default()))
    }

    async fn update(&self, _: Request<wire::UpdateRequest>) -> Result<Response<wire::UpdateResponse>, Status> {
        Err(read_only())
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(read_only())
    }

    async fn write(
        &self,
        _: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        Err(read_only())
    }

    async fn abort(&self, _: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        Err(read_only())
    }
}

fn read_only() -> Status {
    Status::new(Code::FailedPrecondition, "read-only content store")
}

fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The blob in the first store that has it.
fn open(stores: &[ContentStore], digest: &Digest) -> Result<File, Status> {
    for store in stores {
        match store.reader(digest) {
            Err(ContentError::NotFound(_)) => {}
            Ok(file) => return Ok(file),
            Err(error) => return Err(unreadable(digest, &error)),
        }
    }
    Err(Status::not_found(format!("content {digest}: not found")))
}

fn unreadable(digest: &Digest, error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::warn!(%digest, error, "failed to read a blob");
    Status::internal(format!("failed to read content {digest}"))
}

fn info(digest: &Digest, file: &File) -> Result<wire::Info, Status> {
    let metadata = file.metadata().map_err(|error| unreadable(digest, &error))?;
    // Blobs are written once.
    let written = timestamp(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    Ok(wire::Info {
        digest: digest.to_string(),
        size: i64::try_from(metadata.len()).unwrap_or(i64::MAX),
        created_at: Some(written),
        updated_at: Some(written),
        ..wire::Info::default()
    })
}

/// All blobs that match, by digest.
fn list(stores: &[ContentStore], filters: &Filters) -> Result<Vec<wire::Info>, Status> {
    let mut infos = std::collections::BTreeMap::new();
    for store in stores {
        let blobs = store.list().map_err(|error| Status::internal(error.to_string()))?;
        for blob in blobs {
            let is_wanted = filters.matches(|path| match path {
                ["digest"] => Field::Text(blob.digest.to_string()),
                ["size"] => Field::Text(blob.size.to_string()),
                _ => Field::Absent,
            });
            if !is_wanted || infos.contains_key(&blob.digest) {
                continue;
            }
            // It may be removed at any time.
            if let Ok(file) = store.reader(&blob.digest) {
                infos.insert(blob.digest, info(&blob.digest, &file)?);
            }
        }
    }
    Ok(infos.into_values().collect())
}

/// Where reading `size` bytes (0 for all) from `offset` on ends; none if that is beyond the end.
fn end(offset: u64, size: u64, len: u64) -> Option<u64> {
    let end = if size == 0 { len } else { offset.checked_add(size)? };
    (offset <= len && end <= len).then_some(end)
}

fn chunk(mut file: File, len: u64) -> std::io::Result<(File, Bytes)> {
    let mut data = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    file.by_ref().take(len).read_to_end(&mut data)?;
    if data.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok((file, data.into()))
}

#[cfg(test)]
mod tests {
    use cairn_worker::content::Durability;

    use super::*;

    #[test]
    fn parts_of_blobs() {
        for (offset, size, len, want) in [
            (0, 0, 10, Some(10)),
            (10, 0, 10, Some(10)),
            (11, 0, 10, None),
            (3, 4, 10, Some(7)),
            (3, 7, 10, Some(10)),
            (3, 8, 10, None),
            (1, u64::MAX, 10, None),
            (0, 0, 0, Some(0)),
        ] {
            assert_eq!(end(offset, size, len), want, "{offset} {size} {len}");
        }
    }

    async fn read(service: &ContentService, digest: &str, offset: i64, size: i64) -> Result<Vec<u8>, Code> {
        let request = wire::ReadContentRequest {
            digest: digest.to_owned(),
            offset,
            size,
        };
        let answer = service
            .read(Request::new(request))
            .await
            .map_err(|status| status.code())?;
        let mut messages = answer.into_inner();
        let mut data = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|status| status.code())?;
            assert_eq!(message.offset, offset + i64::try_from(data.len()).unwrap());
            assert!(message.data.len() as u64 <= CHUNK);
            data.extend_from_slice(&message.data);
        }
        Ok(data)
    }

    #[tokio::test]
    async fn blobs_of_all_stores_are_read_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let stores: Vec<ContentStore> = ["a", "b"]
            .map(|name| ContentStore::open(&dir.path().join(name), Durability::Relaxed).unwrap())
            .into();
        let large = vec![7; 3 << 20];
        let first = stores[0].put(&large).unwrap().digest.to_string();
        let second = stores[1].put(b"second").unwrap().digest.to_string();
        stores[1].put(&large).unwrap();
        let service = ContentService { stores };
        assert_eq!(read(&service, &first, 0, 0).await.unwrap(), large);
        assert_eq!(read(&service, &first, 5, 2 << 20).await.unwrap().len(), 2 << 20);
        assert_eq!(read(&service, &second, 3, 0).await.unwrap(), b"ond");
        assert_eq!(read(&service, &second, 7, 0).await, Err(Code::OutOfRange));
        assert_eq!(read(&service, &second, -1, 0).await, Err(Code::InvalidArgument));
        assert_eq!(read(&service, "sha256:../../x", 0, 0).await, Err(Code::InvalidArgument));
        let other = Digest::sha256(b"other").to_string();
        assert_eq!(read(&service, &other, 0, 0).await, Err(Code::NotFound));

        let info = service
            .info(Request::new(wire::InfoRequest { digest: second.clone() }))
            .await;
        let info = info.unwrap().into_inner().info.unwrap();
        assert_eq!((info.digest, info.size), (second.clone(), 6));
        let missing = service.info(Request::new(wire::InfoRequest { digest: other })).await;
        assert_eq!(missing.unwrap_err().code(), Code::NotFound);
        for (filters, want) in [
            (vec![], 2),
            (vec![format!("digest=={second}")], 1),
            (vec!["size==7".to_owned()], 0),
        ] {
            let answer = service.list(Request::new(wire::ListContentRequest { filters })).await;
            let pages: Vec<_> = answer.unwrap().into_inner().collect().await;
            let listed: usize = pages.into_iter().map(|page| page.unwrap().info.len()).sum();
            assert_eq!(listed, want);
        }
        let deleted = service
            .delete(Request::new(wire::DeleteContentRequest { digest: second }))
            .await;
        assert_eq!(deleted.unwrap_err().code(), Code::FailedPrecondition);
        let aborted = service.abort(Request::new(wire::AbortRequest::default())).await;
        assert_eq!(aborted.unwrap_err().code(), Code::FailedPrecondition);
    }
}
