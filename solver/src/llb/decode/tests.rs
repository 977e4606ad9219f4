//! What is accepted, what is refused and how that is said, and that nothing harms.

mod arbitrary;
mod malformed;

use base64::Engine as _;
use bytes::Bytes;
use cairn_proto::pb;
use proptest::prelude::*;
use prost::Message as _;

use super::super::{Builder, Op, OpMetadata, Output, SourceOp};
use std::collections::BTreeMap;

use super::*;

/// Ops as a Go client emits them, with their digests.
const IMAGE: (&str, &str) = (
    "Ug4KBWFtZDY0EgVsaW51eFoAGjAKLmRvY2tlci1pbWFnZTovL2RvY2tlci5pby9saWJyYXJ5L2FscGluZTpsYXRlc3Q=",
    "a7f9733e307dd352c82d43053b783dd17bb2ec2c36214908ce393e41545c8b51",
);
const EXEC: (&str, &str) = (
    "CkkKR3NoYTI1NjphN2Y5NzMzZTMwN2RkMzUyYzgyZDQzMDUzYjc4M2RkMTdiYjJlYzJjMzYyMTQ5MDhjZTM5M2U0MTU0NWM4YjUxUg4KBWFtZD\
     Y0EgVsaW51eFoAEkUKKQoCc2gKAi1jChplY2hvIGJhZCA+IC9tYXJrZXI7IGV4aXQgNxoBL1gBEgMaAS8SEwj///////////8BGgQvbW50IAE=",
    "025c0e6200067181432c4ef063bf5707c47d0fb5a50917b0f87bb546d3dc92f0",
);
const LOCAL: (&str, &str) = (
    "WgAaeQoPbG9jYWw6Ly9jb250ZXh0EhoKEWxvY2FsLmZvbGxvd3BhdGhzEgVbImYiXRIqCg1sb2NhbC5zZXNzaW9uEhlpNnNwYnRqdWV3OW9hMHQ\
     0OTlvZG1uMHg3Eh4KE2xvY2FsLnNoYXJlZGtleWhpbnQSB2NvbnRleHQ=",
    "2131be25b90edb2eb842dfb9cefed78ccf00dc0bc5b8304a4f17b27207210871",
);
const COPY: (&str, &str) = (
    "CkkKR3NoYTI1NjoyMTMxYmUyNWI5MGVkYjJlYjg0MmRmYjljZWZlZDc4Y2NmMDBkYzBiYzViODMwNGE0ZjE3YjI3MjA3MjEwODcxWgAiNxI1CP//\
     /////////wEiKAoCL2YSAi9mIP///////////wEoATABQAFIAVABWP///////////wE=",
    "1703c76fb19070b5a41863002bc35796e914d80b8bfebff1d758bbcaf21fb03b",
);
const TERMINAL: (&str, &str) = (
    "CkkKR3NoYTI1NjoxNzAzYzc2ZmIxOTA3MGI1YTQxODYzMDAyYmMzNTc5NmU5MTRkODBiOGJmZWJmZjFkNzU4YmJjYWYyMWZiMDNi",
    "b1264769d5dc76e9dbd8d9b5f5d373495c86174a03fe9345c1f93805c301a70b",
);

fn golden((text, hex): (&str, &str)) -> Bytes {
    let bytes = base64::prelude::BASE64_STANDARD.decode(text).unwrap();
    assert_eq!(Digest::sha256(&bytes).hex(), hex);
    bytes.into()
}

/// A definition of ops, in any order, and a terminal that asks for an output of the last.
fn definition(ops: Vec<Bytes>, index: i64) -> Definition {
    let terminal = pb::Op {
        inputs: vec![pb::Input {
            digest: ops.last().map(|op| Digest::sha256(op).to_string()).unwrap_or_default(),
            index,
        }],
        ..pb::Op::default()
    };
    let mut def = ops;
    def.push(terminal.encode_to_vec().into());
    Definition::from_wire(pb::Definition {
        def,
        ..pb::Definition::default()
    })
}

/// Builds a graph anew from what it was decoded to.
fn rebuild(graph: &Graph) -> Definition {
    let mut builder = Builder::new();
    let mut outputs: BTreeMap<NodeIndex, Output> = BTreeMap::new();
    for index in graph.topological() {
        let vertex = graph.vertex(index);
        let inputs: Vec<Output> = vertex
            .inputs
            .iter()
            .map(|edge| outputs[&edge.vertex].sibling(edge.output))
            .collect();
        let output = builder.op(
            vertex.op.clone(),
            &inputs,
            vertex.platform.as_deref(),
            OpMetadata::clone(&vertex.metadata),
        );
        outputs.insert(index, output);
    }
    let target = graph.target();
    builder.finish(outputs[&target.vertex].sibling(target.output))
}

