//! Results as files in a client's directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_session::filesend::{self, ExportTarget};
use cairn_solver::worker::{CallContext, Ref, WorkerError};

use super::super::{blocking, failed};
use super::Target;
use super::attrs::Attrs;
use crate::service::{ExportInput, ExportRefs, Exporter};
use crate::tree::ViewSender;

/// `type=local`.
pub(super) struct DirectoryExporter {
    target: Target,
    /// Whether results of platforms go to directories of their own; `None` decides by their number.
    split: Option<bool>,
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
        // Files keep their times; a date for files that are made here has nothing to act on.
        attrs.epoch()?;
        Ok(Self {
            target,
            split: attrs
                .get("platform-split")
                .map(|_| attrs.flag("platform-split", true))
                .transpose()?,
            is_mirror,
        })
    }

    async fn send(
        &self,
        parts: Vec<(String, Option<Ref>)>,
        status: &str,
        context: &CallContext,
    ) -> Result<(), WorkerError> {
        let worker = self.target.worker.clone();
        let sender = blocking(move || {
            let mut sender = ViewSender::default();
            for (dir, result) in parts {
                sender = sender.with_view(&dir, worker.view(result.as_ref())?);
            }
            Ok(sender)
        })
        .await?;
        let session = self.target.session().await?;
        let target = ExportTarget {
            exporter: self.target.index,
            is_multi_platform: self.is_mirror,
            metadata: BTreeMap::new(),
        };
        let status = Arc::new(context.progress.begin(status));
        let reported = status.clone();
        let progress = Arc::new(move |bytes| reported.update(bytes, 0));
        let sent = filesend::send_tree(&session, &target, Arc::new(sender), progress).await;
        sent.map_err(|error| failed(&error))?;
        Ok(())
    }
}

/// The name of a platform's directory.
fn platform_dir(platform: &str) -> String {
    platform.replace('/', "_")
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
        match &input.refs {
            ExportRefs::Single(result) => {
                let parts = vec![(String::new(), result.clone())];
                self.send(parts, "copying files", context).await?;
            }
            ExportRefs::Platforms(results) if self.split == Some(false) && results.len() > 1 => {
                return Err(WorkerError::Unsupported(
                    "exporting several platforms without platform-split is not supported by this worker".to_owned(),
                ));
            }
            ExportRefs::Platforms(results) => {
                let is_split = self.split.unwrap_or(true);
                let parts = results.iter().map(|(platform, result)| {
                    let dir = if is_split {
                        platform_dir(platform)
                    } else {
                        String::new()
                    };
                    (dir, result.clone())
                });
                if self.is_mirror {
                    // One stream: a second would remove what the first brought.
                    self.send(parts.collect(), "copying files", context).await?;
                } else {
                    for ((dir, result), platform) in parts.zip(results.keys()) {
                        let status = format!("copying files {platform}");
                        self.send(vec![(dir, result)], &status, context).await?;
                    }
                }
            }
        }
        Ok(BTreeMap::new())
    }
}
