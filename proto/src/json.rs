//! Messages of the build graph in protobuf's JSON form, for those who look at graphs. [`go`] has another form.

pub mod go;

use std::sync::OnceLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

use crate::pb;

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shown.bin"));

/// Why a message has no JSON form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to show a message of type {message} as JSON: {cause}")]
pub struct JsonError {
    message: &'static str,
    cause: String,
}

/// An encoded [`pb::Op`].
///
/// # Errors
/// If the bytes are none.
pub fn op(bytes: &[u8]) -> Result<Value, JsonError> {
    show("pb.Op", bytes)
}

/// A [`pb::Source`].
///
/// # Errors
/// Never, for what was decoded.
pub fn source(source: &pb::Source) -> Result<Value, JsonError> {
    show("pb.Source", &source.encode_to_vec())
}

fn show(message: &'static str, bytes: &[u8]) -> Result<Value, JsonError> {
    let failed = |cause: String| JsonError { message, cause };
    serde_json::to_value(decode(message, bytes)?).map_err(|error| failed(error.to_string()))
}

fn decode(message: &'static str, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
    // Taken apart when it is first needed, so it takes up no memory before.
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    let failed = |cause: String| JsonError { message, cause };
    let pool = POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string()));
    let pool = pool.as_ref().map_err(|cause| failed(cause.clone()))?;
    let descriptor = pool
        .get_message_by_name(message)
        .ok_or_else(|| failed("it is unknown".to_owned()))?;
    DynamicMessage::decode(descriptor, bytes).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operation_has_protobufs_json_form() {
        let op = pb::Op {
            inputs: vec![pb::Input {
                digest: "sha256:a".to_owned(),
                index: 0,
            }],
            op: Some(pb::op::Op::File(pb::FileOp {
                actions: vec![pb::FileAction {
                    input: 0,
                    secondary_input: -1,
                    action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
                        path: "/x".to_owned(),
                        mode: 0o755,
                        timestamp: -1,
                        ..pb::FileActionMkDir::default()
                    })),
                    ..pb::FileAction::default()
                }],
            })),
            ..pb::Op::default()
        };
        assert_eq!(
            super::op(&op.encode_to_vec()).unwrap(),
            json!({
                "inputs": [{ "digest": "sha256:a" }],
                "file": { "actions": [{ "secondaryInput": "-1", "mkdir": { "path": "/x", "mode": 493, "timestamp": "-1" } }] },
            })
        );
        assert!(super::op(b"\xff").is_err());
    }

    #[test]
    fn text_files_are_shown_in_base64() {
        let source = pb::Source {
            infos: vec![pb::SourceInfo {
                data: "FROM a".into(),
                ..pb::SourceInfo::default()
            }],
            ..pb::Source::default()
        };
        assert_eq!(
            super::source(&source).unwrap(),
            json!({ "infos": [{ "data": "RlJPTSBh" }] })
        );
    }
}
