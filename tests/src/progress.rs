//! The progress of a build, from the JSON lines that clients print.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;

/// What was told about a build so far.
#[derive(Debug, Default)]
pub struct Progress {
    vertices: Vec<Vertex>,
    numbers: BTreeMap<String, usize>,
}

/// One vertex.
#[derive(Debug, Default, Clone)]
pub struct Vertex {
    /// Its digest.
    pub digest: String,
    /// Its name, such as `[foo 2/2] RUN make`.
    pub name: String,
    /// When it was started first.
    pub started: Option<Timestamp>,
    /// When it was completed last.
    pub completed: Option<Timestamp>,
    /// Whether its result was known already.
    pub cached: bool,
    /// Why it failed.
    pub error: String,
    /// What it wrote.
    pub log: String,
}

/// When something took place.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    /// Its begin.
    pub start: Timestamp,
    /// Its end.
    pub end: Timestamp,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    vertexes: Vec<VertexMessage>,
    #[serde(default)]
    logs: Vec<LogMessage>,
}

#[derive(Deserialize)]
struct VertexMessage {
    digest: String,
    #[serde(default)]
    name: String,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
    #[serde(default)]
    cached: bool,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct LogMessage {
    vertex: String,
    #[serde(default)]
    data: String,
}

impl Progress {
    /// Reads what a client printed; what is not progress is passed over.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut progress = Self::default();
        for line in lines {
            progress.add(line);
        }
        progress
    }

    /// Reads one line; false when it tells no progress.
    pub fn add(&mut self, line: &str) -> bool {
        let Ok(message) = serde_json::from_str::<Message>(line) else {
            return false;
        };
        for told in message.vertexes {
            let vertex = self.vertex_mut(&told.digest);
            vertex.name = told.name;
            vertex.started = [vertex.started, told.started].into_iter().flatten().min();
            vertex.completed = told.completed;
            vertex.cached = told.cached;
            vertex.error = told.error;
        }
        for told in message.logs {
            let data = STANDARD.decode(told.data).unwrap_or_default();
            self.vertex_mut(&told.vertex)
                .log
                .push_str(&String::from_utf8_lossy(&data));
        }
        true
    }

    fn vertex_mut(&mut self, digest: &str) -> &mut Vertex {
        let number = *self.numbers.entry(digest.to_owned()).or_insert_with(|| {
            self.vertices.push(Vertex {
                digest: digest.to_owned(),
                ..Vertex::default()
            });
            self.vertices.len() - 1
        });
        &mut self.vertices[number]
    }

    /// All vertices, in the order in which they were first told of.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// The only vertex whose name contains `text`.
    ///
    /// # Panics
    /// If there is none, or more than one.
    pub fn vertex(&self, text: &str) -> &Vertex {
        let mut fitting = self.vertices.iter().filter(|vertex| vertex.name.contains(text));
        match (fitting.next(), fitting.next()) {
            (Some(vertex), None) => vertex,
            (None, _) => panic!("no vertex {text:?} among {:#?}", self.names()),
            _ => panic!("more than one vertex {text:?} among {:#?}", self.names()),
        }
    }

    /// The names of all vertices.
    pub fn names(&self) -> Vec<&str> {
        self.vertices.iter().map(|vertex| vertex.name.as_str()).collect()
    }

    /// The names of the Dockerfile's steps that were run rather than known, but for `FROM`.
    pub fn executed(&self) -> Vec<&str> {
        let steps = self.vertices.iter().filter(|vertex| vertex.is_step());
        let executed = steps.filter(|vertex| vertex.started.is_some() && !vertex.cached);
        executed.map(|vertex| vertex.name.as_str()).collect()
    }

    /// The names of the Dockerfile's steps that were known, but for `FROM`.
    pub fn cached(&self) -> Vec<&str> {
        let steps = self.vertices.iter().filter(|vertex| vertex.is_step());
        steps
            .filter(|vertex| vertex.cached)
            .map(|vertex| vertex.name.as_str())
            .collect()
    }
}

impl Vertex {
    /// Whether it is an instruction that makes files.
    fn is_step(&self) -> bool {
        let instruction = self.name.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        instruction.is_some_and(|(place, text)| place != "internal" && !text.to_uppercase().starts_with("FROM "))
    }

    /// When it ran.
    ///
    /// # Panics
    /// If it did not run to its end.
    pub fn interval(&self) -> Interval {
        match (self.started, self.completed) {
            (Some(start), Some(end)) => Interval { start, end },
            _ => panic!("{self:?} did not run to its end"),
        }
    }
}

impl Interval {
    /// For how long both took place at once.
    pub fn overlap(&self, other: &Self) -> Duration {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        Duration::try_from(end.duration_since(start)).unwrap_or_default()
    }

    /// From begin to end.
    pub fn length(&self) -> Duration {
        Duration::try_from(self.end.duration_since(self.start)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vertices_are_put_together_from_their_news() {
        let progress = Progress::parse([
            "some remark",
            r#"{"vertexes":[{"digest":"a","name":"[foo 1/2] RUN make","started":"2026-01-01T00:00:01Z"}]}"#,
            r#"{"logs":[{"vertex":"a","stream":1,"data":"aGkK"}]}"#,
            r#"{"vertexes":[{"digest":"b","name":"[foo 1/2] FROM x","cached":true}]}"#,
            r#"{"vertexes":[{"digest":"a","name":"[foo 1/2] RUN make","completed":"2026-01-01T00:00:03Z"}]}"#,
        ]);
        let vertex = progress.vertex("make");
        assert_eq!(
            (vertex.log.as_str(), vertex.interval().length()),
            ("hi\n", Duration::from_secs(2))
        );
        assert_eq!(progress.executed(), ["[foo 1/2] RUN make"]);
        assert!(progress.cached().is_empty());
    }

    #[test]
    fn intervals_overlap_or_not() {
        let interval = |start: i64, end: i64| Interval {
            start: Timestamp::from_second(start).unwrap(),
            end: Timestamp::from_second(end).unwrap(),
        };
        for (one, other, expected) in [
            ((0, 5), (3, 9), 2),
            ((0, 5), (5, 9), 0),
            ((0, 1), (5, 9), 0),
            ((0, 9), (2, 3), 1),
        ] {
            let overlap = interval(one.0, one.1).overlap(&interval(other.0, other.1));
            assert_eq!(overlap, Duration::from_secs(expected), "{one:?} {other:?}");
        }
    }
}
