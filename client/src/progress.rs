//! The state of a build in progress, made from the daemon's status messages.
//!
//! [`Progress`] is the whole picture; [`Progress::apply`] feeds it and says what changed, for views that
//! print changes. Nothing here prints. Texts (names, logs) are as received: a view that writes to a
//! terminal must neutralise control characters.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use cairn_proto::control;

mod log;
mod vertex;

pub use log::{Log, LogLine, LogStream};
pub use vertex::{Vertex, VertexState, VertexStatus};

use crate::details::{LineRange, SourceLocation};

/// More warnings than this are counted, not kept.
const MAX_WARNINGS: usize = 1000;
/// More vertices than this are not followed.
const MAX_VERTICES: usize = 200_000;

/// What a running solve tells its caller.
#[derive(Debug, Clone)]
pub enum ProgressEvent {
    /// The daemon's clock, read when the stream of statuses began.
    ServerTime(SystemTime),
    /// News about vertices.
    Status(control::StatusResponse),
}

/// Everything known about a build.
#[derive(Debug, Default)]
pub struct Progress {
    vertices: Vec<Vertex>,
    by_digest: HashMap<String, usize>,
    warnings: Vec<Warning>,
    skew: Skew,
}

/// How far the daemon's clock is from ours.
#[derive(Debug, Default, Clone, Copy)]
enum Skew {
    #[default]
    None,
    Ahead(Duration),
    Behind(Duration),
}

/// A warning about the user's input.
#[derive(Debug, Clone)]
pub struct Warning {
    /// One line that says what is wrong.
    pub short: String,
    /// Explanation, line by line.
    pub detail: Vec<String>,
    /// Where to read more; may be empty.
    pub url: String,
    /// The place it is about.
    pub source: Option<SourceLocation>,
}

/// One thing that a message changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The vertex of this index.
    Vertex(usize),
    /// A part of a vertex: index of the vertex, index of the part.
    Status(usize, usize),
    /// A vertex printed a line.
    Log(usize, LogLine),
    /// The warning of this index is new.
    Warning(usize),
}

impl Progress {
    /// An empty picture.
    pub fn new() -> Self {
        Self::default()
    }

    /// All vertices, in the order of their first appearance.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The vertex of that digest.
    pub fn vertex(&self, digest: &str) -> Option<&Vertex> {
        self.by_digest.get(digest).map(|index| &self.vertices[*index])
    }

    /// All warnings, in the order of their arrival.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Steps of the user that were reached, and how many of those were cached.
    pub fn steps(&self) -> (usize, usize) {
        let reached = |vertex: &&Vertex| vertex.is_step() && vertex.state() != VertexState::Pending;
        let cached = |vertex: &&Vertex| vertex.state() == VertexState::Cached;
        let steps = self.vertices.iter().filter(reached);
        (steps.clone().count(), steps.filter(cached).count())
    }

    /// The daemon's clock when ours shows `local`.
    pub fn server_time(&self, local: SystemTime) -> SystemTime {
        match self.skew {
            Skew::None => Some(local),
            Skew::Ahead(by) => local.checked_add(by),
            Skew::Behind(by) => local.checked_sub(by),
        }
        .unwrap_or(local)
    }

    /// Takes an event that arrived when our clock showed `local`, and returns what it changed.
    pub fn apply(&mut self, event: &ProgressEvent, local: SystemTime) -> Vec<Change> {
        match event {
            ProgressEvent::ServerTime(server) => {
                self.skew = match server.duration_since(local) {
                    Ok(ahead) => Skew::Ahead(ahead),
                    Err(behind) => Skew::Behind(behind.duration()),
                };
                Vec::new()
            }
            ProgressEvent::Status(status) => self.apply_status(status),
        }
    }

    fn apply_status(&mut self, status: &control::StatusResponse) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in &status.vertexes {
            changes.extend(self.apply_vertex(message));
        }
        for message in &status.statuses {
            let Some(index) = self.known(&message.vertex) else {
                continue;
            };
            let part = self.vertices[index].update_status(message);
            changes.extend(part.map(|part| Change::Status(index, part)));
        }
        for message in &status.logs {
            self.apply_log(message, &mut changes);
        }
        // After the logs: a completed vertex has no half lines.
        for message in status.vertexes.iter().filter(|message| message.completed.is_some()) {
            let Some(index) = self.known(&message.digest) else {
                continue;
            };
            let log = &mut self.vertices[index].log;
            let completed = log.finish();
            changes.extend(last_lines(log, completed).map(|line| Change::Log(index, line)));
        }
        for message in &status.warnings {
            if self.warnings.len() < MAX_WARNINGS {
                self.warnings.push(Warning::from(message));
                changes.push(Change::Warning(self.warnings.len() - 1));
            }
        }
        changes
    }

    fn known(&self, digest: &str) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }

    fn apply_vertex(&mut self, message: &control::Vertex) -> Option<Change> {
        let index = match self.known(&message.digest) {
            Some(index) => index,
            None if self.vertices.len() == MAX_VERTICES => return None,
            None => {
                self.vertices.push(Vertex::new(&message.digest));
                self.by_digest.insert(message.digest.clone(), self.vertices.len() - 1);
                self.vertices.len() - 1
            }
        };
        self.vertices[index].update(message);
        Some(Change::Vertex(index))
    }

    fn apply_log(&mut self, message: &control::VertexLog, changes: &mut Vec<Change>) {
        let Some(index) = self.known(&message.vertex) else {
            return;
        };
        let vertex = &mut self.vertices[index];
        let at = vertex::time(message.timestamp.as_ref());
        let elapsed = at
            .zip(vertex.started())
            .and_then(|(at, started)| at.duration_since(started).ok());
        let stream = if message.stream == 1 {
            LogStream::Stdout
        } else {
            LogStream::Stderr
        };
        // In pieces, so that the log's bound never swallows a line before a view has seen it.
        for piece in message.msg.chunks(LOG_PIECE) {
            let completed = vertex.log.push(stream, elapsed.unwrap_or_default(), piece);
            changes.extend(last_lines(&vertex.log, completed).map(|line| Change::Log(index, line)));
        }
    }
}

/// No piece of output this short completes more lines than a log keeps.
const LOG_PIECE: usize = 128;

fn last_lines(log: &Log, count: usize) -> impl Iterator<Item = LogLine> {
    let mut lines: Vec<LogLine> = log.lines().rev().take(count).cloned().collect();
    lines.reverse();
    lines.into_iter()
}

impl From<&control::VertexWarning> for Warning {
    fn from(message: &control::VertexWarning) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let source = message.info.as_ref().filter(|info| !info.data.is_empty());
        let line = |position: Option<&cairn_proto::pb::Position>| {
            position
                .and_then(|position| u32::try_from(position.line).ok())
                .filter(|line| *line > 0)
        };
        let ranges = message.ranges.iter().filter_map(|range| {
            let first = line(range.start.as_ref())?;
            let last = line(range.end.as_ref()).unwrap_or(first).max(first);
            Some(LineRange { first, last })
        });
        Self {
            short: text(&message.short),
            detail: message.detail.iter().map(|detail| text(detail)).collect(),
            url: message.url.clone(),
            source: source.map(|info| SourceLocation {
                filename: info.filename.clone(),
                text: text(&info.data),
                ranges: ranges.collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
