//! The client's half of writing a blob.

use std::io;
use std::path::Path;

use cairn_proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use futures_util::{Stream, StreamExt as _};
use ring::digest::{Context, SHA256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::layout::LayoutDir;

/// A blob that is arriving; what has arrived is removed when this is dropped.
struct Arriving {
    file: File,
    /// Removed with this, unless it got its place.
    path: tempfile::TempPath,
    hasher: Context,
    offset: i64,
}

impl Arriving {
    fn new(dir: &Path) -> io::Result<Self> {
        let (file, path) = tempfile::NamedTempFile::new_in(dir)?.into_parts();
        Ok(Self {
            file: File::from_std(file),
            path,
            hasher: Context::new(&SHA256),
            offset: 0,
        })
    }
}

/// Answers every message of one Write call.
pub(crate) async fn answer_writes(
    store: LayoutDir,
    mut messages: impl Stream<Item = Result<WriteContentRequest, Status>> + Unpin,
    answers: mpsc::Sender<WriteContentResponse>,
) -> Result<(), Status> {
    let mut arriving: Option<Arriving> = None;
    while let Some(message) = messages.next().await {
        let message = message?;
        let target = store
            .blob(&message.expected)
            .filter(|_| message.expected.starts_with("sha256:"));
        let target = target.ok_or_else(|| Status::invalid_argument(format!("cannot write {:?}", message.expected)))?;
        if arriving.is_none() {
            if tokio::fs::try_exists(&target).await.unwrap_or(false) {
                return Err(Status::already_exists(format!("content {}", message.expected)));
            }
            let dir = target.parent().unwrap_or(&store.0);
            let begun = async {
                tokio::fs::create_dir_all(dir).await?;
                Arriving::new(dir)
            };
            arriving = Some(begun.await.map_err(|error| failed(&target, &error))?);
        }
        let Some(blob) = &mut arriving else { continue };
        let action = WriteAction::try_from(message.action).map_err(|_| Status::invalid_argument("unknown action"))?;
        if action != WriteAction::Stat && message.offset != blob.offset && !message.data.is_empty() {
            return Err(Status::out_of_range(format!(
                "offset {}, not {}",
                message.offset, blob.offset
            )));
        }
        if action != WriteAction::Stat && !message.data.is_empty() {
            blob.hasher.update(&message.data);
            let written = blob.file.write_all(&message.data).await;
            written.map_err(|error| failed(&target, &error))?;
            blob.offset += i64::try_from(message.data.len()).unwrap_or(i64::MAX);
        }
        let mut answer = WriteContentResponse {
            action: message.action,
            offset: blob.offset,
            total: message.total,
            ..WriteContentResponse::default()
        };
        if action == WriteAction::Commit
            && let Some(blob) = arriving.take()
        {
            answer.digest = commit(blob, &message, &target).await?;
        }
        if answers.send(answer).await.is_err() || action == WriteAction::Commit {
            break;
        }
    }
    Ok(())
}

/// Verifies a blob and gives it its place.
async fn commit(mut blob: Arriving, message: &WriteContentRequest, target: &Path) -> Result<String, Status> {
    let hash = blob.hasher.finish();
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let actual = format!("sha256:{hex}");
    if actual != message.expected {
        return Err(Status::failed_precondition(format!(
            "unexpected commit digest {actual}, expected {}",
            message.expected
        )));
    }
    if message.total > 0 && message.total != blob.offset {
        return Err(Status::failed_precondition(format!(
            "unexpected commit size {}, expected {}",
            blob.offset, message.total
        )));
    }
    let done = async {
        blob.file.flush().await?;
        blob.file.sync_all().await?;
        blob.path.persist(target).map_err(|error| error.error)
    };
    done.await.map_err(|error| failed(target, &error))?;
    Ok(actual)
}

fn failed(path: &Path, error: &io::Error) -> Status {
    Status::unknown(format!("failed to write {}: {error}", path.display()))
}
