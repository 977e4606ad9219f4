//! Results whose layers were never brought here: they were taken over from imported caches.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::worker::{CallContext, Ref, WorkerError};

use super::image::{parse_reference, unpack};
use super::layout::Layout;
use super::results::Content;
use super::{EmbeddedWorker, failed};
use crate::image::Descriptor;
use crate::layer::{Blob, BlobOrigin, LayerId, Unpacked, Unpacker};
use crate::registry::Progress;
use crate::sys::Root;

impl EmbeddedWorker {
    /// Brings the layers of a result here that are not.
    pub(super) async fn fetch_result(&self, result: &Ref, context: &CallContext) -> Result<(), WorkerError> {
        let list = match self.content(result.id())? {
            Some(Content::Layers(list)) => list,
            Some(Content::Tree(_)) => return Ok(()),
            None => {
                return Err(WorkerError::NotFound(format!(
                    "result {} is not there any more",
                    result.id()
                )));
            }
        };
        let records = self.0.layers.records(&list).map_err(|error| failed(&error))?;
        let origins = list.ids().iter().zip(records);
        let origins = origins.filter_map(|(_, record)| Some((LayerId::of_diff(&record.blob?.diff_id), record.origin?)));
        let unpacker: Arc<dyn Unpacker> = Arc::new(RemoteUnpacker {
            worker: self.clone(),
            origins: origins.collect(),
            context: context.clone(),
        });
        tokio::select! {
            fetched = self.0.layers.ensure_unpacked(&list, &unpacker) => fetched.map_err(|error| failed(&error)),
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        }
    }

    /// Gets a blob into the content store from where it was last known to be.
    pub(super) async fn fetch_blob(
        &self,
        blob: &Descriptor,
        origin: Option<&BlobOrigin>,
        context: &CallContext,
        progress: Option<Progress>,
    ) -> Result<(), WorkerError> {
        let content = &self.0.content;
        match origin {
            Some(BlobOrigin::Registry { reference, insecure }) => {
                let reference = parse_reference(reference)?;
                let mut registry = self.registry(context);
                if *insecure {
                    registry = registry.insecure();
                }
                let fetched = registry.fetch_blob(&reference, blob, content, progress).await;
                fetched.map_err(|error| failed(&error))
            }
            Some(BlobOrigin::Client { store }) => {
                let layout = Layout::of_store(&self.0.sessions, store.clone(), content, context);
                let fetched = layout.fetch_blob(blob, progress).await;
                fetched.map_err(|error| failed(&error))
            }
            None => {
                let (stored, digest) = (content.clone(), blob.digest);
                let found = super::blocking(move || stored.contains(&digest).map_err(|error| failed(&error))).await?;
                if found {
                    return Ok(());
                }
                Err(WorkerError::NotFound(format!(
                    "it is not known where blob {} is",
                    blob.digest
                )))
            }
        }
    }
}

/// Brings layers from where each of them is.
struct RemoteUnpacker {
    worker: EmbeddedWorker,
    origins: HashMap<LayerId, BlobOrigin>,
    context: CallContext,
}

#[async_trait]
impl Unpacker for RemoteUnpacker {
    async fn unpack(
        &self,
        blob: &Blob,
        dir: Root,
        lowers: Option<Vec<Root>>,
    ) -> Result<Unpacked, Box<dyn std::error::Error + Send + Sync>> {
        let progress = &self.context.progress;
        let status = Arc::new(progress.begin(blob.digest.to_string()));
        let reported = status.clone();
        let report: Progress = Arc::new(move |done, total| reported.update(done, total));
        let descriptor = Descriptor::new(blob.media_type.clone(), blob.digest, blob.size);
        let origin = self.origins.get(&LayerId::of_diff(&blob.diff_id));
        let fetched = self.worker.fetch_blob(&descriptor, origin, &self.context, Some(report));
        fetched.await?;
        drop(status);
        let _status = progress.begin_action(format!("extracting {}", blob.digest), "extracting");
        let (content, digest, diff_id) = (self.worker.0.content.clone(), blob.digest, blob.diff_id);
        tokio::task::spawn_blocking(move || unpack(&content, digest, diff_id, &dir, lowers.as_deref())).await?
    }
}
