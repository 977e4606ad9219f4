//! Operations of a definition, as JSON and as text.

use cairn_proto::pb;
use prost::Message as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::ui::text::clean;

/// Each operation with its digest and what the definition says about it.
///
/// # Errors
/// A text that names the operation that cannot be decoded.
pub(super) fn describe(definition: &pb::Definition) -> Result<Vec<Value>, String> {
    let describe = |(index, bytes): (usize, &bytes::Bytes)| {
        let op = pb::Op::decode(bytes.clone()).map_err(|error| format!("operation {index}: {error}"))?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        Ok(describe_op(&op, &digest, definition))
    };
    definition.def.iter().enumerate().map(describe).collect()
}

fn describe_op(op: &pb::Op, digest: &str, definition: &pb::Definition) -> Value {
    let mut object = Map::new();
    object.insert("digest".to_owned(), digest.into());
    let inputs: Vec<Value> = op
        .inputs
        .iter()
        .map(|input| format!("{} output {}", input.digest, input.index).into())
        .collect();
    add(&mut object, "inputs", inputs.into());
    let (kind, body) = match &op.op {
        Some(pb::op::Op::Source(source)) => ("source", self::source(source)),
        Some(pb::op::Op::Exec(exec)) => ("exec", self::exec(exec)),
        Some(pb::op::Op::File(file)) => ("file", file.actions.iter().map(action).collect()),
        Some(pb::op::Op::Merge(merge)) => ("merge", merge.inputs.iter().map(|input| json!(input.input)).collect()),
        Some(pb::op::Op::Diff(diff)) => ("diff", self::diff(diff)),
        Some(pb::op::Op::Build(build)) => ("build", json!({ "builder": build.builder, "attrs": build.attrs })),
        Some(pb::op::Op::Passthrough(pass)) => ("passthrough", json!({ "id": pass.id, "outputs": pass.outputs })),
        None => ("result", Value::Null),
    };
    object.insert("op".to_owned(), kind.into());
    add(&mut object, kind, body);
    if let Some(platform) = &op.platform {
        let parts = [&platform.os, &platform.architecture, &platform.variant];
        let parts: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        add(&mut object, "platform", parts.join("/").into());
    }
    if let Some(metadata) = definition.metadata.get(digest) {
        add(&mut object, "description", json!(metadata.description));
        add(&mut object, "ignoreCache", metadata.ignore_cache.into());
    }
    add(&mut object, "lines", lines(digest, definition));
    object.into()
}

/// Nothing is said about what is not there.
fn add(object: &mut Map<String, Value>, key: &str, value: Value) {
    let absent = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(true) => false,
    };
    if !absent {
        object.insert(key.to_owned(), value);
    }
}

fn source(source: &pb::SourceOp) -> Value {
    let mut object = Map::new();
    add(&mut object, "identifier", source.identifier.as_str().into());
    add(&mut object, "attrs", json!(source.attrs));
    object.into()
}

fn exec(exec: &pb::ExecOp) -> Value {
    let mut object = Map::new();
    if let Some(meta) = &exec.meta {
        add(&mut object, "args", json!(meta.args));
        add(&mut object, "env", json!(meta.env));
        add(&mut object, "cwd", meta.cwd.as_str().into());
        add(&mut object, "user", meta.user.as_str().into());
        add(&mut object, "hostname", meta.hostname.as_str().into());
    }
    add(
        &mut object,
        "network",
        name(exec.network(), pb::NetMode::Unset, |mode| mode.as_str_name()),
    );
    add(
        &mut object,
        "security",
        name(exec.security(), pb::SecurityMode::Sandbox, |mode| mode.as_str_name()),
    );
    add(&mut object, "mounts", exec.mounts.iter().map(mount).collect());
    let secrets = exec
        .secretenv
        .iter()
        .map(|secret| format!("{} from {}", secret.name, secret.id));
    add(&mut object, "secretEnv", secrets.collect());
    object.into()
}

/// The name of an enum's value, unless it is the usual one.
fn name<T: PartialEq>(value: T, usual: T, name: impl Fn(&T) -> &'static str) -> Value {
    if value == usual {
        Value::Null
    } else {
        name(&value).to_lowercase().into()
    }
}

