//! What is known about one vertex and its parts.

use std::time::{Duration, SystemTime};

use cairn_proto::control;
use prost_types::Timestamp;

use super::log::Log;

/// More parts than this of one vertex are not kept.
const MAX_STATUSES: usize = 4096;
/// More starts than this of one vertex are counted as the last one.
const MAX_INTERVALS: usize = 1024;

/// How far a vertex has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VertexState {
    /// Not started.
    Pending,
    /// Started and not completed.
    Running,
    /// Its result was known.
    Cached,
    /// Completed.
    Done,
    /// Completed with an error.
    Failed,
    /// Stopped because nobody wanted its result any more.
    Cancelled,
}

/// One step of a build.
#[derive(Debug)]
pub struct Vertex {
    /// Its digest.
    pub digest: String,
    /// Its name, as the daemon sent it.
    pub name: String,
    /// Digests of the vertices it depends on.
    pub inputs: Vec<String>,
    /// Whether its result was known.
    pub cached: bool,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// Its parts, in the order of their first appearance.
    pub statuses: Vec<VertexStatus>,
    /// What it printed.
    pub log: Log,
    intervals: Vec<Interval>,
}

/// A part of a vertex: one layer of an image, one transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VertexStatus {
    /// The text that names it.
    pub id: String,
    /// What is done to it; often empty.
    pub name: String,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all; zero when unknown.
    pub total: u64,
    interval: Interval,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval {
    started: Option<SystemTime>,
    completed: Option<SystemTime>,
}

impl Interval {
    fn duration(&self, now: SystemTime) -> Duration {
        let end = self.completed.unwrap_or(now);
        let started = self.started.unwrap_or(end);
        end.duration_since(started).unwrap_or_default()
    }
}

impl Vertex {
    pub(super) fn new(digest: &str) -> Self {
        Self {
            digest: digest.to_owned(),
            name: String::new(),
            inputs: Vec::new(),
            cached: false,
            error: String::new(),
            statuses: Vec::new(),
            log: Log::default(),
            intervals: Vec::new(),
        }
    }

    /// How far it has come.
    pub fn state(&self) -> VertexState {
        if self.error.ends_with("context canceled") || self.error.ends_with("context cancelled") {
            VertexState::Cancelled
        } else if !self.error.is_empty() {
            VertexState::Failed
        } else if self.intervals.iter().any(|interval| interval.completed.is_none()) {
            VertexState::Running
        } else if self.cached {
            VertexState::Cached
        } else if self.intervals.is_empty() {
            VertexState::Pending
        } else {
            VertexState::Done
        }
    }

    /// When it started for the first time.
    pub fn started(&self) -> Option<SystemTime> {
        self.intervals.iter().filter_map(|interval| interval.started).min()
    }

    /// When it completed for the last time; none while it runs.
    pub fn completed(&self) -> Option<SystemTime> {
        let all = self.intervals.iter().map(|interval| interval.completed);
        all.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The time spent in it, until `now` if it is running: the sum of all its starts.
    pub fn duration(&self, now: SystemTime) -> Duration {
        self.intervals.iter().map(|interval| interval.duration(now)).sum()
    }

    /// Whether it is work of the daemon itself: reading the Dockerfile, resolving names.
    pub fn is_internal(&self) -> bool {
        self.name.starts_with("[internal]") || self.name.starts_with("[auth]")
    }

    /// Whether it stands for an instruction of the user.
    pub fn is_step(&self) -> bool {
        self.name.starts_with('[') && !self.is_internal()
    }

    pub(super) fn update(&mut self, message: &control::Vertex) {
        self.name.clone_from(&message.name);
        self.inputs.clone_from(&message.inputs);
        self.cached = message.cached;
        self.error.clone_from(&message.error);
        let completed = time(message.completed.as_ref());
        match time(message.started.as_ref()) {
            Some(started) => self.update_interval(started, completed),
            None if completed.is_some() && self.intervals.is_empty() => {
                self.intervals.push(Interval {
                    started: completed,
                    completed,
                });
            }
            None => {}
        }
    }

    fn update_interval(&mut self, started: SystemTime, completed: Option<SystemTime>) {
        let full = self.intervals.len() >= MAX_INTERVALS;
        let known = self
            .intervals
            .iter_mut()
            .find(|interval| interval.started == Some(started));
        match known {
            Some(interval) => interval.completed = completed,
            None if full => {
                if let Some(last) = self.intervals.last_mut() {
                    last.completed = completed;
                }
            }
            None => {
                // One that was left open ended when the next began.
                if let Some(open) = self.intervals.iter_mut().find(|interval| interval.completed.is_none()) {
                    open.completed = Some(started);
                }
                self.intervals.push(Interval {
                    started: Some(started),
                    completed,
                });
            }
        }
    }

    /// Returns the index of the part, and whether anything about it is new.
    pub(super) fn update_status(&mut self, message: &control::VertexStatus) -> Option<usize> {
        let status = VertexStatus {
            id: message.id.clone(),
            name: message.name.clone(),
            current: u64::try_from(message.current).unwrap_or(0),
            total: u64::try_from(message.total).unwrap_or(0),
            interval: Interval {
                started: time(message.started.as_ref()),
                completed: time(message.completed.as_ref()),
            },
        };
        if let Some(index) = self.statuses.iter().position(|known| known.id == status.id) {
            self.statuses[index] = status;
            return Some(index);
        }
        if self.statuses.len() == MAX_STATUSES {
            return None;
        }
        self.statuses.push(status);
        Some(self.statuses.len() - 1)
    }
}

impl VertexStatus {
    /// Whether it has completed.
    pub fn is_done(&self) -> bool {
        self.interval.completed.is_some()
    }

    /// The time it took, until `now` if it is running.
    pub fn duration(&self, now: SystemTime) -> Duration {
        self.interval.duration(now)
    }
}

/// A moment as sent by the daemon; none when it is absent or out of range.
pub(super) fn time(timestamp: Option<&Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(*timestamp).ok())
}
