//! One JSON object per status message, with the field names that BuildKit's clients use.

use std::io::{self, Write};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_client::{Change, Progress, ProgressEvent};
use cairn_proto::{control, pb};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::view::View;

/// Writes messages as they come.
pub(super) struct RawJsonView<W> {
    out: W,
}

impl<W: Write> RawJsonView<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> View for RawJsonView<W> {
    fn update(&mut self, _: &Progress, event: &ProgressEvent, _: &[Change], _: SystemTime) -> io::Result<()> {
        if let ProgressEvent::Status(status) = event {
            let mut line = status_json(status).to_string();
            line.push('\n');
            self.out.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn tick(&mut self, _: &Progress, _: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &Progress, _: SystemTime) -> io::Result<()> {
        self.out.flush()
    }
}

fn status_json(status: &control::StatusResponse) -> Value {
    let mut object = Map::new();
    add_list(&mut object, "vertexes", status.vertexes.iter().map(vertex));
    add_list(&mut object, "statuses", status.statuses.iter().map(vertex_status));
    add_list(&mut object, "logs", status.logs.iter().map(log));
    add_list(&mut object, "warnings", status.warnings.iter().map(warning));
    object.into()
}

fn vertex(vertex: &control::Vertex) -> Value {
    let mut object = Map::new();
    add_text(&mut object, "digest", &vertex.digest);
    add_list(&mut object, "inputs", vertex.inputs.iter().map(|input| json!(input)));
    add_text(&mut object, "name", &vertex.name);
    add_time(&mut object, "started", vertex.started);
    add_time(&mut object, "completed", vertex.completed);
    if vertex.cached {
        object.insert("cached".to_owned(), true.into());
    }
    add_text(&mut object, "error", &vertex.error);
    if let Some(group) = &vertex.progress_group {
        let group = json!({ "id": group.id, "name": group.name, "weak": group.weak });
        object.insert("progressGroup".to_owned(), group);
    }
    object.into()
}

fn vertex_status(status: &control::VertexStatus) -> Value {
    let mut object = Map::new();
    add_text(&mut object, "id", &status.id);
    add_text(&mut object, "vertex", &status.vertex);
    add_text(&mut object, "name", &status.name);
    if status.total != 0 {
        object.insert("total".to_owned(), status.total.into());
    }
    object.insert("current".to_owned(), status.current.into());
    add_time(&mut object, "timestamp", status.timestamp);
    add_time(&mut object, "started", status.started);
    add_time(&mut object, "completed", status.completed);
    object.into()
}

fn log(log: &control::VertexLog) -> Value {
    let mut object = Map::new();
    add_text(&mut object, "vertex", &log.vertex);
    object.insert("stream".to_owned(), log.stream.into());
    object.insert("data".to_owned(), STANDARD.encode(&log.msg).into());
    add_time(&mut object, "timestamp", log.timestamp);
    object.into()
}

fn warning(warning: &control::VertexWarning) -> Value {
    let mut object = Map::new();
    add_text(&mut object, "vertex", &warning.vertex);
    object.insert("level".to_owned(), warning.level.into());
    object.insert("short".to_owned(), STANDARD.encode(&warning.short).into());
    add_list(
        &mut object,
        "detail",
        warning.detail.iter().map(|detail| STANDARD.encode(detail).into()),
    );
    add_text(&mut object, "url", &warning.url);
    if let Some(info) = &warning.info {
        let info = json!({ "filename": info.filename, "data": STANDARD.encode(&info.data), "language": info.language });
        object.insert("sourceInfo".to_owned(), info);
    }
    add_list(&mut object, "range", warning.ranges.iter().map(range));
    object.into()
}

fn range(range: &pb::Range) -> Value {
    let position = |position: &Option<pb::Position>| {
        let position = position.unwrap_or_default();
        json!({ "line": position.line, "character": position.character })
    };
    json!({ "start": position(&range.start), "end": position(&range.end) })
}

fn add_text(object: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.to_owned(), text.into());
    }
}

fn add_list(object: &mut Map<String, Value>, key: &str, values: impl Iterator<Item = Value>) {
    let values: Vec<Value> = values.collect();
    if !values.is_empty() {
        object.insert(key.to_owned(), values.into());
    }
}

fn add_time(object: &mut Map<String, Value>, key: &str, timestamp: Option<Timestamp>) {
    let moment = timestamp.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    if let Some(moment) = moment {
        object.insert(key.to_owned(), moment.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_known_names() {
        let at = Some(Timestamp {
            seconds: 0,
            nanos: 5_000_000,
        });
        let status = control::StatusResponse {
            vertexes: vec![control::Vertex {
                digest: "sha256:a".into(),
                name: "[1/2] FROM x".into(),
                inputs: vec!["sha256:b".into()],
                cached: true,
                started: at,
                ..control::Vertex::default()
            }],
            statuses: vec![control::VertexStatus {
                id: "layer".into(),
                vertex: "sha256:a".into(),
                current: 3,
                total: 9,
                ..control::VertexStatus::default()
            }],
            logs: vec![control::VertexLog {
                vertex: "sha256:a".into(),
                stream: 1,
                msg: b"hi\n".to_vec().into(),
                timestamp: at,
            }],
            warnings: vec![control::VertexWarning {
                short: b"w".to_vec().into(),
                level: 1,
                ..Default::default()
            }],
        };
        let mut out = Vec::new();
        let mut view = RawJsonView::new(&mut out);
        let event = ProgressEvent::Status(status);
        view.update(&Progress::new(), &event, &[], SystemTime::UNIX_EPOCH)
            .unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"{"logs":[{"data":"aGkK","stream":1,"timestamp":"1970-01-01T00:00:00.005Z","vertex":"sha256:a"}],"statuses":[{"current":3,"id":"layer","total":9,"vertex":"sha256:a"}],"vertexes":[{"cached":true,"digest":"sha256:a","inputs":["sha256:b"],"name":"[1/2] FROM x","started":"1970-01-01T00:00:00.005Z"}],"warnings":[{"level":1,"short":"dw=="}]}"#);
    }
}
