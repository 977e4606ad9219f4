//! Exporters of the embedded worker.

mod annotations;
mod attrs;
mod blobs;
mod directory;
mod files;
mod image;
mod names;
mod parts;
mod pipe;
mod statements;
mod store;
mod tarball;

use cairn_solver::Platform;
use cairn_solver::worker::WorkerError;

use super::EmbeddedWorker;
use crate::service::{ExportInput, Exporter, ExporterRequest};

pub(super) use attrs::{not_a_compression, not_a_flag, not_a_number};
pub(super) use blobs::{BlobOptions, LayerBlobs};

/// The platforms of what is exported, and their ids.
pub(crate) fn platforms(input: &ExportInput) -> Result<Vec<(String, Platform)>, WorkerError> {
    let parts = parts::parts(input, &input.metadata)?.into_iter();
    Ok(parts.map(|part| (part.id, part.platform)).collect())
}

/// Sets up the exporter that a request names.
pub(super) fn exporter(worker: &EmbeddedWorker, request: &ExporterRequest) -> Result<Box<dyn Exporter>, WorkerError> {
    let target = Target {
        worker: worker.clone(),
        index: u32::try_from(request.index).map_err(|_| WorkerError::Invalid("too many exporters".to_owned()))?,
        session: request.session.clone(),
    };
    let attrs = attrs::Attrs::new(&request.kind, &request.attrs);
    match request.kind.as_str() {
        "image" | "oci" | "docker" => Ok(Box::new(image::ImageExporter::new(target, &request.kind, &attrs)?)),
        "local" => Ok(Box::new(directory::DirectoryExporter::new(target, &attrs)?)),
        "tar" => Ok(Box::new(tarball::TarExporter::new(target, &attrs)?)),
        other => Err(WorkerError::Invalid(format!("exporter {other:?} could not be found"))),
    }
}

/// What is fuzzed here: settings of all exporters, one in each line.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let pairs = text.lines().take(32).filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    for kind in ["image", "oci", "docker"] {
        drop(image::Settings::new(kind, &attrs::Attrs::new(kind, &pairs)));
    }
    let attrs = attrs::Attrs::new("local", &pairs);
    drop(files::FileSettings::new(&attrs));
}

/// Where an exporter's output goes.
#[derive(Clone)]
struct Target {
    worker: EmbeddedWorker,
    /// Which of the build's outputs it is.
    index: u32,
    session: String,
}

impl Target {
    /// The client's session.
    async fn session(&self) -> Result<cairn_session::Session, WorkerError> {
        let found = self
            .worker
            .0
            .sessions
            .get(&self.session, cairn_session::LOOKUP_TIMEOUT)
            .await;
        found.map_err(|error| super::failed(&error))
    }
}