fn mount(mount: &pb::Mount) -> Value {
    let mut object = Map::new();
    add(&mut object, "dest", mount.dest.as_str().into());
    add(
        &mut object,
        "type",
        name(mount.mount_type(), pb::MountType::Bind, |kind| kind.as_str_name()),
    );
    object.insert("input".to_owned(), mount.input.into());
    object.insert("output".to_owned(), mount.output.into());
    add(&mut object, "selector", mount.selector.as_str().into());
    add(&mut object, "readonly", mount.readonly.into());
    if let Some(cache) = &mount.cache_opt {
        add(&mut object, "cache", cache.id.as_str().into());
        add(
            &mut object,
            "sharing",
            cache.sharing().as_str_name().to_lowercase().into(),
        );
    }
    let secret = mount.secret_opt.as_ref().map(|secret| secret.id.as_str());
    add(&mut object, "secret", secret.into());
    let ssh = mount.ssh_opt.as_ref().map(|ssh| ssh.id.as_str());
    add(&mut object, "ssh", ssh.into());
    object.into()
}

fn action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;

    let mut object = Map::new();
    match &action.action {
        Some(Action::Copy(copy)) => {
            add(&mut object, "action", "copy".into());
            add(&mut object, "src", copy.src.as_str().into());
            add(&mut object, "dest", copy.dest.as_str().into());
            add(&mut object, "include", json!(copy.include_patterns));
            add(&mut object, "exclude", json!(copy.exclude_patterns));
            add(&mut object, "unpack", copy.attempt_unpack_docker_compatibility.into());
            add(&mut object, "contentsOnly", copy.dir_copy_contents.into());
            add(&mut object, "wildcard", copy.allow_wildcard.into());
        }
        Some(Action::Mkfile(file)) => {
            add(&mut object, "action", "mkfile".into());
            add(&mut object, "path", file.path.as_str().into());
            add(&mut object, "bytes", file.data.len().into());
            add(&mut object, "mode", octal(file.mode));
        }
        Some(Action::Mkdir(dir)) => {
            add(&mut object, "action", "mkdir".into());
            add(&mut object, "path", dir.path.as_str().into());
            add(&mut object, "mode", octal(dir.mode));
            add(&mut object, "parents", dir.make_parents.into());
        }
        Some(Action::Rm(rm)) => {
            add(&mut object, "action", "rm".into());
            add(&mut object, "path", rm.path.as_str().into());
        }
        Some(Action::Symlink(link)) => {
            add(&mut object, "action", "symlink".into());
            add(&mut object, "path", link.newpath.as_str().into());
            add(&mut object, "target", link.oldpath.as_str().into());
        }
        None => add(&mut object, "action", "unknown".into()),
    }
    object.insert("input".to_owned(), action.input.into());
    if action.secondary_input >= 0 {
        object.insert("secondaryInput".to_owned(), action.secondary_input.into());
    }
    object.insert("output".to_owned(), action.output.into());
    object.into()
}

fn octal(mode: i32) -> Value {
    format!("{mode:o}").into()
}

fn diff(diff: &pb::DiffOp) -> Value {
    json!({
        "lower": diff.lower.as_ref().map(|lower| lower.input),
        "upper": diff.upper.as_ref().map(|upper| upper.input),
    })
}

/// The user's lines that an operation comes from.
fn lines(digest: &str, definition: &pb::Definition) -> Value {
    let Some(source) = &definition.source else {
        return Value::Null;
    };
    let Some(locations) = source.locations.get(digest) else {
        return Value::Null;
    };
    let place = |location: &pb::Location| {
        let info = usize::try_from(location.source_index)
            .ok()
            .and_then(|index| source.infos.get(index))?;
        let line = |position: Option<&pb::Position>| position.map_or(0, |position| position.line);
        let ranges = location.ranges.iter().map(|range| {
            format!(
                "{}:{}-{}",
                info.filename,
                line(range.start.as_ref()),
                line(range.end.as_ref())
            )
            .into()
        });
        Some(ranges.collect::<Vec<Value>>())
    };
    let places: Vec<Value> = locations.locations.iter().filter_map(place).flatten().collect();
    places.into()
}

