//! Definitions as lists of steps.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use bytes::Bytes;
use cairn_proto::json::{JsonError, go};
use cairn_proto::pb;
use cairn_solver::Digest;
use cairn_solver::llb::Definition;
use prost::Message as _;
use serde_json::Value;

use super::predicate::{BuildConfig, Source, SourceFile, Step};
use crate::history::conceal;

/// Attributes of sources that differ for every client.
const OF_THE_CLIENT: &[&str] = &["local.session", "local.unique"];

/// A definition as steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) config: BuildConfig,
    /// The steps' places, by their digests.
    pub(super) places: HashMap<Digest, usize>,
}

/// The steps of a definition, inputs before what uses them, and last what asks for the result.
///
/// # Errors
/// If an op is none.
pub(super) fn steps(ops: &[Bytes]) -> Result<Steps, JsonError> {
    let encoded: HashMap<Digest, &Bytes> = ops.iter().map(|bytes| (Digest::sha256(bytes), bytes)).collect();
    let Some(last) = ops.last() else {
        return Ok(Steps::default());
    };
    let mut made = Steps::default();
    // No recursion: graphs are deep. An op is met a second time once all of its inputs have their places.
    let mut pending = vec![(Digest::sha256(last), false)];
    while let Some((digest, has_inputs)) = pending.pop() {
        let Some(bytes) = encoded.get(&digest).filter(|_| !made.places.contains_key(&digest)) else {
            continue;
        };
        let inputs = inputs(bytes);
        if !has_inputs {
            pending.push((digest, true));
            let missing = inputs.iter().rev().map(|(input, _)| (*input, false));
            pending.extend(missing.filter(|(input, _)| !made.places.contains_key(input)));
            continue;
        }
        let place = made.config.llb_definition.len();
        let inputs = inputs.iter().filter_map(|(input, output)| {
            let place = made.places.get(input)?;
            Some(format!("{}:{output}", name(*place)))
        });
        made.config.llb_definition.push(Step {
            id: name(place),
            op: op(bytes)?,
            inputs: inputs.collect(),
            resource_usage: None,
        });
        made.places.insert(digest, place);
        made.config.digest_mapping.insert(digest.to_string(), name(place));
    }
    Ok(made)
}

/// What a step is called.
pub(super) fn name(place: usize) -> String {
    format!("step{place}")
}

/// The files that a definition comes from, and where in them; `None` if it does not say.
///
/// # Errors
/// If an op of how a file was read is none.
pub(super) fn source(definition: &Definition, steps: &Steps) -> Result<Option<Source>, JsonError> {
    let Some(source) = definition.source().filter(|source| !source.infos.is_empty()) else {
        return Ok(None);
    };
    let mut locations = BTreeMap::new();
    for (digest, places) in &source.locations {
        let place = Digest::parse(digest).ok().and_then(|digest| steps.places.get(&digest));
        if let Some(place) = place {
            locations.insert(name(*place), go::locations(places)?);
        }
    }
    let infos = source.infos.iter().map(file);
    Ok(Some(Source {
        locations,
        infos: infos.collect::<Result<_, _>>()?,
    }))
}

fn file(info: &pb::SourceInfo) -> Result<SourceFile, JsonError> {
    let ops = info.definition.as_ref().map_or(&[][..], |definition| &definition.def);
    Ok(SourceFile {
        filename: info.filename.clone(),
        language: info.language.clone(),
        data: base64::engine::general_purpose::STANDARD.encode(&info.data),
        steps: steps(ops)?.config,
    })
}

/// The inputs of an op, and which of their outputs.
fn inputs(bytes: &Bytes) -> Vec<(Digest, i64)> {
    // What is no op is found out when it is shown.
    let op = pb::Op::decode(bytes.clone()).unwrap_or_default();
    let inputs = op.inputs.iter();
    inputs
        .filter_map(|input| Some((Digest::parse(&input.digest).ok()?, input.index)))
        .collect()
}

/// An op without its inputs, without what differs for every client, and without passwords.
fn op(bytes: &Bytes) -> Result<Value, JsonError> {
    let mut op = go::op(bytes)?;
    if let Some(op) = op.as_object_mut() {
        op.remove("inputs");
    }
    if let Some(source) = op.pointer_mut("/Op/source") {
        if let Some(attrs) = source.get_mut("attrs").and_then(Value::as_object_mut) {
            attrs.retain(|name, _| !OF_THE_CLIENT.contains(&name.as_str()));
        }
        if source
            .get("attrs")
            .is_some_and(|attrs| attrs.as_object().is_some_and(|attrs| attrs.is_empty()))
        {
            source.as_object_mut().and_then(|source| source.remove("attrs"));
        }
        conceal_all(source);
    }
    if let Some(proxy) = op.pointer_mut("/Op/exec/meta/proxy_env") {
        conceal_all(proxy);
    }
    Ok(op)
}

/// Takes the passwords out of all addresses in an object.
fn conceal_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = conceal(text),
        Value::Object(fields) => fields.values_mut().for_each(conceal_all),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use cairn_solver::llb::{Builder, HttpSource, LocalSource, OpMetadata, SourceOp};
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_come_before_what_uses_them() {
        let mut builder = Builder::new();
        let local = LocalSource {
            name: "context".to_owned(),
            session: Some("s".to_owned()),
            unique: "u".to_owned(),
            ..LocalSource::default()
        };
        let local = builder.source(SourceOp::Local(local), None, OpMetadata::default());
        let http = HttpSource {
            url: "https://me:secret@example.com/f".to_owned(),
            ..HttpSource::default()
        };
        let http = builder.source(SourceOp::Http(http), None, OpMetadata::default());
        let merged = builder.merge(&[http, local, http], None, OpMetadata::default());
        let definition = builder.finish(merged);
        let steps = steps(definition.ops()).unwrap();
        let shown: Vec<_> = steps
            .config
            .llb_definition
            .iter()
            .map(|step| json!([step.id, step.inputs]))
            .collect();
        assert_eq!(
            json!(shown),
            json!([
                ["step0", []],
                ["step1", []],
                ["step2", ["step0:0", "step1:0", "step0:0"]],
                ["step3", ["step2:0"]]
            ])
        );
        let op = |step: usize| &steps.config.llb_definition[step].op["Op"];
        assert_eq!(op(0)["source"]["identifier"], "https://xxxxx@example.com/f");
        assert_eq!(*op(1), json!({ "source": { "identifier": "local://context" } }));
        assert_eq!(*op(3), json!({}));
        assert_eq!(steps.config.digest_mapping.len(), 4);
    }

    #[test]
    fn nothing_has_no_steps() {
        assert_eq!(steps(&[]).unwrap().config, BuildConfig::default());
        assert!(steps(&[Bytes::from_static(b"\xff")]).is_err());
    }
}
