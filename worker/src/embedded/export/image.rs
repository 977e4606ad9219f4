//! Results as images: in the local store, in registries, in tar files, in clients' content stores.

mod assemble;
mod bom;
mod gather;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use cairn_session::filesend::ExportTarget;
use cairn_solver::progress::{VertexProgress, Warning};
use cairn_solver::worker::{CallContext, WorkerError};
use jiff::{Timestamp, Unit};

use super::super::{EmbeddedWorker, blocking, failed};
use super::attrs::Attrs;
use super::names::Name;
use super::{Target, pipe, store};
use crate::image::{self, Document, LayoutKind, PushEvent, PushOptions};
use crate::registry::{Reference, Registry};
use crate::service::{ExportInput, ExportRefs, Exporter};
use assemble::Made;
use gather::ResultBlobs;
use settings::Destination;
pub(super) use settings::Settings;

/// Annotation of what leads to an image in a layout: when that was written.
const CREATED: &str = "org.opencontainers.image.created";

/// `type=image`, `type=oci` and `type=docker`.
pub(super) struct ImageExporter {
    target: Target,
    settings: Settings,
}

impl ImageExporter {
    pub(super) fn new(target: Target, kind: &str, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let settings = Settings::new(kind, attrs)?;
        Ok(Self { target, settings })
    }

    /// Registries as this export may use them.
    fn registry(&self, context: &CallContext) -> Registry {
        let registry = self.target.worker.registry(context);
        if self.settings.store.is_insecure {
            registry.insecure()
        } else {
            registry
        }
    }

    /// What the frontend says of the results, and what the client adds to it.
    fn metadata(&self, input: &ExportInput) -> BTreeMap<String, Bytes> {
        let mut metadata = input.metadata.clone();
        metadata.extend(self.settings.metadata.clone());
        metadata
    }

    async fn push(&self, made: &Made, name: &Name, context: &CallContext) -> Result<(), WorkerError> {
        let (worker, root, by_digest) = (&self.target.worker, &made.root, self.settings.store.by_digest);
        let Name { text, reference } = name;
        if by_digest {
            name.expect_plain()?;
        }
        let registry = self.registry(context);
        let blobs = ResultBlobs::of(worker, &made.layers, context).await?;
        let status = context.progress.begin("pushing layers");
        let statuses = parking_lot::Mutex::new((Some(status), None));
        let progress = context.progress.clone();
        let title = if by_digest {
            format!("pushing manifest for {}", reference.name())
        } else {
            format!("pushing manifest for {reference}@{}", root.digest())
        };
        let report = move |event: PushEvent| {
            if matches!(event, PushEvent::Manifests) {
                *statuses.lock() = (None, Some(progress.begin(title.as_str())));
            }
        };
        let options = PushOptions {
            by_digest,
            called: text.clone(),
            progress: Some(Arc::new(report)),
        };
        let content = &worker.0.content;
        let pushed = image::push_image(&registry, reference, root, content, &blobs, &options).await;
        pushed.map_err(|error| failed(&error))
    }

    async fn send(
        &self,
        kind: LayoutKind,
        root: &Document,
        names: Vec<Reference>,
        created: Timestamp,
        response: &BTreeMap<String, String>,
        progress: &VertexProgress,
    ) -> Result<(), WorkerError> {
        let session = self.target.session().await?;
        let target = ExportTarget {
            exporter: self.target.index,
            is_multi_platform: false,
            metadata: response.clone(),
        };
        let _status = progress.begin("sending tarball");
        let (root, content) = (root.clone(), self.target.worker.0.content.clone());
        pipe::send(&session, &target, move |writer| {
            let written = image::write_layout(kind, &root, &names, Some(created), &content, writer);
            written.map(drop).map_err(|error| failed(&error))
        })
        .await
    }