/// One operation as indented text.
pub(super) fn readable(op: &Value) -> String {
    let mut text = String::new();
    let Value::Object(fields) = op else { return text };
    let word = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    text.push_str(&format!("{} {}\n", word("digest"), word("op")));
    for (key, value) in fields
        .iter()
        .filter(|(key, _)| !["digest", "op"].contains(&key.as_str()))
    {
        write(&mut text, key, value, 1);
    }
    text.push('\n');
    text
}

fn write(text: &mut String, key: &str, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let key = clean(key);
    match value {
        Value::Object(fields) => {
            text.push_str(&format!("{indent}{key}:\n"));
            fields
                .iter()
                .for_each(|(key, value)| write(text, key, value, depth + 1));
        }
        Value::Array(values) => {
            text.push_str(&format!("{indent}{key}:\n"));
            values.iter().for_each(|value| write_item(text, value, depth + 1));
        }
        Value::String(value) => text.push_str(&format!("{indent}{key}: {}\n", clean(value))),
        value => text.push_str(&format!("{indent}{key}: {value}\n")),
    }
}

/// An item of a list: objects on one line.
fn write_item(text: &mut String, value: &Value, depth: usize) {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), clean);
    let line = match value {
        Value::Object(fields) => {
            let words: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{}={}", clean(key), word(value)))
                .collect();
            words.join(" ")
        }
        value => word(value),
    };
    text.push_str(&format!("{}- {line}\n", "  ".repeat(depth)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> pb::Definition {
        let source = pb::Op {
            op: Some(pb::op::Op::Source(pb::SourceOp {
                identifier: "docker-image://docker.io/library/alpine:latest".into(),
                ..Default::default()
            })),
            platform: Some(pb::Platform {
                os: "linux".into(),
                architecture: "amd64".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let source = source.encode_to_vec();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&source)));
        let exec = pb::Op {
            inputs: vec![pb::Input {
                digest: digest.clone(),
                index: 0,
            }],
            op: Some(pb::op::Op::Exec(pb::ExecOp {
                meta: Some(pb::Meta {
                    args: ["/bin/sh", "-c", "make\u{1b}[2J"].map(str::to_owned).to_vec(),
                    cwd: "/src".into(),
                    ..Default::default()
                }),
                mounts: vec![pb::Mount {
                    dest: "/".into(),
                    ..Default::default()
                }],
                ..Default::default()
            })),
            ..Default::default()
        };
        let description = [("llb.customname".to_owned(), "[1/2] FROM alpine".to_owned())].into();
        pb::Definition {
            def: vec![source.into(), exec.encode_to_vec().into()],
            metadata: [(
                digest,
                pb::OpMetadata {
                    description,
                    ..Default::default()
                },
            )]
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn operations_are_readable() {
        let text: String = describe(&definition()).unwrap().iter().map(readable).collect();
        insta::assert_snapshot!(text, @r"
        sha256:d38559b5065f477264e22ac833399ba3be7c4ed02409d52d7da4abf652785031 source
          description:
            llb.customname: [1/2] FROM alpine
          platform: linux/amd64
          source:
            identifier: docker-image://docker.io/library/alpine:latest

        sha256:d3ca8f300181de34aeb7eca4842ede8054f09efcb247a8c849d488e8866623d0 exec
          exec:
            args:
              - /bin/sh
              - -c
              - make
            cwd: /src
            mounts:
              - dest=/ input=0 output=0
          inputs:
            - sha256:d38559b5065f477264e22ac833399ba3be7c4ed02409d52d7da4abf652785031 output 0
        ");
    }

    #[test]
    fn garbage_is_named() {
        let definition = pb::Definition {
            def: vec![b"\xff\xff".to_vec().into()],
            ..Default::default()
        };
        let error = describe(&definition).unwrap_err();
        assert!(error.starts_with("operation 0: "), "{error}");
    }
}
