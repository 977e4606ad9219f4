//! What a daemon says about a failure beyond its message.
//!
//! The details travel in `grpc-status-details-bin` as a `google.rpc.Status` whose `Any`s hold JSON, not
//! protobuf: BuildKit writes Go structs there. Unknown and malformed details are left out, never an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde::Deserialize;

/// Sources larger than this are not worth an excerpt.
const MAX_SOURCE_BYTES: usize = 4 << 20;
/// More sources or ranges than this come from a broken daemon.
const MAX_ITEMS: usize = 64;

/// The typed details of a failed build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorDetails {
    /// Digest of the vertex that failed.
    pub vertex: Option<String>,
    /// Where in the user's files the failure lies, innermost first.
    pub sources: Vec<SourceLocation>,
    /// Exit code of the process that failed.
    pub exit_code: Option<u32>,
    /// The frontend that failed, by name.
    pub frontend: Option<String>,
}

/// A file of the user and the lines in it that a failure is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file's name, as the frontend knows it.
    pub filename: String,
    /// The whole text of the file.
    pub text: String,
    /// First and last line of each range, counted from one.
    pub ranges: Vec<LineRange>,
}

/// Lines `first..=last` of a file, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineRange {
    /// The first line.
    pub first: u32,
    /// The last line.
    pub last: u32,
}

impl ErrorDetails {
    /// Reads the bytes of `grpc-status-details-bin`.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut details = Self::default();
        let Ok(status) = cairn_proto::rpc::Status::decode(bytes) else {
            return details;
        };
        for any in status.details.iter().take(MAX_ITEMS) {
            details.add(&any.type_url, &any.value);
        }
        details
    }

    fn add(&mut self, type_url: &str, json: &[u8]) {
        match type_url.rsplit('/').next() {
            Some("errdefs.Vertex+json") => {
                if let Ok(vertex) = serde_json::from_slice::<VertexJson>(json) {
                    self.vertex.get_or_insert(vertex.digest);
                }
            }
            Some("errdefs.Source+json") => {
                if let Ok(source) = serde_json::from_slice::<SourceJson>(json) {
                    self.sources.extend(source.into_location());
                }
            }
            Some("errdefs.Frontend+json") => {
                if let Ok(frontend) = serde_json::from_slice::<FrontendJson>(json) {
                    self.frontend.get_or_insert(frontend.name);
                }
            }
            Some("gatewayapi.ExitMessage+json") => {
                if let Ok(exit) = serde_json::from_slice::<ExitJson>(json) {
                    self.exit_code.get_or_insert(exit.code);
                }
            }
            _ => {}
        }
    }
}

#[derive(Deserialize)]
struct VertexJson {
    digest: String,
}

#[derive(Deserialize)]
struct FrontendJson {
    name: String,
}

#[derive(Deserialize)]
struct ExitJson {
    #[serde(rename = "Code")]
    code: u32,
}

#[derive(Deserialize)]
struct SourceJson {
    info: Option<SourceInfoJson>,
    #[serde(default)]
    ranges: Vec<RangeJson>,
}

#[derive(Deserialize)]
struct SourceInfoJson {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct RangeJson {
    start: Option<PositionJson>,
    end: Option<PositionJson>,
}

#[derive(Deserialize, Default)]
struct PositionJson {
    #[serde(default)]
    line: i64,
}

impl SourceJson {
    fn into_location(self) -> Option<SourceLocation> {
        let info = self.info?;
        if info.data.len() > MAX_SOURCE_BYTES {
            return None;
        }
        let text = STANDARD.decode(info.data).ok()?;
        let ranges = self.ranges.into_iter().take(MAX_ITEMS);
        Some(SourceLocation {
            filename: info.filename,
            text: String::from_utf8_lossy(&text).into_owned(),
            ranges: ranges.filter_map(RangeJson::into_lines).collect(),
        })
    }
}

impl RangeJson {
    fn into_lines(self) -> Option<LineRange> {
        let first = u32::try_from(self.start?.line).ok().filter(|line| *line > 0)?;
        let last = self.end.unwrap_or_default().line;
        let last = u32::try_from(last).unwrap_or(first).max(first);
        Some(LineRange { first, last })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_proto::rpc;
    use prost_types::Any;

    use super::*;

    fn any(kind: &str, json: &str) -> Any {
        Any {
            type_url: format!("github.com/moby/buildkit/{kind}"),
            value: Bytes::copy_from_slice(json.as_bytes()).into(),
        }
    }

    fn decode(details: Vec<Any>) -> ErrorDetails {
        let status = rpc::Status {
            code: 2,
            message: "failed".into(),
            details,
        };
        ErrorDetails::decode(&status.encode_to_vec())
    }

    #[test]
    fn reads_the_details_of_a_failing_run() {
        let details = decode(vec![
            any("stack.Stack+json", r#"{"frames":[]}"#),
            any(
                "errdefs.Source+json",
                r#"{"info":{"filename":"Dockerfile","data":"RlJPTSBhClJVTiBi"},"ranges":[{"start":{"line":2},"end":{"line":2,"character":5}}]}"#,
            ),
            any("errdefs.Vertex+json", r#"{"digest":"sha256:ab"}"#),
            any("gatewayapi.ExitMessage+json", r#"{"Code":3}"#),
        ]);
        assert_eq!(
            details,
            ErrorDetails {
                vertex: Some("sha256:ab".into()),
                sources: vec![SourceLocation {
                    filename: "Dockerfile".into(),
                    text: "FROM a\nRUN b".into(),
                    ranges: vec![LineRange { first: 2, last: 2 }],
                }],
                exit_code: Some(3),
                frontend: None,
            }
        );
    }

    #[test]
    fn malformed_details_are_left_out() {
        assert_eq!(ErrorDetails::decode(b"\xff\xff\xff"), ErrorDetails::default());
        let details = decode(vec![
            any("errdefs.Vertex+json", "{"),
            any("errdefs.Source+json", r#"{"info":{"data":"%%"}}"#),
            any(
                "errdefs.Source+json",
                r#"{"info":{"data":""},"ranges":[{"start":{"line":-4}},{}]}"#,
            ),
            any("errdefs.Frontend+json", r#"{"name":"dockerfile.v0"}"#),
        ]);
        assert_eq!(details.vertex, None);
        assert_eq!(details.sources, [SourceLocation::default()]);
        assert_eq!(details.frontend.as_deref(), Some("dockerfile.v0"));
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_one_line() {
        let details = decode(vec![any(
            "errdefs.Source+json",
            r#"{"info":{"data":""},"ranges":[{"start":{"line":7},"end":{"line":2}}]}"#,
        )]);
        assert_eq!(details.sources[0].ranges, [LineRange { first: 7, last: 7 }]);
    }
}
