//! Results as files in a client's directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_session::filesend::{self, ExportTarget};
use cairn_session::fsutil::Tree;
use cairn_solver::worker::{CallContext, WorkerError};

use super::super::failed;
use super::Target;
use super::attrs::Attrs;
use super::files::{FileSettings, Files, Merged};
use crate::service::{ExportInput, ExportRefs, Exporter};

/// `type=local`.
pub(super) struct DirectoryExporter {
    target: Target,
    settings: FileSettings,
    /// Whether the client removes what is not in the result.
    is_mirror: bool,
}

impl DirectoryExporter {
    pub(super) fn new(target: Target, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        let is_mirror = match attrs.get("mode") {
            None | Some("" | "copy") => false,
            Some("delete") => true,
            Some(_) => return Err(attrs.invalid("mode", "expected copy or delete")),
        };
        Ok(Self {
            target,
            settings: FileSettings::new(attrs)?,
            is_mirror,
        })
    }

    async fn send(&self, tree: Arc<dyn Tree>, status: &str, context: &CallContext) -> Result<(), WorkerError> {
        let session = self.target.session().await?;
        let target = ExportTarget {
            exporter: self.target.index,
            is_multi_platform: self.is_mirror,
            metadata: BTreeMap::new(),
        };
        let status = Arc::new(context.progress.begin_action(status, "transferring"));
        let reported = status.clone();
        let progress = Arc::new(move |bytes| reported.update(bytes, 0));
        let sent = filesend::send_tree(&session, &target, tree, progress).await;
        sent.map_err(|error| failed(&error))?;
        Ok(())
    }
}

#[async_trait]
impl Exporter for DirectoryExporter {
    fn title(&self) -> &'static str {
        "exporting to client directory"
    }

    async fn export(
        &self,
        input: &ExportInput,
        context: &CallContext,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        let is_list = matches!(input.refs, ExportRefs::Platforms(_));
        let files = self.settings.files(&self.target.worker, input).await?;
        if self.is_mirror {
            // One stream: a second would remove what the first brought.
            let tree = Merged(files.iter().map(Files::to_tree).collect());
            self.send(Arc::new(tree), "copying files", context).await?;
            return Ok(BTreeMap::new());
        }
        for part in files {
            let status = match is_list {
                true => format!("copying files {}", part.id),
                false => "copying files".to_owned(),
            };
            self.send(Arc::new(part.to_tree()), &status, context).await?;
        }
        Ok(BTreeMap::new())
    }
}
