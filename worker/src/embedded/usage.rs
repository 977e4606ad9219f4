//! What the worker keeps, and removing what it need not keep.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cairn_solver::Digest;
use cairn_solver::worker::{CallContext, Ref, WorkerError};

use super::results::{Content, tree_usage};
use super::{EmbeddedWorker, blocking, cache, export, failed};
use crate::content::ContentStore;
use crate::filter::{Filters, usage_field};
use crate::image::{Descriptor, Document, ImageTree};
use crate::layer::{LayerId, PruneOptions};
use crate::service::{
    CacheExporter, CacheImporter, CacheRequest, Container, ContainerRequest, Exporter, ExporterRequest, PruneRequest,
    UsageRecord, WorkerService,
};
use crate::tree::TreeRecord;

/// How long a blob that nothing refers to is left alone: somebody may be about to refer to it.
const FRESH_BLOB: Duration = Duration::from_secs(3600);
/// Largest manifest or index.
const MAX_DOCUMENT: u64 = 4 << 20;

#[async_trait]
impl WorkerService for EmbeddedWorker {
    fn exporter(&self, request: &ExporterRequest) -> Result<Box<dyn Exporter>, WorkerError> {
        export::exporter(self, request)
    }

    fn cache_importer(&self, request: &CacheRequest) -> Result<Box<dyn CacheImporter>, WorkerError> {
        cache::importer(self, request)
    }

    fn cache_exporter(&self, request: &CacheRequest) -> Result<Box<dyn CacheExporter>, WorkerError> {
        cache::exporter(self, request)
    }

    async fn container(
        &self,
        request: ContainerRequest,
        context: &CallContext,
    ) -> Result<Arc<dyn Container>, WorkerError> {
        self.make_container(request, context).await
    }

    async fn containers_gone(&self) {
        self.0.runner.containers_gone().await;
    }

    async fn close(&self) {
        self.0.runner.close().await;
    }

    async fn known_layers(&self, results: Vec<Ref>, most: usize) -> Result<Vec<Option<Vec<Descriptor>>>, WorkerError> {
        let worker = self.clone();
        blocking(move || {
            let (mut known, mut left) = (Vec::with_capacity(results.len()), most);
            for result in results {
                let Some(Content::Layers(list)) = worker.content(result.id())? else {
                    known.push(None);
                    continue;
                };
                let records = worker.0.layers.records(&list).map_err(|error| failed(&error))?;
                let Some(rest) = left.checked_sub(records.len()) else {
                    break;
                };
                left = rest;
                let blobs = records.into_iter().map(|record| {
                    let blob = record.blob?;
                    Some(Descriptor::new(blob.media_type, blob.digest, blob.size))
                });
                known.push(blobs.collect());
            }
            Ok(known)
        })
        .await
    }

    async fn settle(&self) -> Result<(), WorkerError> {
        if self.0.layers.is_settled() {
            return Ok(());
        }
        let worker = self.clone();
        blocking(move || worker.0.layers.settle().map_err(|error| failed(&error))).await
    }

    fn can_measure(&self) -> bool {
        self.0.runner.can_measure()
    }

    async fn disk_usage(&self) -> Result<Vec<UsageRecord>, WorkerError> {
        let worker = self.clone();
        blocking(move || worker.usage()).await
    }

    async fn prune(&self, request: &PruneRequest) -> Result<Vec<UsageRecord>, WorkerError> {
        let (worker, request) = (self.clone(), request.clone());
        blocking(move || worker.prune_now(&request)).await
    }

    fn blobs(&self) -> ContentStore {
        self.0.content.clone()
    }

    fn disk_size(&self) -> u64 {
        self.disk().0
    }
}

impl EmbeddedWorker {
    /// Bytes of the file system that everything is kept on, and how many of them are free; zeros if it does not say.
    fn disk(&self) -> (u64, u64) {
        match rustix::fs::statvfs(&self.0.root) {
            Ok(stat) => (
                stat.f_blocks.saturating_mul(stat.f_frsize),
                stat.f_bavail.saturating_mul(stat.f_frsize),
            ),
            Err(_) => (0, 0),
        }
    }

