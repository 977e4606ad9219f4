//! What clients are told while a build runs.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::llb::{ProgressGroup, SourceFile, SourceRange, VertexDigest};

/// One piece of news. Each repeats the full current state of its subject; receivers overwrite.
#[derive(Clone, Debug)]
pub enum Event {
    /// State of a vertex.
    Vertex(VertexState),
    /// State of an action of a vertex.
    Status(VertexDigest, Status),
    /// Output of a vertex's process.
    Log(VertexDigest, Log),
    /// A finding about a vertex.
    Warning(VertexDigest, Warning),
}

/// State of a vertex.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexState {
    /// Identity.
    pub digest: VertexDigest,
    /// Vertices it depends on.
    pub inputs: Arc<[VertexDigest]>,
    /// Display name.
    pub name: Arc<str>,
    /// Whether its result was known.
    pub cached: bool,
    /// When work began.
    pub started: Option<SystemTime>,
    /// When it ended, well or not.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// The step it is shown as a part of.
    pub group: Option<ProgressGroup>,
}

/// State of an action of a vertex, such as the transfer of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Identity within the vertex, and text to show.
    pub id: String,
    /// The action; may be empty.
    pub name: String,
    /// How far it is, usually in bytes.
    pub current: i64,
    /// How far it goes; 0 if unknown.
    pub total: i64,
    /// When this was so.
    pub timestamp: SystemTime,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// Output of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// 1 for standard output, 2 for standard error.
    pub stream: u8,
    /// When it was written.
    pub timestamp: SystemTime,
    /// Raw bytes; not split at lines.
    pub data: Bytes,
}

/// A finding about the input of the build.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Warning {
    /// 1 is normal.
    pub level: i64,
    /// One line.
    pub short: Bytes,
    /// More lines.
    pub detail: Vec<Bytes>,
    /// Where to read about it.
    pub url: String,
    /// The file it is about.
    pub file: Option<SourceFile>,
    /// The places it is about.
    pub ranges: Vec<SourceRange>,
}

/// An append-only record that any number of readers follow from its beginning.
///
/// It is bounded. Writers keep their own, tighter limits (output per vertex, one status per action in a tenth of a
/// second); beyond a total that no sound build reaches, output ends with a notice, statuses are reduced to the ends of
/// actions and then left out, and so are warnings. States of vertices are always kept: their number is the graph's.
#[derive(Debug)]
pub struct EventLog {
    record: Mutex<Record>,
    /// Number of events, and whether the log is closed.
    state: watch::Sender<(usize, bool)>,
}

#[derive(Debug, Default)]
struct Record {
    events: Vec<Event>,
    log_bytes: usize,
    statuses: usize,
    warnings: usize,
}

/// Most bytes of process output in one log.
const MAX_LOG_BYTES: usize = 256 << 20;
/// What an event costs besides its data.
const LOG_OVERHEAD: usize = 64;
/// Number of statuses from which on only ends of actions are kept; no more than twice as many are kept at all.
const MAX_STATUSES: usize = 100_000;
/// Most warnings in one log.
const MAX_WARNINGS: usize = 10_000;

impl Record {
    /// What of `event` is within the limits.
    fn admit(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Log(vertex, log) => {
                if self.log_bytes > MAX_LOG_BYTES {
                    return None;
                }
                self.log_bytes += log.data.len() + LOG_OVERHEAD;
                let is_last = self.log_bytes > MAX_LOG_BYTES;
                let data = if is_last {
                    Bytes::from_static(b"\n[output clipped: the build has written too much]\n")
                } else {
                    log.data
                };
                Some(Event::Log(vertex, Log { data, ..log }))
            }
            Event::Status(_, ref status) => {
                let limit = if status.completed.is_some() {
                    2 * MAX_STATUSES
                } else {
                    MAX_STATUSES
                };
                (self.statuses < limit).then(|| {
                    self.statuses += 1;
                    event
                })
            }
            Event::Warning(..) => (self.warnings < MAX_WARNINGS).then(|| {
                self.warnings += 1;
                event
            }),
            Event::Vertex(_) => Some(event),
        }
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            record: Mutex::default(),
            state: watch::Sender::new((0, false)),
        }
    }
}

impl EventLog {
    /// Appends an event. After [`EventLog::close`] it is dropped.
    pub fn push(&self, event: Event) {
        self.push_all([event]);
    }

