//! Caches that a build imports and exports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_proto::control::{CacheOptions, CacheOptionsEntry};
use cairn_solver::imported::CacheRecord;
use cairn_solver::llb::Definition;
use cairn_solver::{Build, Ref, WorkerError};
use cairn_worker::service::{CacheExport, CacheExporter, CacheRequest, WorkerService};
use futures_util::future::try_join_all;

use crate::failure::Failure;

/// The kind of cache that is a part of the exported image.
const INLINE: &str = "inline";

/// The caches that a build exports.
#[derive(Default)]
pub(crate) struct CacheExports {
    exporters: Vec<OneExport>,
    /// Whether exported images carry records.
    is_inline: bool,
}

struct OneExport {
    exporter: Box<dyn CacheExporter>,
    /// Whether the build goes on when this fails.
    ignores_errors: bool,
}

impl CacheExports {
    /// Sets up what a request asks for.
    pub(crate) fn of(worker: &dyn WorkerService, options: Option<&CacheOptions>) -> Result<Self, Failure> {
        let mut exports = Self::default();
        let mut names = BTreeSet::new();
        let entries = options.map(export_entries).unwrap_or_default();
        for entry in entries {
            if entry.r#type == INLINE {
                exports.is_inline = true;
                continue;
            }
            let exporter = worker.cache_exporter(&request(&entry))?;
            if !names.insert(exporter.name().to_owned()) {
                return Err(Failure::unknown(format!("duplicate cache exports [{}]", entry.r#type)));
            }
            // As clients expect, a value that makes no sense counts for nothing.
            let ignores = entry.attrs.get("ignore-error").map(String::as_str);
            exports.exporters.push(OneExport {
                exporter,
                ignores_errors: matches!(ignores, Some("1" | "t" | "T" | "true" | "TRUE" | "True")),
            });
        }
        Ok(exports)
    }

    /// What is known about the vertices that `definitions` are made of, if anybody wants it.
    pub(crate) async fn records(
        &self,
        build: &Build,
        definitions: &[Arc<Definition>],
    ) -> Result<Arc<Vec<CacheRecord>>, Failure> {
        if self.exporters.is_empty() && !self.is_inline {
            return Ok(Arc::default());
        }
        Ok(Arc::new(build.cache_records(definitions).await?))
    }

    /// What exported images are to carry.
    pub(crate) fn inline(&self, records: &Arc<Vec<CacheRecord>>) -> Option<Arc<Vec<CacheRecord>>> {
        self.is_inline.then(|| records.clone())
    }

    /// Exports all caches at the same time and joins what there is to say; later ones win.
    pub(crate) async fn run(
        &self,
        build: &Build,
        records: Arc<Vec<CacheRecord>>,
        targets: Vec<Ref>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let cache = CacheExport { records, targets };
        let exports = self.exporters.iter().enumerate().map(async |(index, export)| {
            let key = format!("{}-cache-{index}", build.session());
            let step = build.step(&key, export.exporter.title());
            let context = step.context();
            match step.finish(export.exporter.export(&cache, &context).await) {
                // The step carries the error.
                Err(error) if export.ignores_errors && !build.cancellation().is_cancelled() => {
                    tracing::warn!(%error, "a cache was not exported");
                    Ok(BTreeMap::new())
                }
                outcome => outcome,
            }
        });
        let responses = try_join_all(exports).await?;
        Ok(responses.into_iter().flatten().collect())
    }
}

/// Begins to import caches. One that cannot be imported does not fail the build, but the user is told.
pub(crate) fn import(build: &Build, worker: &dyn WorkerService, entries: &[CacheOptionsEntry]) {
    for entry in entries {
        match worker.cache_importer(&request(entry)) {
            Ok(importer) => {
                let name = importer.name().to_owned();
                let title = format!("importing cache manifest from {name}");
                build.import(&format!("{} {name}", entry.r#type), &title, move |context| async move {
                    tokio::select! {
                        loaded = importer.load(&context) => loaded,
                        () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
                    }
                });
            }
            Err(error) => {
                let named = entry.attrs.get("ref").or_else(|| entry.attrs.get("src"));
                let name = named.unwrap_or(&entry.r#type).clone();
                let title = format!("importing cache manifest from {name}");
                build.import(&format!("{} {name}", entry.r#type), &title, |_| async { Err(error) });
            }
        }
    }
}

/// What is to be imported, also as older clients say it.
pub(crate) fn import_entries(options: Option<&CacheOptions>) -> Vec<CacheOptionsEntry> {
    let Some(options) = options else {
        return Vec::new();
    };
    let legacy = options.import_refs_deprecated.iter().map(|name| CacheOptionsEntry {
        r#type: "registry".to_owned(),
        attrs: [("ref".to_owned(), name.clone())].into(),
    });
    options.imports.iter().cloned().chain(legacy).collect()
}

fn export_entries(options: &CacheOptions) -> Vec<CacheOptionsEntry> {
    let mut entries = options.exports.clone();
    if !options.export_ref_deprecated.is_empty() {
        let mut attrs = options.export_attrs_deprecated.clone();
        attrs.insert("ref".to_owned(), options.export_ref_deprecated.clone());
        entries.push(CacheOptionsEntry {
            r#type: "registry".to_owned(),
            attrs,
        });
    }
    entries
}

fn request(entry: &CacheOptionsEntry) -> CacheRequest {
    CacheRequest {
        kind: entry.r#type.clone(),
        attrs: entry.attrs.clone().into_iter().collect(),
    }
}
