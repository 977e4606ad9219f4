//! Images of results whose layers are elsewhere: what a registry has of them need not come here.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_solver::Digest;
use cairn_solver::worker::{CallContext, WorkerError};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::super::super::{EmbeddedWorker, blocking, failed};
use super::ImageExporter;
use crate::image::{BlobError, BlobSource, Descriptor};
use crate::layer::{Blob, BlobOrigin, LayerList};
use crate::registry::{Progress, Reference, Registry};
use crate::service::ExportInput;

/// Layers that are looked for, or fetched, at the same time.
const PARALLEL: usize = 4;

/// The blob of a layer that was never brought here.
struct Elsewhere {
    blob: Blob,
    origin: BlobOrigin,
}

impl Elsewhere {
    /// The blobs of layers of `lists`, by digest. Blocks.
    fn of(worker: &EmbeddedWorker, lists: &[LayerList]) -> Result<HashMap<Digest, Self>, WorkerError> {
        let mut elsewhere = HashMap::new();
        for list in lists {
            for record in worker.0.layers.records(list).map_err(|error| failed(&error))? {
                if record.is_remote()
                    && let (Some(blob), Some(origin)) = (record.blob, record.origin)
                {
                    elsewhere.insert(blob.digest, Self { blob, origin });
                }
            }
        }
        Ok(elsewhere)
    }
}

impl ImageExporter {
    /// Gets what is needed of layers that are elsewhere: nothing of what every registry has that the image goes to, the
    /// blobs of others. `false` if one cannot be had.
    pub(super) async fn gather_layers(&self, input: &ExportInput, context: &CallContext) -> Result<bool, WorkerError> {
        let metadata = self.metadata(input);
        let results: Vec<_> = input.refs.iter().cloned().collect();
        let worker = self.target.worker.clone();
        let elsewhere = blocking(move || {
            let lists = results.iter().map(|result| worker.layers_of(Some(result)));
            let lists: Vec<LayerList> = lists.collect::<Result<_, _>>()?;
            let mut elsewhere = Elsewhere::of(&worker, &lists)?;
            for digest in elsewhere.keys().copied().collect::<Vec<_>>() {
                if worker.0.content.contains(&digest).map_err(|error| failed(&error))? {
                    elsewhere.remove(&digest);
                }
            }
            Ok(elsewhere)
        })
        .await?;
        let targets: Vec<Reference> = if self.settings.may_be_incomplete() {
            let names = self.settings.names.given(&metadata)?;
            names.into_iter().map(|name| name.reference).collect()
        } else {
            Vec::new()
        };
        let registry = self.registry(context);
        let layers = elsewhere.values();
        let layers: Vec<_> = layers
            .map(|layer| self.gather_layer(layer, &targets, &registry, context))
            .collect();
        let mut gathering = futures_util::stream::iter(layers).buffer_unordered(PARALLEL);
        loop {
            match gathering.try_next().await {
                Ok(Some(())) => {}
                Ok(None) => return Ok(true),
                Err(WorkerError::Cancelled) => return Err(WorkerError::Cancelled),
                Err(error) => {
                    tracing::warn!(%error, "a layer of an image cannot be had from where it is");
                    return Ok(false);
                }
            }
        }
    }

    async fn gather_layer(
        &self,
        layer: &Elsewhere,
        targets: &[Reference],
        registry: &Registry,
        context: &CallContext,
    ) -> Result<(), WorkerError> {
        let worker = &self.target.worker;
        let (blob, origin) = (&layer.blob, &layer.origin);
        let stays_as_it_is = !self.settings.rewrites_times && self.settings.blobs.fits(blob);
        let mut is_needed = targets.is_empty() || !stays_as_it_is;
        for target in targets {
            if is_needed {
                break;
            }
            let known: Vec<String> = origin.repository_of(target.registry()).into_iter().collect();
            match registry
                .find_blob(target, &blob.digest, &worker.0.content, &known)
                .await
            {
                Ok(found) => is_needed = found.is_none(),
                // The push tells of it: nothing is fetched for one that will fail.
                Err(error) => tracing::debug!(%error, "a registry does not say what it has"),
            }
        }
        if !is_needed {
            return Ok(());
        }
        let status = context.progress.begin(blob.digest.to_string());
        let progress: Progress = Arc::new(move |done, total| status.update(done, total));
        let descriptor = Descriptor::new(blob.media_type.clone(), blob.digest, blob.size);
        worker
            .fetch_blob(&descriptor, Some(origin), context, Some(progress))
            .await
    }
}

/// The blobs of an image: in the content store, or still where its layers are.
pub(super) struct ResultBlobs<'a> {
    worker: &'a EmbeddedWorker,
    elsewhere: HashMap<Digest, Elsewhere>,
    context: &'a CallContext,
}

impl<'a> ResultBlobs<'a> {
    /// Those of an image of the layers `lists`.
    pub(super) async fn of(
        worker: &'a EmbeddedWorker,
        lists: &[LayerList],
        context: &'a CallContext,
    ) -> Result<Self, WorkerError> {
        let (looking, lists) = (worker.clone(), lists.to_vec());
        Ok(Self {
            worker,
            elsewhere: blocking(move || Elsewhere::of(&looking, &lists)).await?,
            context,
        })
    }
}

#[async_trait]
impl BlobSource for ResultBlobs<'_> {
    fn mountable_from(&self, registry: &str, blob: &Digest) -> Vec<String> {
        let elsewhere = self.elsewhere.get(blob);
        let known = elsewhere.and_then(|elsewhere| elsewhere.origin.repository_of(registry));
        known.into_iter().collect()
    }

    async fn provide(&self, blob: &Descriptor) -> Result<(), BlobError> {
        // Fetched before, unless the registry had it then and does not any more.
        if let Some(elsewhere) = self.elsewhere.get(&blob.digest) {
            let origin = Some(&elsewhere.origin);
            self.worker.fetch_blob(blob, origin, self.context, None).await?;
        }
        Ok(())
    }
}