    /// Appends events that readers see together.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut record = self.record.lock();
        if self.state.borrow().1 {
            return;
        }
        let before = record.events.len();
        let events = events.into_iter();
        if events.size_hint().0 > 1 {
            // No more than is needed: the first and the last news of very many vertices are most of a large record.
            record.events.reserve_exact(events.size_hint().0);
        }
        for event in events {
            if let Some(event) = record.admit(event) {
                record.events.push(event);
            }
        }
        let len = record.events.len();
        if len > before {
            self.state.send_modify(|state| state.0 = len);
        }
    }

    /// Ends the log: readers finish once they have seen everything.
    pub fn close(&self) {
        self.close_with(|_| Vec::new());
    }

    /// Ends the log with the events that `last` makes of those before; nothing comes in between.
    pub(crate) fn close_with(&self, last: impl FnOnce(&[Event]) -> Vec<Event>) {
        let mut record = self.record.lock();
        if self.state.borrow().1 {
            return;
        }
        let last = last(&record.events);
        record.events.extend(last);
        let len = record.events.len();
        self.state.send_replace((len, true));
    }

    /// A reader that begins with the first event.
    pub fn reader(self: &Arc<Self>) -> EventReader {
        EventReader {
            log: self.clone(),
            seen: 0,
            state: self.state.subscribe(),
        }
    }

    /// Everything so far.
    pub fn snapshot(&self) -> Vec<Event> {
        self.record.lock().events.clone()
    }
}

/// Follows an [`EventLog`].
#[derive(Debug)]
pub struct EventReader {
    log: Arc<EventLog>,
    seen: usize,
    state: watch::Receiver<(usize, bool)>,
}

impl EventReader {
    /// The events since the last call, at least one; `None` once the log is closed and read.
    ///
    /// # Cancel safety
    /// Cancel safe: events are taken only when returned.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        let seen = self.seen;
        let closed = match self.state.wait_for(|(len, closed)| *len > seen || *closed).await {
            Ok(state) => state.1,
            Err(_) => true,
        };
        let events = &self.log.record.lock().events;
        if events.len() > self.seen {
            let new = events[self.seen..].to_vec();
            self.seen = events.len();
            return Some(new);
        }
        debug_assert!(closed);
        None
    }

    /// The events since the last call, if any, without waiting.
    pub fn drain(&mut self) -> Vec<Event> {
        let events = &self.log.record.lock().events;
        let new = events[self.seen..].to_vec();
        self.seen = events.len();
        new
    }
}

/// Where one vertex's news goes.
#[derive(Clone, Debug)]
pub struct VertexProgress {
    vertex: VertexDigest,
    log: Arc<EventLog>,
}

impl VertexProgress {
    /// Writes news about `vertex` to `log`.
    pub fn new(vertex: VertexDigest, log: Arc<EventLog>) -> Self {
        Self { vertex, log }
    }

    /// The vertex.
    pub fn vertex(&self) -> VertexDigest {
        self.vertex
    }

    /// Passes process output on. `stream` is 1 or 2.
    pub fn log(&self, stream: u8, data: Bytes) {
        let timestamp = SystemTime::now();
        self.log.push(Event::Log(
            self.vertex,
            Log {
                stream,
                timestamp,
                data,
            },
        ));
    }

    /// Passes the state of an action on.
    pub fn status(&self, status: Status) {
        self.log.push(Event::Status(self.vertex, status));
    }

    /// Passes a finding on.
    pub fn warn(&self, warning: Warning) {
        self.log.push(Event::Warning(self.vertex, warning));
    }

    /// Begins an action; its end is reported when the guard is finished or dropped.
    pub fn begin(&self, id: impl Into<String>) -> StatusGuard {
        let now = SystemTime::now();
        let guard = StatusGuard {
            progress: self.clone(),
            status: Mutex::new(Status {
                id: id.into(),
                name: String::new(),
                current: 0,
                total: 0,
                timestamp: now,
                started: Some(now),
                completed: None,
            }),
        };
        self.status(guard.status.lock().clone());
        guard
    }
}

/// An action that is under way.
#[derive(Debug)]
pub struct StatusGuard {
    progress: VertexProgress,
    status: Mutex<Status>,
}

/// Shortest time between two reports of one action's advance.
const REPORT_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);

impl StatusGuard {
    /// Says how far the action is; reported at most every 100 ms. `total` is 0 if unknown.
    pub fn update(&self, current: u64, total: u64) {
        let now = SystemTime::now();
        let mut status = self.status.lock();
        status.current = i64::try_from(current).unwrap_or(i64::MAX);
        status.total = i64::try_from(total).unwrap_or(i64::MAX);
        if now
            .duration_since(status.timestamp)
            .is_ok_and(|age| age >= REPORT_INTERVAL)
        {
            status.timestamp = now;
            self.progress.status(status.clone());
        }
    }
}

impl Drop for StatusGuard {
    fn drop(&mut self) {
        let status = self.status.get_mut();
        status.timestamp = SystemTime::now();
        status.completed = Some(status.timestamp);
        self.progress.status(status.clone());
    }
}

#[cfg(test)]
mod tests;
