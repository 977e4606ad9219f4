//! A result's files as a tar.

use std::collections::BTreeMap;
use std::io::Write as _;

use async_trait::async_trait;
use cairn_session::filesend::ExportTarget;
use cairn_solver::worker::{CallContext, WorkerError};

use super::super::failed;
use super::attrs::Attrs;
use super::{Target, pipe};
use crate::archive::{self, PackOptions};
use crate::service::{ExportInput, ExportRefs, Exporter};

/// `type=tar`.
pub(super) struct TarExporter {
    target: Target,
    options: PackOptions,
}

impl TarExporter {
    pub(super) fn new(target: Target, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        Ok(Self {
            target,
            options: PackOptions {
                max_mtime: attrs.epoch()?.map(|epoch| epoch.as_second()),
            },
        })
    }
}

#[async_trait]
impl Exporter for TarExporter {
    fn title(&self) -> &'static str {
        "exporting to client tarball"
    }

    async fn export(
        &self,
        input: &ExportInput,
        context: &CallContext,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        let result = match &input.refs {
            ExportRefs::Single(result) => result.clone(),
            ExportRefs::Platforms(results) if results.len() == 1 => results.values().next().cloned().flatten(),
            ExportRefs::Platforms(_) => {
                return Err(WorkerError::Unsupported(
                    "a tar of several platforms is not supported by this worker; use the local exporter".to_owned(),
                ));
            }
        };
        let session = self.target.session().await?;
        let target = ExportTarget {
            exporter: self.target.index,
            ..ExportTarget::default()
        };
        let _status = context.progress.begin("sending tarball");
        let (worker, options) = (self.target.worker.clone(), self.options.clone());
        pipe::send(&session, &target, move |writer| {
            let list = worker.layers_of(result.as_ref())?;
            if list.is_empty() {
                // An archive without entries is its two closing blocks.
                return writer.write_all(&[0; 1024]).map_err(|error| failed(&error));
            }
            let mounted = worker.0.layers.mount_readonly(&list).map_err(|error| failed(&error))?;
            archive::pack(mounted.root(), &options, writer).map_err(|error| failed(&error))?;
            Ok(())
        })
        .await?;
        Ok(BTreeMap::new())
    }
}