#[test]
fn what_go_clients_emit_is_read_and_written_to_the_same_digests() {
    let exec = definition(vec![golden(IMAGE), golden(EXEC)], 1);
    let graph = decode(&exec).unwrap().unwrap();
    let Op::Exec(op) = &graph.vertex(graph.target().vertex).op else {
        panic!("no exec")
    };
    assert_eq!(op.args, ["sh", "-c", "echo bad > /marker; exit 7"]);
    assert!(op.remove_mount_stubs_recursive);
    assert_eq!((op.mounts[0].input, op.mounts[0].output), (Some(0), Some(0)));
    assert_eq!((op.mounts[1].input, op.mounts[1].output), (None, Some(1)));
    assert_eq!(rebuild(&graph).to_wire().def, exec.to_wire().def);

    let copy = Definition::from_wire(pb::Definition {
        def: vec![golden(LOCAL), golden(COPY), golden(TERMINAL)],
        ..pb::Definition::default()
    });
    let graph = decode(&copy).unwrap().unwrap();
    let [local] = graph.vertex(graph.target().vertex).inputs[..] else {
        panic!("one input")
    };
    let Op::Source(SourceOp::Local(local)) = &graph.vertex(local.vertex).op else {
        panic!("no local source")
    };
    assert_eq!(local.follow_paths, ["f"]);
    assert_eq!(rebuild(&graph).to_wire().def, copy.to_wire().def);
}

#[test]
fn secrets_and_agents_have_no_outputs_whatever_clients_write() {
    let Some(pb::op::Op::Exec(mut exec)) = pb::Op::decode(golden(EXEC)).unwrap().op else {
        panic!("no exec")
    };
    // Clients written in Go leave the output of these as it is, which is that of the root.
    for kind in [pb::MountType::Secret, pb::MountType::Ssh, pb::MountType::Tmpfs] {
        exec.mounts.push(pb::Mount {
            dest: format!("/{kind:?}"),
            input: -1,
            mount_type: kind.into(),
            secret_opt: Some(pb::SecretOpt::default()),
            ..pb::Mount::default()
        });
    }
    let op = pb::Op {
        inputs: vec![pb::Input {
            digest: Digest::sha256(&golden(IMAGE)).to_string(),
            index: 0,
        }],
        op: Some(pb::op::Op::Exec(exec)),
        ..pb::Op::default()
    };
    let graph = decode(&definition(vec![golden(IMAGE), op.encode_to_vec().into()], 1))
        .unwrap()
        .unwrap();
    let Op::Exec(op) = &graph.vertex(graph.target().vertex).op else {
        panic!("no exec")
    };
    let outputs: Vec<_> = op.mounts.iter().map(|mount| mount.output).collect();
    assert_eq!(outputs, [Some(0), Some(1), None, None, None]);
    let pb::op::Op::Exec(exec) = pb::Op::decode(&*rebuild(&graph).to_wire().def[1]).unwrap().op.unwrap() else {
        panic!("no exec")
    };
    let outputs: Vec<_> = exec.mounts.iter().map(|mount| mount.output).collect();
    assert_eq!(outputs, [0, 1, 0, 0, -1], "as those clients write it");
}