    fn usage(&self) -> Result<Vec<UsageRecord>, WorkerError> {
        let layers = self.0.layers.usage().map_err(|error| failed(&error))?;
        let trees = self.0.trees.usage().map_err(|error| failed(&error))?;
        let repositories = self.0.git.usage().map_err(|error| failed(&error))?;
        Ok(layers
            .into_iter()
            .map(layer_usage)
            .chain(trees.iter().map(tree_usage))
            .chain(repositories)
            .collect())
    }

    fn prune_now(&self, request: &PruneRequest) -> Result<Vec<UsageRecord>, WorkerError> {
        let filters = Filters::parse(&request.filters)
            .map_err(|error| WorkerError::Invalid(format!("failed to parse prune filters: {error}")))?;
        let options = PruneOptions {
            all: request.all,
            keep_duration: request.keep_duration,
            reserved_space: request.reserved_space,
            max_used_space: request.max_used_space,
            min_free_space: request.min_free_space,
        };
        let mut removed = self.prune_trees(&filters, &options)?;
        removed.extend(self.prune_repositories(&filters, &options)?);
        let layers = self.0.layers.prune(&options, |record| {
            let record = layer_usage(record.clone());
            filters.matches(|path| usage_field(&record, path))
        });
        removed.extend(layers.map_err(|error| failed(&error))?.into_iter().map(layer_usage));
        self.forget_links()?;
        self.drop_unused_blobs()?;
        Ok(removed)
    }

    /// Removes trees, least recently used first, until the limits are met. Those in use stay.
    fn prune_trees(&self, filters: &Filters, options: &PruneOptions) -> Result<Vec<UsageRecord>, WorkerError> {
        let used: u64 = self.usage()?.iter().map(|record| record.size).sum();
        let target = options.target(used, self.disk().1);
        let now = SystemTime::now();
        let mut trees = self.0.trees.usage().map_err(|error| failed(&error))?;
        trees.sort_by_key(|tree| tree.last_used_ns);
        let records: Vec<UsageRecord> = trees.iter().map(tree_usage).collect();
        let surplus = surplus(&records, used, target, |record| may_go(record, now, filters, options));
        let (gone, kept): (Vec<_>, Vec<_>) = trees
            .into_iter()
            .zip(records)
            .partition(|(_, record)| surplus.contains(&record.id));
        let kept: Vec<_> = kept.into_iter().map(|(tree, _)| tree.digest).collect();
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        self.0.trees.retain(&kept).map_err(|error| failed(&error))?;
        let left = self.0.trees.trees().map_err(|error| failed(&error))?;
        let left: HashSet<_> = left.iter().map(|tree: &TreeRecord| tree.digest).collect();
        let gone = gone.into_iter().filter(|(tree, _)| !left.contains(&tree.digest));
        Ok(gone.map(|(_, record)| record).collect())
    }

    /// Removes git repositories, least recently used first, until the limits are met. Those in use stay.
    fn prune_repositories(&self, filters: &Filters, options: &PruneOptions) -> Result<Vec<UsageRecord>, WorkerError> {
        let used: u64 = self.usage()?.iter().map(|record| record.size).sum();
        let target = options.target(used, self.disk().1);
        let now = SystemTime::now();
        let mut records = self.0.git.usage().map_err(|error| failed(&error))?;
        records.sort_by_key(|record| record.last_used_at);
        let surplus = surplus(&records, used, target, |record| may_go(record, now, filters, options));
        let mut gone = Vec::new();
        for record in records.into_iter().filter(|record| surplus.contains(&record.id)) {
            if self.0.git.remove(&record.id).map_err(|error| failed(&error))? {
                gone.push(record);
            }
        }
        Ok(gone)
    }

    /// Forgets which files layers that are gone had links to.
    fn forget_links(&self) -> Result<(), WorkerError> {
        let is_live = |id: &str| match LayerId::parse(id).map(|id| self.0.layers.layer(&id)) {
            Some(Ok(record)) => record.is_some(),
            // Better remembered for nothing than forgotten too early.
            Some(Err(_)) => true,
            None => false,
        };
        self.0.trees.retain_links(is_live).map_err(|error| failed(&error))
    }

