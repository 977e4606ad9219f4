//! A result's files as a tar.

use std::collections::BTreeMap;
use std::io::{self, Write};

use async_trait::async_trait;
use cairn_session::filesend::ExportTarget;
use cairn_solver::worker::{CallContext, WorkerError};
use jiff::Timestamp;

use super::super::{EmbeddedWorker, failed};
use super::attrs::Attrs;
use super::files::{FileSettings, Files};
use super::{Target, pipe};
use crate::archive::{self, Entry, EntryKind, Mtime, PackOptions, TarWriter, Times};
use crate::service::{ExportInput, Exporter};

/// `type=tar`.
pub(super) struct TarExporter {
    target: Target,
    settings: FileSettings,
}

impl TarExporter {
    pub(super) fn new(target: Target, attrs: &Attrs<'_>) -> Result<Self, WorkerError> {
        Ok(Self {
            target,
            settings: FileSettings::new(attrs)?,
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
        let files = self.settings.files(&self.target.worker, input).await?;
        let session = self.target.session().await?;
        let target = ExportTarget {
            exporter: self.target.index,
            ..ExportTarget::default()
        };
        let _status = context.progress.begin("sending tarball");
        let worker = self.target.worker.clone();
        pipe::send(&session, &target, move |writer| {
            let mut tar = TarWriter::new(writer);
            for part in &files {
                write(&worker, part, &mut tar)?;
            }
            tar.finish().map(drop).map_err(|error| failed(&error))
        })
        .await?;
        Ok(BTreeMap::new())
    }
}

/// Writes the files of one platform.
fn write(worker: &EmbeddedWorker, files: &Files, tar: &mut TarWriter<impl Write>) -> Result<(), WorkerError> {
    let made = Mtime {
        seconds: files.epoch.unwrap_or_else(Timestamp::now).as_second(),
        nanos: 0,
    };
    let prefix = match files.dir.as_str() {
        "" => String::new(),
        dir => format!("{dir}/"),
    };
    if !prefix.is_empty() {
        // No step made it. A time of its own would make every tar another one.
        let entry = Entry {
            mtime: Mtime {
                seconds: files.epoch.map_or(0, Timestamp::as_second),
                nanos: 0,
            },
            ..Entry::new(prefix.as_bytes(), EntryKind::Directory, 0o755)
        };
        tar.append(&entry, io::empty()).map_err(|error| failed(&error))?;
    }
    let list = worker.layers_of(files.result.as_ref())?;
    if !list.is_empty() {
        let mounted = worker.0.layers.mount_readonly(&list).map_err(|error| failed(&error))?;
        let options = PackOptions {
            times: files.epoch.map_or(Times::Keep, |epoch| Times::All(epoch.as_second())),
        };
        let packed = archive::pack_below(mounted.root(), prefix.as_bytes(), &options, tar);
        packed.map_err(|error| failed(&error))?;
    }
    for (name, text) in &files.statements {
        let entry = Entry {
            size: text.len() as u64,
            mtime: made,
            ..Entry::new(format!("{prefix}{name}"), EntryKind::File, 0o600)
        };
        tar.append(&entry, &text[..]).map_err(|error| failed(&error))?;
    }
    Ok(())
}
