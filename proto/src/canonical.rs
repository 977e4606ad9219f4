//! The byte form in which operations of the graph are identified.
//!
//! An operation's identity is a hash over its encoding, so whoever produces operations has to agree on one
//! encoding with everyone else who does. It is the one that Go programs emit, and differs from what prost
//! writes in two ways: members of a `oneof` come after all ordinary fields, and map entries always spell
//! out both key and value, even where these are empty. Map entries are sorted by key.
//!
//! Bytes that were *received* are never encoded again: they may hold fields unknown to this version.

use bytes::BufMut;
use prost::Message;
use prost::encoding::{self, WireType};

use crate::pb;

/// Encodes an operation in canonical form.
#[must_use]
pub fn encode_op(op: &pb::Op) -> Vec<u8> {
    let mut buf = Vec::with_capacity(256);
    write_op(&mut buf, op);
    buf
}

/// Encodes a definition in canonical form; its operations are taken as the bytes they are.
#[must_use]
pub fn encode_definition(definition: &pb::Definition) -> Vec<u8> {
    let mut buf = Vec::with_capacity(1024);
    write_definition(&mut buf, definition);
    buf
}

fn write_op(buf: &mut Vec<u8>, op: &pb::Op) {
    for input in &op.inputs {
        encoding::message::encode(1, input, buf);
    }
    write_option(buf, 10, op.platform.as_ref());
    write_option(buf, 11, op.constraints.as_ref());
    match &op.op {
        None => {}
        Some(pb::op::Op::Exec(exec)) => encoding::message::encode(2, exec, buf),
        Some(pb::op::Op::Source(source)) => nested(buf, 3, |buf| write_source_op(buf, source)),
        Some(pb::op::Op::File(file)) => encoding::message::encode(4, file, buf),
        Some(pb::op::Op::Build(build)) => nested(buf, 5, |buf| write_build_op(buf, build)),
        Some(pb::op::Op::Merge(merge)) => encoding::message::encode(6, merge, buf),
        Some(pb::op::Op::Diff(diff)) => encoding::message::encode(7, diff, buf),
        Some(pb::op::Op::Passthrough(pass)) => encoding::message::encode(8, pass, buf),
    }
}

fn write_source_op(buf: &mut Vec<u8>, op: &pb::SourceOp) {
    write_string(buf, 1, &op.identifier);
    for (key, value) in &op.attrs {
        string_entry(buf, 2, key, value);
    }
}

fn write_build_op(buf: &mut Vec<u8>, op: &pb::BuildOp) {
    if op.builder != 0 {
        encoding::int64::encode(1, &op.builder, buf);
    }
    for (key, value) in &op.inputs {
        entry(buf, 2, key, |buf| encoding::message::encode(2, value, buf));
    }
    if let Some(definition) = &op.def {
        nested(buf, 3, |buf| write_definition(buf, definition));
    }
    for (key, value) in &op.attrs {
        string_entry(buf, 4, key, value);
    }
}

fn write_definition(buf: &mut Vec<u8>, definition: &pb::Definition) {
    for op in &definition.def {
        encoding::bytes::encode(1, op, buf);
    }
    for (digest, metadata) in &definition.metadata {
        entry(buf, 2, digest, |buf| {
            nested(buf, 2, |buf| write_metadata(buf, metadata))
        });
    }
    if let Some(source) = &definition.source {
        nested(buf, 3, |buf| write_source(buf, source));
    }
}

fn write_metadata(buf: &mut Vec<u8>, metadata: &pb::OpMetadata) {
    if metadata.ignore_cache {
        encoding::bool::encode(1, &true, buf);
    }
    for (key, value) in &metadata.description {
        string_entry(buf, 2, key, value);
    }
    write_option(buf, 4, metadata.export_cache.as_ref());
    for (key, value) in &metadata.caps {
        entry(buf, 5, key, |buf| encoding::bool::encode(2, value, buf));
    }
    write_option(buf, 6, metadata.progress_group.as_ref());
    write_option(buf, 7, metadata.linux_resources.as_ref());
}

fn write_source(buf: &mut Vec<u8>, source: &pb::Source) {
    for (digest, locations) in &source.locations {
        entry(buf, 1, digest, |buf| encoding::message::encode(2, locations, buf));
    }
    for info in &source.infos {
        nested(buf, 2, |buf| write_source_info(buf, info));
    }
}

fn write_source_info(buf: &mut Vec<u8>, info: &pb::SourceInfo) {
    write_string(buf, 1, &info.filename);
    if !info.data.is_empty() {
        encoding::bytes::encode(2, &info.data, buf);
    }
    if let Some(definition) = &info.definition {
        nested(buf, 3, |buf| write_definition(buf, definition));
    }
    write_string(buf, 4, &info.language);
}

fn write_option<M: Message>(buf: &mut Vec<u8>, tag: u32, message: Option<&M>) {
    if let Some(message) = message {
        encoding::message::encode(tag, message, buf);
    }
}

fn write_string(buf: &mut Vec<u8>, tag: u32, value: &String) {
    if !value.is_empty() {
        encoding::string::encode(tag, value, buf);
    }
}

fn string_entry(buf: &mut Vec<u8>, tag: u32, key: &String, value: &String) {
    entry(buf, tag, key, |buf| encoding::string::encode(2, value, buf));
}

fn entry(buf: &mut Vec<u8>, tag: u32, key: &String, value: impl FnOnce(&mut Vec<u8>)) {
    nested(buf, tag, |buf| {
        encoding::string::encode(1, key, buf);
        value(buf);
    });
}

fn nested(buf: &mut Vec<u8>, tag: u32, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    encoding::encode_key(tag, WireType::LengthDelimited, buf);
    encoding::encode_varint(inner.len() as u64, buf);
    buf.put_slice(&inner);
}

#[cfg(test)]
mod tests;