    /// Removes blobs that no layer and no named image has.
    fn drop_unused_blobs(&self) -> Result<(), WorkerError> {
        let mut used = self.0.layers.blobs().map_err(|error| failed(&error))?;
        for image in self.0.images.list().map_err(|error| failed(&error))? {
            used.extend(self.blobs_of(&image.target)?);
        }
        let now = SystemTime::now();
        for blob in self.0.content.list().map_err(|error| failed(&error))? {
            let modified = std::fs::metadata(self.0.content.path(&blob.digest)).and_then(|file| file.modified());
            let is_fresh = match modified {
                Ok(modified) => now.duration_since(modified).unwrap_or_default() < FRESH_BLOB,
                Err(_) => true,
            };
            if !is_fresh && !used.contains(&blob.digest) {
                self.0.content.delete(&blob.digest).map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }

    /// Every blob of a named image; of one that is incomplete, what is known.
    fn blobs_of(&self, target: &Descriptor) -> Result<Vec<Digest>, WorkerError> {
        let mut blobs = vec![target.digest];
        let content = &self.0.content;
        let Ok(bytes) = content.read(&target.digest, MAX_DOCUMENT) else {
            return Ok(blobs);
        };
        let document = Document::parse(bytes.into(), Some(&target.media_type));
        let Ok(tree) = document
            .map_err(|error| failed(&error))
            .and_then(|root| ImageTree::of(&root, content).map_err(|error| failed(&error)))
        else {
            return Ok(blobs);
        };
        blobs.extend(tree.blobs.iter().map(|blob| blob.digest));
        blobs.extend(tree.documents.iter().map(Document::digest));
        Ok(blobs)
    }
}

/// Whether a record is old enough to go, and among those that are meant.
fn may_go(record: &UsageRecord, now: SystemTime, filters: &Filters, options: &PruneOptions) -> bool {
    let last_used = record.last_used_at.unwrap_or(record.created_at);
    let age = now.duration_since(last_used).unwrap_or_default();
    age >= options.keep_duration && filters.matches(|path| usage_field(record, path))
}

/// The ids of what is to go, of `records` in the order in which they should: as many of those that may go as it takes to
/// get from `used` bytes down to `target`; all of them without a target.
fn surplus(
    records: &[UsageRecord],
    mut used: u64,
    target: Option<u64>,
    may_go: impl Fn(&UsageRecord) -> bool,
) -> HashSet<String> {
    let mut gone = HashSet::new();
    for record in records.iter().filter(|record| may_go(record)) {
        if target.is_some_and(|target| used <= target) {
            break;
        }
        used = used.saturating_sub(record.size);
        gone.insert(record.id.clone());
    }
    gone
}

fn layer_usage(record: crate::layer::UsageRecord) -> UsageRecord {
    UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size,
        parents: record.parents,
        created_at: record.created_at.into(),
        last_used_at: Some(record.last_used_at.into()),
        usage_count: record.usage_count,
        description: record.description,
        record_type: record.record_type,
        shared: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, size: u64) -> UsageRecord {
        UsageRecord {
            id: id.to_owned(),
            mutable: false,
            in_use: false,
            size,
            parents: Vec::new(),
            created_at: SystemTime::UNIX_EPOCH,
            last_used_at: None,
            usage_count: 1,
            description: String::new(),
            record_type: "source.local".to_owned(),
            shared: false,
        }
    }

    #[test]
    fn only_what_exceeds_the_limits_goes() {
        let records = [record("a", 10), record("b", 20), record("c", 30)];
        for (used, target, want) in [
            (60, None, "abc"),
            (60, Some(60), ""),
            (60, Some(100), ""),
            (60, Some(55), "a"),
            (60, Some(40), "ab"),
            (160, Some(50), "abc"),
        ] {
            let gone = surplus(&records, used, target, |_| true);
            let mut gone: Vec<&str> = gone.iter().map(String::as_str).collect();
            gone.sort_unstable();
            assert_eq!(gone.concat(), want, "{used} {target:?}");
        }
        assert!(surplus(&records, 60, None, |record| record.id == "b").contains("b"));
    }
}
