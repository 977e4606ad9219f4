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
//! | [`table`], [`store`] | records in memory; records and blobs on disk |
//! | [`change`] | what clients change about records |
//! | [`expiry`] | which records have to go |
//! | [`listen`], [`filter`] | what a listener is told |
//! | [`logs`] | the log of a build as a blob, and back |
//! | [`conceal`] | passwords are not written down |

mod change;
mod conceal;
mod expiry;
mod filter;
mod listen;
mod logs;
mod recorder;
mod store;
mod table;
mod trace;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_proto::control::{BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, StatusResponse};
use cairn_worker::content::{ContentError, ContentStore};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::store::Store;
use self::table::{Kept, Table};
use crate::traces::Traces;

pub(crate) use self::conceal::conceal;
pub use self::expiry::Limits;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::filter::check_filters;
pub(crate) use self::recorder::{Made, Recorder};

/// Events that a slow listener may be behind.
const BACKLOG: usize = 1024;
/// How long records may wait to be made durable, so that those of several builds are in one go.
const SYNC_DELAY: Duration = Duration::from_secs(3);

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
    /// Records that are being written.
    late: TaskTracker,
    /// Read-locked while the record of a build that has ended is written.
    completing: Arc<RwLock<()>>,
    _sync: AbortOnDropHandle<()>,
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
            completing: Arc::default(),
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

    /// Waits until the builds are written down that have ended by now: who has the answer of one finds its record.
    pub(crate) async fn settled(&self) {
        drop(self.0.completing.write().await);
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

#[cfg(test)]
mod tests;
