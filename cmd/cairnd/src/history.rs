//! What became of earlier builds, and what running ones are doing: records that clients list, read, pin and delete.
//!
//! A record is kept in one file, what belongs to it (its log, the details of its error, its provenance, its trace) in blobs beside it. Both are
//! written before the build's client has its answer, and made durable a moment later; a record that a crash of the
//! machine tore is noticed and dropped. Running builds are known only to this process.
//!
//! | module | what |
//! |---|---|
//! | [`recorder`] | follows one build to its end, whatever that is |
//! | [`trace`] | adds its trace, a moment after its end |
//! | [`store`] | records and blobs on disk |
//! | [`expiry`] | which records have to go |
//! | [`listen`], [`filter`] | what a listener is told |
//! | [`logs`] | the log of a build as a blob, and back |
//! | [`conceal`] | passwords are not written down |

mod conceal;
mod expiry;
mod filter;
mod listen;
mod logs;
mod recorder;
mod store;
mod trace;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, StatusResponse, UpdateBuildHistoryRequest,
};
use cairn_solver::Digest;
use cairn_worker::content::{ContentError, ContentStore};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::Code;

use self::store::Store;
use crate::failure::Failure;
use crate::traces::{Solve, Traces};

pub(crate) use self::conceal::conceal;
pub use self::expiry::Limits;
pub(crate) use self::recorder::{Made, Recorder};

/// Events that a slow listener may be behind.
const BACKLOG: usize = 1024;
/// How long records may wait to be made durable, so that those of several builds are in one go.
const SYNC_DELAY: Duration = Duration::from_secs(3);
/// Most of all room for records that pinned ones may take: one part of this many.
const PINNED_PART: u64 = 2;

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file system refused.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A blob cannot be read or written.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A log was damaged on disk.
    #[error("the log of build {0} is damaged")]
    Damaged(String),
}

/// The builds of a daemon, running and finished. Clones share them.
#[derive(Clone)]
pub(crate) struct History(Arc<Shared>);

struct Shared {
    store: Store,
    limits: Limits,
    /// Held while records or blobs are written or removed; taken before `table`.
    writing: Mutex<()>,
    table: Mutex<Table>,
    events: broadcast::Sender<Event>,
    /// Spans of clients.
    traces: Traces,
    /// Told of everything written.
    written: Arc<Notify>,
    /// Fires when nobody is told anything any more.
    closing: CancellationToken,
    /// Records of builds that nobody waits for.
    late: TaskTracker,
    _sync: AbortOnDropHandle<()>,
}

/// What is in memory: all of it but the blobs.
#[derive(Default)]
struct Table {
    running: BTreeMap<String, Arc<BuildHistoryRecord>>,
    finished: BTreeMap<String, Kept>,
    /// Finished builds whose trace is not stored yet.
    traced: BTreeMap<String, Solve>,
    /// How many finished builds have a blob: equal ones are stored once.
    blob_uses: BTreeMap<Digest, usize>,
}

/// A finished build.
struct Kept {
    record: Arc<BuildHistoryRecord>,
    /// Bytes of the record.
    bytes: u64,
}

/// News for listeners.
#[derive(Clone)]
struct Event {
    kind: BuildHistoryEventType,
    record: Arc<BuildHistoryRecord>,
}

impl Event {
    fn new(kind: BuildHistoryEventType, record: Arc<BuildHistoryRecord>) -> Self {
        Self { kind, record }
    }

    fn to_wire(&self) -> BuildHistoryEvent {
        BuildHistoryEvent {
            r#type: self.kind.into(),
            record: Some((*self.record).clone()),
        }
    }
}

