//! Single blobs of registries and of clients' OCI layouts as sources: each is a file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;

use cairn_solver::Digest;
use cairn_solver::llb::BlobSource;
use cairn_solver::worker::{CallContext, LayoutStore, Ref, ResolvedSource, WorkerError};
use rustix::fs::OFlags;

use super::image::{layout_error, parse_reference, registry_error};
use super::layout::Layout;
use super::{EmbeddedWorker, blocking, failed};
use crate::image::Descriptor;
use crate::layer::{Describe, WritableLayer};
use crate::sys::{Time, at};

/// Permission bits of files when none are asked for.
const DEFAULT_MODE: u32 = 0o600;

impl EmbeddedWorker {
    /// What a blob is, is in its name: nobody is asked.
    pub(super) fn resolve_blob(source: &BlobSource) -> Result<ResolvedSource, WorkerError> {
        let digest = digest(source)?;
        let (mode, name) = (source.mode.unwrap_or(DEFAULT_MODE), file_name(source, digest));
        Ok(ResolvedSource {
            pin: format!("blob {digest} {mode:o} {}:{} {name:?}", source.uid, source.gid),
            parts: BTreeMap::from([("digest".to_owned(), digest.to_string())]),
            result: None,
        })
    }

    /// Gets a blob, and makes a file of it.
    pub(super) async fn make_blob(
        &self,
        source: &BlobSource,
        context: &CallContext,
    ) -> Result<Option<Ref>, WorkerError> {
        let digest = self.fetch_named_blob(source, context).await?;
        let (worker, source) = (self.clone(), source.clone());
        blocking(move || worker.blob_layer(&source, digest)).await
    }

    /// Gets a blob, to be found among the contents by its digest.
    pub(super) async fn fetch_named_blob(
        &self,
        source: &BlobSource,
        context: &CallContext,
    ) -> Result<Digest, WorkerError> {
        let digest = digest(source)?;
        let status = context.progress.begin(digest.to_string());
        match &source.layout {
            None => {
                let reference = parse_reference(&source.reference)?;
                let registry = self.registry(context);
                let fetched = async {
                    let size = registry.blob_size(&reference, &digest).await?;
                    let blob = Descriptor::new(String::new(), digest, size);
                    registry.fetch_blob(&reference, &blob, &self.0.content, None).await
                };
                fetched.await.map_err(|error| registry_error(&error))?;
            }
            Some(layout) => {
                let store = LayoutStore {
                    session: layout.session.clone(),
                    store: layout.store.clone(),
                };
                let layout = Layout::new(&self.0.sessions, &store, &self.0.content, context);
                let fetched = async {
                    let size = layout.size(digest).await?;
                    let blob = Descriptor::new(String::new(), digest, size);
                    layout.fetch_blob(&blob, None).await
                };
                fetched.await.map_err(|error| layout_error(&error))?;
            }
        }
        drop(status);
        Ok(digest)
    }

    /// Puts a stored blob into a layer of its own.
    fn blob_layer(&self, source: &BlobSource, digest: Digest) -> Result<Option<Ref>, WorkerError> {
        let layers = &self.0.layers;
        let layer = layers.prepare(&layers.scratch()).map_err(|error| failed(&error))?;
        let mut stored = self.0.content.reader(&digest).map_err(|error| failed(&error))?;
        let name = file_name(source, digest);
        write(&layer, &name, source, &mut stored)
            .map_err(|error| WorkerError::Failed(format!("failed to write {name}: {error}")))?;
        let describe = Describe {
            description: format!("blob {}", source.reference),
            record_type: if source.record_type.is_empty() {
                "regular".to_owned()
            } else {
                source.record_type.clone()
            },
        };
        let list = layer.commit(&describe).map_err(|error| failed(&error))?;
        self.record(&list)
    }
}

fn write(layer: &WritableLayer, name: &str, source: &BlobSource, stored: &mut File) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = File::from(at::open(layer.upper(), OsStr::new(name), flags, 0o600)?);
    io::copy(stored, &mut file)?;
    // In this order: a change of owner clears bits of the mode.
    at::chown_fd(&file, source.uid, source.gid)?;
    at::chmod_fd(&file, source.mode.unwrap_or(DEFAULT_MODE))?;
    // A blob has no time.
    let epoch = Some(Time { secs: 0, nanos: 0 });
    at::set_times_fd(&file, epoch, epoch)
}

fn file_name(source: &BlobSource, digest: Digest) -> String {
    if source.filename.is_empty() {
        let text = digest.to_string();
        text.split_once(':').map_or(text.clone(), |(_, hex)| hex.to_owned())
    } else {
        source.filename.clone()
    }
}

/// The digest in the reference: decoding has seen that there is one.
pub(super) fn digest(source: &BlobSource) -> Result<Digest, WorkerError> {
    let digest = source
        .reference
        .rsplit_once('@')
        .map(|(_, digest)| Digest::parse(digest));
    match digest {
        Some(Ok(digest)) => Ok(digest),
        _ => Err(WorkerError::Invalid(format!(
            "invalid reference digest in {:?}",
            source.reference
        ))),
    }
}