/// Sources as a Go client writes them: constraints, then identifier and attributes in the order of their names.
#[test]
fn sources_are_written_to_the_bytes_they_were_read_from() {
    let digest = format!("sha256:{}", "5e".repeat(32));
    let bundle = format!("oci-layout+blob://a/b@{digest}");
    for (identifier, attributes, want) in [
        (
            "https://example.com/d/file.txt?x=1",
            vec![
                ("http.checksum", digest.as_str()),
                ("http.filename", "name"),
                ("http.gid", "5"),
                ("http.header.accept", "text/plain"),
                ("http.perm", "0755"),
                ("http.uid", "1000"),
            ],
            SourceOp::Http(super::super::HttpSource {
                url: "https://example.com/d/file.txt?x=1".to_owned(),
                checksum: Some(Digest::parse(&digest).unwrap()),
                filename: "name".to_owned(),
                mode: Some(0o755),
                uid: 1000,
                gid: 5,
                auth_header_secret: String::new(),
                headers: [("accept".to_owned(), "text/plain".to_owned())].into(),
                signature: None,
            }),
        ),
        (
            "git://example.com/r.git#v1",
            vec![
                ("git.bundle", bundle.as_str()),
                ("git.checkoutbundle", "true"),
                ("git.checksum", "0123"),
                ("git.sig.ignoresignedtag", "true"),
                ("git.sig.pubkey", "key"),
                ("git.sig.rejectexpired", "true"),
                ("oci.session", "s"),
                ("oci.store", "store"),
            ],
            SourceOp::Git(super::super::GitSource {
                repository: "example.com/r.git".to_owned(),
                reference: "v1".to_owned(),
                checksum: "0123".to_owned(),
                signers: Some(super::super::GitSigners {
                    keys: "key".to_owned(),
                    reject_expired: true,
                    require_tag: false,
                    ignore_tag: true,
                }),
                bundle: Some(super::super::BlobSource {
                    reference: format!("a/b@{digest}"),
                    layout: Some(super::super::BlobLayout {
                        session: Some("s".to_owned()),
                        store: "store".to_owned(),
                    }),
                    ..super::super::BlobSource::default()
                }),
                as_bundle: true,
                ..super::super::GitSource::default()
            }),
        ),
        (
            &format!("oci-layout://docker.io/library/store@{digest}"),
            vec![("oci.layerlimit", "2"), ("oci.session", "s"), ("oci.store", "store")],
            SourceOp::OciLayout(super::super::OciLayoutSource {
                reference: format!("docker.io/library/store@{digest}"),
                session: Some("s".to_owned()),
                store: "store".to_owned(),
                layer_limit: Some(2),
                checksum: None,
            }),
        ),
    ] {
        let field = |tag: u8, data: &[u8]| {
            let mut bytes = vec![tag];
            prost::encode_length_delimiter(data.len(), &mut bytes).unwrap();
            [&bytes, data].concat()
        };
        let mut source = field(0x0a, identifier.as_bytes());
        for (name, value) in attributes {
            let entry = [field(0x0a, name.as_bytes()), field(0x12, value.as_bytes())].concat();
            source.extend(field(0x12, &entry));
        }
        let op = [field(0x5a, b""), field(0x1a, &source)].concat();
        let definition = definition(vec![op.into()], 0);
        let graph = decode(&definition).unwrap().unwrap();
        let vertex = graph.vertex(graph.target().vertex);
        assert_eq!(vertex.op, Op::Source(want));
        assert_eq!(&*graph.name(graph.target().vertex), identifier);
        assert_eq!(rebuild(&graph).to_wire().def, definition.to_wire().def);
    }
}

#[test]
fn the_order_of_ops_does_not_matter_and_what_is_not_asked_for_is_left_out() {
    let extra = pb::Op {
        platform: None,
        ..pb::Op::decode(golden(IMAGE)).unwrap()
    };
    let mut wire = definition(vec![golden(IMAGE), golden(EXEC)], 0).to_wire();
    wire.def.swap(0, 1);
    wire.def.insert(0, extra.encode_to_vec().into());
    let graph = decode(&Definition::from_wire(wire)).unwrap().unwrap();
    assert_eq!(graph.len(), 2);
    assert!(!graph.is_empty());
}

#[test]
fn scratch_is_a_definition_without_ops() {
    assert!(decode(&Definition::default()).unwrap().is_none());
}

#[test]
fn equal_inputs_twice_and_ops_twice_are_fine() {
    let image = golden(IMAGE);
    let digest = Digest::sha256(&image).to_string();
    let input = pb::Input { digest, index: 0 };
    let merge = pb::Op {
        inputs: vec![input.clone(), input],
        op: Some(pb::op::Op::Merge(pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
        })),
        ..pb::Op::default()
    };
    let graph = decode(&definition(vec![image.clone(), image, merge.encode_to_vec().into()], 0))
        .unwrap()
        .unwrap();
    assert_eq!(graph.len(), 2);
    assert_eq!(graph.vertex(graph.target().vertex).inputs.len(), 2);
}

#[test]
fn a_chain_of_20_000_is_read_without_a_deep_stack() {
    let mut builder = Builder::new();
    let op = Op::Passthrough {
        id: "x".to_owned(),
        outputs: vec![0],
    };
    let source = SourceOp::Local(super::super::LocalSource {
        name: "context".to_owned(),
        ..Default::default()
    });
    let mut last = builder.source(source, None, OpMetadata::default());
    for _ in 0..20_000 {
        last = builder.op(op.clone(), &[last], None, OpMetadata::default());
    }
    assert_eq!(decode(&builder.finish(last)).unwrap().unwrap().len(), 20_001);
}

