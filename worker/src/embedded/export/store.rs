//! Images into a client's content store.

use cairn_session::Session;
use cairn_session::content::{EXPORT_STORE, RemoteContent};
use cairn_solver::progress::VertexProgress;
use cairn_solver::worker::WorkerError;
use futures_util::TryStreamExt as _;
use tokio::io::AsyncReadExt as _;

use super::super::{blocking, failed};
use crate::content::ContentStore;
use crate::image::{Descriptor, Document, ImageTree};

/// Blobs under way at the same time.
const PARALLEL: usize = 4;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Sends everything that the image `root` consists of; what refers to something goes after it.
pub(super) async fn send_image(
    session: &Session,
    root: &Document,
    content: &ContentStore,
    progress: &VertexProgress,
) -> Result<(), WorkerError> {
    let (tree_root, tree_content) = (root.clone(), content.clone());
    let tree = blocking(move || ImageTree::of(&tree_root, &tree_content).map_err(|error| failed(&error))).await?;
    let remote = RemoteContent::new(session, EXPORT_STORE);
    let status = progress.begin("sending blobs");
    let blobs = futures_util::stream::iter(tree.blobs.iter().map(Ok));
    let sent = blobs.try_for_each_concurrent(PARALLEL, async |blob| send_blob(&remote, blob, content).await);
    sent.await?;
    for document in &tree.documents {
        send_blob(&remote, &document.descriptor, content).await?;
    }
    drop(status);
    Ok(())
}

async fn send_blob(remote: &RemoteContent, blob: &Descriptor, content: &ContentStore) -> Result<(), WorkerError> {
    let name = blob.digest.to_string();
    let failed_to_send = |error: &(dyn std::error::Error + 'static)| {
        let text = crate::causes::with_causes(error);
        WorkerError::Failed(format!("failed to send blob {name} to the client: {text}"))
    };
    let Some(mut writer) = remote
        .write(&name, blob.size)
        .await
        .map_err(|error| failed_to_send(&error))?
    else {
        return Ok(());
    };
    let (content, digest) = (content.clone(), blob.digest);
    let file = blocking(move || content.reader(&digest).map_err(|error| failed(&error))).await?;
    let mut file = tokio::fs::File::from_std(file);
    loop {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        let read = file
            .read_buf(&mut piece)
            .await
            .map_err(|error| failed_to_send(&error))?;
        if read == 0 {
            break;
        }
        writer
            .send(piece.freeze())
            .await
            .map_err(|error| failed_to_send(&error))?;
    }
    writer.commit().await.map_err(|error| failed_to_send(&error))
}
