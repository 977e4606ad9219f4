use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{encode_definition, encode_op};
use crate::pb;

/// Operations as other programs emit them, and their identities.
const VECTORS: &[(&str, &str, &str)] = &[
    (
        "image source with platform",
        "Ug4KBWFtZDY0EgVsaW51eFoAGjAKLmRvY2tlci1pbWFnZTovL2RvY2tlci5pby9saWJyYXJ5L2FscGluZTpsYXRlc3Q=",
        "a7f9733e307dd352c82d43053b783dd17bb2ec2c36214908ce393e41545c8b51",
    ),
    (
        "exec with two mounts",
        "CkkKR3NoYTI1NjphN2Y5NzMzZTMwN2RkMzUyYzgyZDQzMDUzYjc4M2RkMTdiYjJlYzJjMzYyMTQ5MDhjZTM5M2U0MTU0NWM4YjUxUg4KBWFtZDY0EgVsaW51eFoAEkUKKQoCc2gKAi1jChplY2hvIGJhZCA+IC9tYXJrZXI7IGV4aXQgNxoBL1gBEgMaAS8SEwj///////////8BGgQvbW50IAE=",
        "025c0e6200067181432c4ef063bf5707c47d0fb5a50917b0f87bb546d3dc92f0",
    ),
    (
        "local source with attributes",
        "WgAaeQoPbG9jYWw6Ly9jb250ZXh0EhoKEWxvY2FsLmZvbGxvd3BhdGhzEgVbImYiXRIqCg1sb2NhbC5zZXNzaW9uEhlpNnNwYnRqdWV3OW9hMHQ0OTlvZG1uMHg3Eh4KE2xvY2FsLnNoYXJlZGtleWhpbnQSB2NvbnRleHQ=",
        "2131be25b90edb2eb842dfb9cefed78ccf00dc0bc5b8304a4f17b27207210871",
    ),
    (
        "file copy",
        "CkkKR3NoYTI1NjoyMTMxYmUyNWI5MGVkYjJlYjg0MmRmYjljZWZlZDc4Y2NmMDBkYzBiYzViODMwNGE0ZjE3YjI3MjA3MjEwODcxWgAiNxI1CP///////////wEiKAoCL2YSAi9mIP///////////wEoATABQAFIAVABWP///////////wE=",
        "1703c76fb19070b5a41863002bc35796e914d80b8bfebff1d758bbcaf21fb03b",
    ),
    (
        "terminal",
        "CkkKR3NoYTI1NjoxNzAzYzc2ZmIxOTA3MGI1YTQxODYzMDAyYmMzNTc5NmU5MTRkODBiOGJmZWJmZjFkNzU4YmJjYWYyMWZiMDNi",
        "b1264769d5dc76e9dbd8d9b5f5d373495c86174a03fe9345c1f93805c301a70b",
    ),
];

#[test]
fn encodes_like_other_producers() {
    for (name, base64, digest) in VECTORS {
        let bytes = STANDARD.decode(base64).unwrap();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), *digest, "{name}: vector");
        let op = pb::Op::decode(bytes.as_slice()).unwrap();
        assert_eq!(encode_op(&op), bytes, "{name}");
    }
}

#[test]
fn spells_out_empty_map_values() {
    let source = pb::SourceOp {
        identifier: "x".into(),
        attrs: [("k".into(), String::new())].into(),
    };
    let op = pb::Op {
        op: Some(pb::op::Op::Source(source)),
        ..Default::default()
    };
    assert_eq!(encode_op(&op), b"\x1a\x0a\x0a\x01x\x12\x05\x0a\x01k\x12\x00");

    let build = pb::BuildOp {
        inputs: [("k".into(), pb::BuildInput { input: 0 })].into(),
        ..Default::default()
    };
    let op = pb::Op {
        op: Some(pb::op::Op::Build(build)),
        ..Default::default()
    };
    assert_eq!(encode_op(&op), b"\x2a\x07\x12\x05\x0a\x01k\x12\x00");
}

#[test]
fn definitions_survive_encoding() {
    let metadata = pb::OpMetadata {
        ignore_cache: true,
        description: [("b".into(), "2".into()), ("a".into(), String::new())].into(),
        export_cache: Some(pb::ExportCache { value: true }),
        caps: [("c".into(), false), ("d".into(), true)].into(),
        progress_group: Some(pb::ProgressGroup {
            id: "g".into(),
            name: String::new(),
            weak: true,
        }),
        linux_resources: Some(pb::LinuxResources {
            memory: 1,
            ..Default::default()
        }),
    };
    let range = pb::Range {
        start: Some(pb::Position { line: 1, character: 0 }),
        end: None,
    };
    let info = pb::SourceInfo {
        filename: "Dockerfile".into(),
        data: "FROM scratch".into(),
        definition: Some(pb::Definition {
            def: vec!["op".into()],
            ..Default::default()
        }),
        language: "Dockerfile".into(),
    };
    let locations = pb::Locations {
        locations: vec![pb::Location {
            source_index: 0,
            ranges: vec![range],
        }],
    };
    let definition = pb::Definition {
        def: vec!["one".into(), "two".into()],
        metadata: [
            ("sha256:1".into(), metadata),
            ("sha256:0".into(), pb::OpMetadata::default()),
        ]
        .into(),
        source: Some(pb::Source {
            locations: [("sha256:1".into(), locations)].into(),
            infos: vec![info],
        }),
    };
    let op = pb::Op {
        op: Some(pb::op::Op::Build(pb::BuildOp {
            builder: -1,
            def: Some(definition.clone()),
            attrs: [("k".into(), "v".into())].into(),
            inputs: [("i".into(), pb::BuildInput { input: 3 })].into(),
        })),
        ..Default::default()
    };
    assert_eq!(
        pb::Definition::decode(encode_definition(&definition).as_slice()).unwrap(),
        definition
    );
    assert_eq!(pb::Op::decode(encode_op(&op).as_slice()).unwrap(), op);
}