#[test]
fn merges_and_differences_are_named_after_their_inputs() {
    let mut builder = Builder::new();
    let local = |builder: &mut Builder, name: &str| {
        let source = super::super::LocalSource {
            name: name.to_owned(),
            ..Default::default()
        };
        builder.source(SourceOp::Local(source), None, OpMetadata::default())
    };
    let name = |builder: &Builder, output| {
        let graph = decode(&builder.finish(output)).unwrap().unwrap();
        graph.name(graph.target().vertex)
    };
    let (a, b) = (local(&mut builder, "a"), local(&mut builder, "b"));
    let merge = builder.merge(&[a, b], None, OpMetadata::default());
    let from_scratch = builder.op(
        Op::Diff {
            lower: None,
            upper: Some(0),
        },
        &[merge],
        None,
        OpMetadata::default(),
    );
    let custom = builder.merge(&[from_scratch, a], None, OpMetadata::named("both".to_owned()));
    let to_scratch = builder.op(
        Op::Diff {
            lower: Some(0),
            upper: None,
        },
        &[custom],
        None,
        OpMetadata::default(),
    );
    for (output, want) in [
        (merge, "merge (local://a, local://b)"),
        (from_scratch, "diff scratch -> (merge (local://a, local://b))"),
        (custom, "both"),
        (to_scratch, "diff (both) -> scratch"),
    ] {
        assert_eq!(&*name(&builder, output), want);
    }
    // Doubles each time, were it not for a limit.
    let mut doubled = merge;
    for _ in 0..1000 {
        doubled = builder.merge(&[doubled, doubled], None, OpMetadata::default());
    }
    let clipped = name(&builder, doubled);
    assert!(clipped.len() < 600 && clipped.starts_with("merge (merge (") && clipped.ends_with('…'));
}

#[test]
fn source_maps_lead_to_places_and_what_is_out_of_place_in_them_is_left_out() {
    let mut wire = definition(vec![golden(IMAGE)], 0).to_wire();
    let digest = Digest::sha256(&wire.def[0]);
    let location = |file| pb::Location {
        source_index: file,
        ranges: vec![pb::Range {
            start: Some(pb::Position { line: 3, character: -1 }),
            end: None,
        }],
    };
    let locations = pb::Locations {
        locations: vec![location(0), location(1), location(-1)],
    };
    wire.source = Some(pb::Source {
        infos: vec![pb::SourceInfo {
            filename: "Dockerfile".to_owned(),
            ..pb::SourceInfo::default()
        }],
        locations: [
            (digest.to_string(), locations.clone()),
            ("nonsense".to_owned(), locations),
        ]
        .into(),
    });
    let graph = decode(&Definition::from_wire(wire)).unwrap().unwrap();
    let places = &graph.source_map().locations;
    assert_eq!(places.len(), 1);
    assert_eq!(places[&digest].len(), 1);
    let range = places[&digest][0].ranges[0];
    assert_eq!((range.start_line, range.start_character, range.end_line), (3, 0, 3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_harmless(ops in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..6)) {
        let def = ops.into_iter().map(Bytes::from).collect();
        drop(decode(&Definition::from_wire(pb::Definition { def, ..pb::Definition::default() })));
    }

    #[test]
    fn damaged_ops_are_harmless(
        op in 0_usize..4,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        index in prop_oneof![Just(0_i64), -2_i64..3, any::<i64>()],
    ) {
        let mut bytes = golden([IMAGE, EXEC, LOCAL, COPY][op]).to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(3) == 0 {
            let len = cut.index(bytes.len());
            bytes.truncate(len);
        }
        let ops = vec![golden(IMAGE), golden(LOCAL), bytes.into()];
        let definition = definition(ops, index);
        if let Ok(Some(graph)) = decode(&definition) {
            // What is accepted can be named, written and read again.
            for vertex in graph.topological() {
                drop(graph.name(vertex));
            }
            let again = decode(&rebuild(&graph)).unwrap().unwrap();
            prop_assert_eq!(again.len(), graph.len());
        }
    }

    #[test]
    fn graphs_survive_writing_and_reading(graph in arbitrary::graph()) {
        let definition = graph.definition();
        let decoded = decode(&definition).unwrap().unwrap();
        for step in &graph.steps {
            let mut vertices = decoded.topological().map(|index| decoded.vertex(index));
            let vertex = vertices.find(|vertex| vertex.digest == step.output.vertex());
            let Some(vertex) = vertex else { continue };
            prop_assert_eq!(&vertex.op, &step.op);
            prop_assert_eq!(&*vertex.metadata, &step.metadata);
            prop_assert_eq!(vertex.platform.as_deref(), step.platform.as_ref());
            prop_assert_eq!(vertex.inputs.len(), step.inputs.len());
            for (edge, input) in vertex.inputs.iter().zip(&step.inputs) {
                prop_assert_eq!(decoded.vertex(edge.vertex).digest, input.vertex());
            }
        }
        prop_assert_eq!(rebuild(&decoded).to_wire().def.len(), definition.to_wire().def.len());
    }

    #[test]
    fn messages_with_random_numbers_are_harmless(op in arbitrary::wild_op(), index in -1_i64..3) {
        let ops = vec![golden(IMAGE), golden(LOCAL), op.encode_to_vec().into()];
        let definition = definition(ops, index);
        if let Ok(Some(graph)) = decode(&definition) {
            let again = decode(&rebuild(&graph)).unwrap().unwrap();
            prop_assert_eq!(&again.vertex(again.target().vertex).op, &graph.vertex(graph.target().vertex).op);
        }
    }
}
