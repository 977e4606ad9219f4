//! Messages of the build graph in the JSON form of Go programs, which differs from protobuf's own: fields have the names
//! of the `.proto` files, numbers are numbers, and what is one of several is in an object of its own.
//!
//! Statements about builds contain this form.

use base64::Engine as _;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, ReflectMessage as _, Value as Field};
use serde_json::{Map, Value};

use super::{JsonError, decode};
use crate::pb;

/// Fields that are written even if they are zero, by message.
const ALWAYS: &[(&str, &[&str])] = &[("pb.FileAction", &["input", "secondaryInput", "output"])];
/// Objects of alternatives, which are there even if none was chosen, by message.
const ALTERNATIVES: &[(&str, &str)] = &[("pb.Op", "Op"), ("pb.FileAction", "Action"), ("pb.UserOpt", "User")];
/// A field of these has another name.
const RENAMED: &[(&str, &str)] = &[("byID", "byId")];

/// An encoded [`pb::Op`].
///
/// # Errors
/// If the bytes are none.
pub fn op(bytes: &[u8]) -> Result<Value, JsonError> {
    Ok(object(&decode("pb.Op", bytes)?))
}

/// Places in a user's files.
///
/// # Errors
/// Never, for what was decoded.
pub fn locations(locations: &pb::Locations) -> Result<Value, JsonError> {
    Ok(object(&decode("pb.Locations", &locations.encode_to_vec())?))
}

fn object(message: &DynamicMessage) -> Value {
    let descriptor = message.descriptor();
    let of = |name: &str| name == descriptor.full_name();
    let mut object = Map::new();
    for (_, fields) in ALWAYS.iter().filter(|(name, _)| of(name)) {
        object.extend(fields.iter().map(|&field| (field.to_owned(), Value::from(0))));
    }
    let alternatives = ALTERNATIVES.iter().find(|(name, _)| of(name)).map(|(_, key)| *key);
    let mut chosen = Map::new();
    for (field, value) in message.fields() {
        let (name, value) = (name_of(&field), json(value));
        if alternatives.is_some() && field.containing_oneof().is_some() {
            // Of a number that is zero, only the object is left.
            chosen.extend((value != 0).then_some((name, value)));
        } else {
            object.insert(name, value);
        }
    }
    if let Some(key) = alternatives {
        object.insert(key.to_owned(), Value::Object(chosen));
    }
    Value::Object(object)
}

fn name_of(field: &FieldDescriptor) -> String {
    let renamed = RENAMED.iter().find(|(name, _)| *name == field.name());
    renamed.map_or(field.name(), |(_, other)| other).to_owned()
}

fn json(field: &Field) -> Value {
    match field {
        Field::Bool(value) => (*value).into(),
        Field::I32(value) | Field::EnumNumber(value) => (*value).into(),
        Field::I64(value) => (*value).into(),
        Field::U32(value) => (*value).into(),
        Field::U64(value) => (*value).into(),
        Field::F32(value) => (*value).into(),
        Field::F64(value) => (*value).into(),
        Field::String(value) => value.as_str().into(),
        Field::Bytes(value) => base64::engine::general_purpose::STANDARD.encode(value).into(),
        Field::Message(message) => object(message),
        Field::List(list) => list.iter().map(json).collect(),
        Field::Map(map) => {
            let pairs = map.iter().map(|(key, value)| (text(key), json(value)));
            Value::Object(pairs.collect())
        }
    }
}

fn text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn alternatives_are_objects_and_numbers_numbers() {
        let copy = pb::FileActionCopy {
            src: "/a".to_owned(),
            dest: "/b".to_owned(),
            mode: -1,
            owner: Some(pb::ChownOpt {
                user: Some(pb::UserOpt {
                    user: Some(pb::user_opt::User::ById(7)),
                }),
                group: None,
            }),
            ..pb::FileActionCopy::default()
        };
        let op = pb::Op {
            op: Some(pb::op::Op::File(pb::FileOp {
                actions: vec![pb::FileAction {
                    secondary_input: 1,
                    action: Some(pb::file_action::Action::Copy(copy)),
                    ..pb::FileAction::default()
                }],
            })),
            platform: Some(pb::Platform {
                os: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                ..pb::Platform::default()
            }),
            ..pb::Op::default()
        };
        let copy = json!({ "src": "/a", "dest": "/b", "mode": -1, "owner": { "user": { "User": { "byId": 7 } } } });
        assert_eq!(
            super::op(&op.encode_to_vec()).unwrap(),
            json!({
                "Op": { "file": { "actions": [
                    { "input": 0, "secondaryInput": 1, "output": 0, "Action": { "copy": copy } },
                ] } },
                "platform": { "Architecture": "amd64", "OS": "linux" },
            })
        );
        assert_eq!(super::op(b"").unwrap(), json!({ "Op": {} }));
        let root = pb::UserOpt {
            user: Some(pb::user_opt::User::ById(0)),
        };
        let root = object(&decode("pb.UserOpt", &root.encode_to_vec()).unwrap());
        assert_eq!(root, json!({ "User": {} }));
    }

    #[test]
    fn ids_keep_the_names_of_the_description() {
        let secret = pb::Mount {
            input: -1,
            dest: "/run/secrets/s".to_owned(),
            output: -1,
            mount_type: pb::MountType::Secret.into(),
            secret_opt: Some(pb::SecretOpt {
                id: "s".to_owned(),
                optional: true,
                ..pb::SecretOpt::default()
            }),
            ..pb::Mount::default()
        };
        let op = pb::Op {
            op: Some(pb::op::Op::Exec(pb::ExecOp {
                mounts: vec![secret],
                network: pb::NetMode::Host.into(),
                ..pb::ExecOp::default()
            })),
            ..pb::Op::default()
        };
        let mount = json!({
            "input": -1, "dest": "/run/secrets/s", "output": -1, "mountType": 1,
            "secretOpt": { "ID": "s", "optional": true },
        });
        assert_eq!(
            super::op(&op.encode_to_vec()).unwrap(),
            json!({ "Op": { "exec": { "mounts": [mount], "network": 1 } } })
        );
    }

    #[test]
    fn places_leave_zeros_out() {
        let place = pb::Location {
            ranges: vec![pb::Range {
                start: Some(pb::Position { line: 2, character: 0 }),
                end: Some(pb::Position { line: 3, character: 0 }),
            }],
            ..pb::Location::default()
        };
        let locations = pb::Locations { locations: vec![place] };
        assert_eq!(
            super::locations(&locations).unwrap(),
            json!({ "locations": [{ "ranges": [{ "start": { "line": 2 }, "end": { "line": 3 } }] }] })
        );
    }
}