    /// Stores and pushes the image under its names, and returns the names that it has then.
    async fn publish(&self, made: &Made, mut names: Vec<Name>, context: &CallContext) -> Result<String, WorkerError> {
        let (settings, root) = (&self.settings, &made.root);
        let pushed = names.clone();
        names.extend(settings.names.dangling(&names, root.digest())?);
        if settings.store.is_stored {
            for name in &names {
                let _status = context.progress.begin(format!("naming to {}", name.reference));
                for reference in settings.names.stored(name, root.digest())? {
                    name_image(&self.target.worker, reference, root).await?;
                }
            }
        }
        if settings.store.is_unpacked {
            let _status = context.progress.begin("unpacking");
            self.target.worker.expect_unpacked(&made.layers).await?;
        }
        if settings.store.is_pushed {
            for name in &pushed {
                self.push(made, name, context).await?;
            }
        }
        let texts: Vec<&str> = names.iter().map(|name| name.text.as_str()).collect();
        Ok(texts.join(","))
    }
}

#[async_trait]
impl Exporter for ImageExporter {
    fn title(&self) -> &'static str {
        match self.settings.destination.layout() {
            None => "exporting to image",
            Some(LayoutKind::Oci) => "exporting to oci image format",
            Some(LayoutKind::Docker) => "exporting to docker image format",
        }
    }

    fn needs_all_files(&self) -> bool {
        self.settings.destination == Destination::Store && self.settings.store.is_unpacked
    }

    async fn gather(&self, input: &ExportInput, context: &CallContext) -> Result<bool, WorkerError> {
        tokio::select! {
            gathered = self.gather_layers(input, context) => gathered,
            () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        }
    }

    async fn export(
        &self,
        input: &ExportInput,
        context: &CallContext,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        let layout = self.settings.destination.layout();
        if matches!(input.refs, ExportRefs::Platforms(_)) && layout == Some(LayoutKind::Docker) {
            return Err(WorkerError::Invalid(
                "docker exporter does not currently support exporting manifest lists".to_owned(),
            ));
        }
        let progress = &context.progress;
        for note in &self.settings.notes {
            warn(progress, note);
        }
        let metadata = self.metadata(input);
        let names = self.settings.names.given(&metadata)?;
        let references: Vec<Reference> = names.iter().map(|name| name.reference.clone()).collect();
        let mut made = self.make(input, &metadata, &references, progress).await?;
        let created = made.epoch.unwrap_or_else(Timestamp::now);
        // Whole seconds, as other builders write it.
        let created = created.round(Unit::Second).map_err(|error| failed(&error))?;
        if layout.is_some() {
            let annotations = &mut made.root.descriptor.annotations;
            annotations
                .entry(CREATED.to_owned())
                .or_insert_with(|| created.to_string());
        }
        let mut response = facts(&made)?;
        if layout.is_some() && !references.is_empty() {
            let names: Vec<String> = references.iter().map(ToString::to_string).collect();
            response.insert("image.name".to_owned(), names.join(","));
        }
        match self.settings.destination {
            Destination::File(kind) => {
                self.send(kind, &made.root, references, created, &response, progress)
                    .await?;
            }
            Destination::Blobs(_) => {
                let session = self.target.session().await?;
                store::send_image(&session, &made.root, &self.target.worker.0.content, progress).await?;
            }
            Destination::Store => {
                let names = self.publish(&made, names, context).await?;
                if !names.is_empty() {
                    response.insert("image.name".to_owned(), names);
                }
            }
        }
        Ok(response)
    }
}

/// What clients are told of an image.
fn facts(made: &Made) -> Result<BTreeMap<String, String>, WorkerError> {
    let descriptor = serde_json::to_vec(&made.root.descriptor).map_err(|error| failed(&error))?;
    let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor);
    let mut facts = BTreeMap::from([
        ("containerimage.digest".to_owned(), made.root.digest().to_string()),
        ("containerimage.descriptor".to_owned(), descriptor),
    ]);
    if let Some(config) = &made.config {
        facts.insert("containerimage.config.digest".to_owned(), config.digest.to_string());
    }
    Ok(facts)
}

/// Tells the user of something that is not as asked for.
fn warn(progress: &VertexProgress, text: &str) {
    progress.warn(Warning {
        level: 1,
        short: text.to_owned().into(),
        detail: Vec::new(),
        url: String::new(),
        file: None,
        ranges: Vec::new(),
    });
}

async fn name_image(worker: &EmbeddedWorker, name: Reference, root: &Document) -> Result<(), WorkerError> {
    let (worker, descriptor) = (worker.clone(), root.descriptor.clone());
    blocking(move || {
        let named = worker.0.images.put(&name, descriptor);
        named.map_err(|error| failed(&error))
    })
    .await
}
