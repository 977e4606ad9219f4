//! What clients are told while a build runs.

mod log;
mod spill;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::log::{EventLog, EventReader};
pub use self::spill::{Spool, Spools};

use crate::llb::{ProgressGroup, SourceFile, SourceRange, VertexDigest};

/// One piece of news. Each repeats the full current state of its subject; receivers overwrite.
#[derive(Clone, Debug)]
pub enum Event {
    /// State of a vertex.
    Vertex(VertexState),
    /// State of an action of a vertex.
    Status(VertexDigest, Box<Status>),
    /// Output of a vertex's process.
    Log(VertexDigest, Log),
    /// A finding, about a vertex or the whole build.
    Warning(Option<VertexDigest>, Box<Warning>),
}

/// What clients are shown of a vertex that never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexHeader {
    /// Identity.
    pub digest: VertexDigest,
    /// Vertices it depends on.
    pub inputs: Box<[VertexDigest]>,
    /// Display name.
    pub name: Arc<str>,
    /// The step it is shown as a part of.
    pub group: Option<Arc<ProgressGroup>>,
}

/// State of a vertex.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexState {
    /// The vertex.
    pub vertex: Arc<VertexHeader>,
    /// Whether its result was known.
    pub cached: bool,
    /// When work began.
    pub started: Option<SystemTime>,
    /// When it ended, well or not.
    pub completed: Option<SystemTime>,
    /// Why it failed; empty if it did not.
    pub error: String,
}

impl VertexState {
    /// The state before anything is done.
    pub fn new(vertex: VertexHeader) -> Self {
        Self {
            vertex: Arc::new(vertex),
            cached: false,
            started: None,
            completed: None,
            error: String::new(),
        }
    }
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
        self.log.push(Event::Status(self.vertex, Box::new(status)));
    }

    /// Passes a finding on.
    pub fn warn(&self, warning: Warning) {
        self.log.push(Event::Warning(Some(self.vertex), Box::new(warning)));
    }

    /// Begins an action; its end is reported when the guard is finished or dropped.
    pub fn begin(&self, id: impl Into<String>) -> StatusGuard {
        self.begin_action(id, "")
    }

    /// The same, of an action that has a name of its own besides what is shown.
    pub fn begin_action(&self, id: impl Into<String>, name: &str) -> StatusGuard {
        let now = SystemTime::now();
        let guard = StatusGuard {
            progress: self.clone(),
            status: Mutex::new(Status {
                id: id.into(),
                name: name.to_owned(),
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
