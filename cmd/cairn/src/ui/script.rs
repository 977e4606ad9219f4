//! Builds as they could happen, for the tests of views.

use std::time::{Duration, SystemTime};

use cairn_client::ProgressEvent;
use cairn_proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus};
use prost_types::Timestamp;

const START: i64 = 1_000_000;

/// A moment of the daemon's clock.
pub(crate) fn moment(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(millis)
}

fn stamp(millis: u64) -> Option<Timestamp> {
    let nanos = i32::try_from(millis % 1000).ok()? * 1_000_000;
    Some(Timestamp {
        seconds: START + i64::try_from(millis / 1000).ok()?,
        nanos,
    })
}

/// One status message, put together piece by piece.
#[derive(Default)]
pub(crate) struct Message(StatusResponse);

impl Message {
    fn vertex(mut self, name: &str, change: impl FnOnce(&mut Vertex)) -> Self {
        let mut vertex = Vertex {
            digest: digest(name),
            name: name.to_owned(),
            ..Vertex::default()
        };
        change(&mut vertex);
        self.0.vertexes.push(vertex);
        self
    }

    pub(crate) fn loaded(self, name: &str) -> Self {
        self.vertex(name, |_| {})
    }

    pub(crate) fn started(self, name: &str, at: u64) -> Self {
        self.vertex(name, |vertex| vertex.started = stamp(at))
    }

    pub(crate) fn done(self, name: &str, from: u64, to: u64) -> Self {
        self.vertex(name, |vertex| {
            (vertex.started, vertex.completed) = (stamp(from), stamp(to))
        })
    }

    pub(crate) fn cached(self, name: &str, at: u64) -> Self {
        self.vertex(name, |vertex| {
            (vertex.started, vertex.completed, vertex.cached) = (stamp(at), stamp(at), true);
        })
    }

    pub(crate) fn failed(self, name: &str, from: u64, to: u64, error: &str) -> Self {
        self.vertex(name, |vertex| {
            (vertex.started, vertex.completed) = (stamp(from), stamp(to));
            vertex.error = error.to_owned();
        })
    }

    pub(crate) fn log(mut self, name: &str, at: u64, text: &str) -> Self {
        self.0.logs.push(VertexLog {
            vertex: digest(name),
            timestamp: stamp(at),
            stream: 1,
            msg: text.as_bytes().to_vec().into(),
        });
        self
    }

    /// A transfer: bytes so far, bytes in all, start, and end if it has one.
    pub(crate) fn part(mut self, name: &str, id: &str, bytes: (i64, i64), times: (u64, Option<u64>)) -> Self {
        self.0.statuses.push(VertexStatus {
            id: id.to_owned(),
            vertex: digest(name),
            current: bytes.0,
            total: bytes.1,
            started: stamp(times.0),
            completed: times.1.and_then(stamp),
            ..VertexStatus::default()
        });
        self
    }

    pub(crate) fn event(self) -> ProgressEvent {
        ProgressEvent::Status(self.0)
    }
}

fn digest(name: &str) -> String {
    format!("sha256:{name}")
}