impl History {
    /// Opens the history in `root`, making it when missing, and clears up what a crash left.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub(crate) async fn open(root: &Path, limits: Limits) -> Result<Self, HistoryError> {
        let dir = root.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open(&dir)).await;
        let (store, records) = opened.map_err(|error| HistoryError::Io {
            action: "read",
            path: root.to_owned(),
            source: std::io::Error::other(error),
        })??;
        let mut table = Table::default();
        for record in records {
            table.insert(Kept::new(record));
        }
        let written = Arc::<Notify>::default();
        let sync = tokio::spawn(sync_writes(store.content.clone(), written.clone()));
        let history = Self(Arc::new(Shared {
            store,
            limits,
            writing: Mutex::default(),
            table: Mutex::new(table),
            events: broadcast::Sender::new(BACKLOG),
            traces: Traces::default(),
            written,
            closing: CancellationToken::new(),
            late: TaskTracker::new(),
            _sync: AbortOnDropHandle::new(sync),
        }));
        history.expire().await;
        Ok(history)
    }

    /// The blobs that belong to records.
    pub(crate) fn content(&self) -> &ContentStore {
        &self.0.store.content
    }

    /// Where spans of clients are collected.
    pub(crate) fn traces(&self) -> &Traces {
        &self.0.traces
    }

    /// Removes what is too old or too much.
    pub(crate) async fn expire(&self) {
        let history = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _writing = history.0.writing.lock();
            history.expire_now();
        });
        if let Err(error) = task.await {
            tracing::error!(%error, "failed to remove old records of builds");
        }
    }

    /// Lets nobody listen any more.
    pub(crate) fn dismiss(&self) {
        self.0.closing.cancel();
    }

    /// Waits until all builds that have ended are written down.
    pub(crate) async fn close(&self) {
        self.dismiss();
        self.0.late.close();
        self.0.late.wait().await;
    }

    /// What a finished build told while it ran; none if there is no record of it.
    pub(crate) fn replay(
        &self,
        id: &str,
    ) -> Option<impl Stream<Item = Result<StatusResponse, HistoryError>> + Send + use<>> {
        let record = self.0.table.lock().finished.get(id)?.record.clone();
        let blob = record.logs.as_ref().and_then(store::digest_of);
        Some(logs::replay(self.content().clone(), record.r#ref.clone(), blob))
    }

    /// Pins, unpins, completes or deletes a record.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be changed.
    pub(crate) async fn update(&self, request: UpdateBuildHistoryRequest) -> Result<(), Failure> {
        let history = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _writing = history.0.writing.lock();
            if request.delete {
                return history.delete(&request.r#ref);
            }
            // A build that is not known or still runs has no trace to wait for.
            if request.finalize {
                let stored = history.store_trace(&request.r#ref);
                return stored.map_err(|error| Failure::new(Code::Internal, error.to_string()));
            }
            history.pin(&request.r#ref, request.pinned)
        });
        task.await
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?
    }

    fn delete(&self, id: &str) -> Result<(), Failure> {
        let table = self.0.table.lock();
        if table.finished.contains_key(id) {
            drop(table);
            self.remove(&[id.to_owned()]);
            return Ok(());
        }
        if table.running.contains_key(id) {
            let message = format!("build {id} is running and cannot be deleted from history");
            return Err(Failure::new(Code::FailedPrecondition, message));
        }
        Err(no_record(id))
    }

    fn pin(&self, id: &str, pinned: bool) -> Result<(), Failure> {
        let mut record = {
            let table = self.0.table.lock();
            let kept = table.finished.get(id).ok_or_else(|| no_record(id))?;
            if kept.record.pinned == pinned {
                return Ok(());
            }
            let pinned_bytes = |part: fn(&Kept) -> u64| {
                let others = table.finished.values().filter(|other| other.record.pinned);
                others.map(part).sum::<u64>() + part(kept)
            };
            let is_too_much = pinned_bytes(|kept| kept.bytes) > expiry::MAX_RECORD_BYTES / PINNED_PART
                || pinned_bytes(Kept::blob_bytes) > expiry::MAX_BLOB_BYTES / PINNED_PART;
            if pinned && is_too_much {
                let message = format!("build {id} cannot be pinned: pinned records take up too much room already");
                return Err(Failure::new(Code::ResourceExhausted, message));
            }
            (*kept.record).clone()
        };
        record.pinned = pinned;
        record.generation = record.generation.saturating_add(1);
        let fail = |error: HistoryError| Failure::new(Code::Internal, error.to_string());
        self.0.store.write(&record).map_err(fail)?;
        self.insert(record);
        Ok(())
    }

    /// Announces a build that begins.
    fn begin(&self, record: BuildHistoryRecord) {
        let record = Arc::new(record);
        let mut table = self.0.table.lock();
        table.running.insert(record.r#ref.clone(), record.clone());
        self.announce(Event::new(BuildHistoryEventType::Started, record));
    }

    /// Writes down a build that has ended. Blocks.
    fn complete(&self, ended: recorder::Ended) {
        let _writing = self.0.writing.lock();
        let (mut record, outcome) = ended.write(&self.0.store, self.0.limits.max_entries > 0);
        let solve = match outcome {
            Ok(solve) => solve,
            Err(error) => {
                tracing::warn!(build = record.r#ref, %error, "this build is not remembered");
                self.0.table.lock().running.remove(&record.r#ref);
                record.logs = None;
                record.external_error = None;
                return self.announce(Event::new(BuildHistoryEventType::Complete, Arc::new(record)));
            }
        };
        if self.0.limits.max_entries == 0 {
            self.0.table.lock().running.remove(&record.r#ref);
            return self.announce(Event::new(BuildHistoryEventType::Complete, Arc::new(record)));
        }
        let id = record.r#ref.clone();
        // Before the record: who sees that can have the trace stored.
        self.0
            .table
            .lock()
            .traced
            .extend(solve.map(|solve| (id.clone(), solve)));
        self.insert(record);
        self.store_trace_later(id);
        self.expire_now();
    }

    /// Puts a written record in the place of the one before, if any, and announces it.
    fn insert(&self, record: BuildHistoryRecord) {
        let kept = Kept::new(record);
        let mut table = self.0.table.lock();
        let record = kept.record.clone();
        table.running.remove(&record.r#ref);
        let unused = table.insert(kept);
        self.announce(Event::new(BuildHistoryEventType::Complete, record));
        drop(table);
        self.0.store.remove_blobs(&unused);
        self.0.written.notify_one();
    }

    fn expire_now(&self) {
        let gone = {
            let table = self.0.table.lock();
            let ages = table.finished.iter().map(|(id, kept)| expiry::Candidate {
                id,
                completed: kept.completed(),
                is_pinned: kept.record.pinned,
                record_bytes: kept.bytes,
                blob_bytes: kept.blob_bytes(),
            });
            expiry::expired(ages.collect(), &self.0.limits, SystemTime::now())
        };
        self.remove(&gone);
    }

    /// Removes records, and the blobs that no other record has.
    fn remove(&self, ids: &[String]) {
        for id in ids {
            // First the file: blobs that nothing names are removed at the next start.
            if let Err(error) = self.0.store.remove(id) {
                tracing::warn!(build = id, %error, "failed to remove the record of a build");
                continue;
            }
            let mut table = self.0.table.lock();
            let unused = table.remove(id);
            let record = BuildHistoryRecord {
                r#ref: id.clone(),
                ..BuildHistoryRecord::default()
            };
            self.announce(Event::new(BuildHistoryEventType::Deleted, Arc::new(record)));
            drop(table);
            self.0.store.remove_blobs(&unused);
        }
    }

    /// Tells listeners. Called with the table locked, so that nobody misses or doubles an event.
    fn announce(&self, event: Event) {
        // Nobody has to listen.
        let _listeners = self.0.events.send(event);
    }
}

impl Kept {
    fn new(record: BuildHistoryRecord) -> Self {
        Self {
            bytes: prost::Message::encoded_len(&record) as u64,
            record: Arc::new(record),
        }
    }

    fn blob_bytes(&self) -> u64 {
        store::blobs(&self.record)
            .map(|blob| u64::try_from(blob.size).unwrap_or(0))
            .sum()
    }

    fn completed(&self) -> SystemTime {
        let time = self.record.completed_at.or(self.record.created_at);
        time.and_then(|time| SystemTime::try_from(time).ok())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Table {
    /// Returns the blobs that are of no more use.
    fn insert(&mut self, kept: Kept) -> Vec<Digest> {
        // Counted first, so that what both have is not called useless.
        for digest in store::blobs(&kept.record).filter_map(store::digest_of) {
            *self.blob_uses.entry(digest).or_default() += 1;
        }
        let before = self.finished.insert(kept.record.r#ref.clone(), kept);
        before.map(|before| self.release(&before)).unwrap_or_default()
    }

    /// Returns the blobs that are of no more use.
    fn remove(&mut self, id: &str) -> Vec<Digest> {
        self.traced.remove(id);
        let before = self.finished.remove(id);
        before.map(|before| self.release(&before)).unwrap_or_default()
    }

    fn release(&mut self, gone: &Kept) -> Vec<Digest> {
        let mut unused = Vec::new();
        for digest in store::blobs(&gone.record).filter_map(store::digest_of) {
            let Some(uses) = self.blob_uses.get_mut(&digest) else {
                continue;
            };
            *uses -= 1;
            if *uses == 0 {
                self.blob_uses.remove(&digest);
                unused.push(digest);
            }
        }
        unused
    }
}

fn no_record(id: &str) -> Failure {
    // Clients show this text.
    Failure::new(
        Code::NotFound,
        format!("failed to retrieve ref {id}: file does not exist"),
    )
}

/// Makes what was written durable, a moment later. Never ends.
async fn sync_writes(content: ContentStore, written: Arc<Notify>) {
    loop {
        written.notified().await;
        tokio::time::sleep(SYNC_DELAY).await;
        let content = content.clone();
        match tokio::task::spawn_blocking(move || content.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "records of builds are not durable yet"),
            Err(error) => tracing::error!(%error, "records of builds are not durable yet"),
        }
    }
}

/// Parses filters, and asks them about a record that knows nothing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_filters(filters: &[String], now: SystemTime) {
    if let Ok(filters) = filter::RecordFilters::parse(filters, now) {
        filters.matches(&BuildHistoryRecord::default());
    }
}

#[cfg(test)]
mod tests;
