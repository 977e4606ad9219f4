//! Every way in which a definition can be wrong, and what is said about it.

mod exec;
mod file;
mod source;

use super::*;

/// Changes one thing about a good op and expects an error; `%` stands for the op's digest.
#[track_caller]
fn refused(op: &pb::Op, want: &str) {
    let mut ops = vec![golden(IMAGE), golden(LOCAL)];
    let bytes = Bytes::from(op.encode_to_vec());
    let digest = Digest::sha256(&bytes).to_string();
    ops.push(bytes);
    let error = decode(&definition(ops, 0)).unwrap_err().to_string();
    assert_eq!(error.replace(&digest, "%"), want);
}

fn op(kind: pb::op::Op, inputs: usize) -> pb::Op {
    let digest = Digest::sha256(&golden(IMAGE)).to_string();
    pb::Op {
        inputs: vec![pb::Input { digest, index: 0 }; inputs],
        op: Some(kind),
        ..pb::Op::default()
    }
}

fn exec(change: impl FnOnce(&mut pb::ExecOp)) -> pb::Op {
    let Some(pb::op::Op::Exec(mut exec)) = pb::Op::decode(golden(EXEC)).unwrap().op else {
        panic!("no exec")
    };
    change(&mut exec);
    op(pb::op::Op::Exec(exec), 1)
}

fn mount(change: impl FnOnce(&mut pb::Mount)) -> pb::Op {
    exec(|exec| {
        let mut mount = pb::Mount {
            dest: "/m".to_owned(),
            input: -1,
            output: -1,
            ..pb::Mount::default()
        };
        change(&mut mount);
        exec.mounts.push(mount);
    })
}

fn file(actions: Vec<pb::FileAction>) -> pb::Op {
    op(pb::op::Op::File(pb::FileOp { actions }), 1)
}

fn action(change: impl FnOnce(&mut pb::FileAction)) -> pb::FileAction {
    let mut action = pb::FileAction {
        input: 0,
        secondary_input: -1,
        output: 0,
        action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
            path: "/d".to_owned(),
            mode: 0o755,
            ..pb::FileActionMkDir::default()
        })),
    };
    change(&mut action);
    action
}

fn mkdir(change: impl FnOnce(&mut pb::FileActionMkDir)) -> pb::Op {
    file(vec![action(|action| {
        let Some(pb::file_action::Action::Mkdir(mkdir)) = &mut action.action else {
            panic!("no mkdir")
        };
        change(mkdir);
    })])
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::Op {
    let attrs = attrs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    op(
        pb::op::Op::Source(pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs.collect(),
        }),
        0,
    )
}

fn wire(def: Vec<Bytes>) -> Definition {
    Definition::from_wire(pb::Definition {
        def,
        ..pb::Definition::default()
    })
}

#[track_caller]
fn fails(definition: &Definition, want: &str) {
    assert_eq!(decode(definition).unwrap_err().to_string(), want);
}

#[test]
fn definitions() {
    let image = golden(IMAGE);
    let digest = Digest::sha256(&image).to_string();
    fails(&wire(vec![image.clone()]), "invalid LLB with 1 vertexes");
    fails(&wire(vec![Bytes::new()]), "invalid LLB with 1 vertexes");
    fails(
        &wire(vec![image.clone(), image.clone()]),
        "invalid LLB with no inputs on last vertex",
    );
    fails(
        &wire(vec![image.clone(), Bytes::new()]),
        "invalid LLB with no inputs on last vertex",
    );
    let parse = decode(&wire(vec![Bytes::from_static(b"\xff"), image.clone()])).unwrap_err();
    assert!(
        parse.to_string().starts_with("failed to parse llb proto op: "),
        "{parse}"
    );
    let parse = decode(&wire(vec![image.clone(), Bytes::from_static(b"\x0a\x05")])).unwrap_err();
    assert!(
        parse.to_string().starts_with("failed to parse llb proto op: "),
        "{parse}"
    );
    fails(
        &wire(vec![Bytes::new(); MAX_VERTICES + 1]),
        "invalid LLB with 200001 vertexes: at most 200000 are accepted",
    );
    for (asked, want) in [
        ("", "invalid missing input digest "),
        ("sha256:00", "invalid missing input digest sha256:00"),
        ("../../etc", "invalid missing input digest ../../etc"),
    ] {
        let terminal = pb::Op {
            inputs: vec![pb::Input {
                digest: asked.to_owned(),
                index: 0,
            }],
            ..pb::Op::default()
        };
        fails(&wire(vec![image.clone(), terminal.encode_to_vec().into()]), want);
    }
    let nothing = pb::Op {
        inputs: vec![pb::Input {
            digest: digest.clone(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    refused(&nothing, "invalid llb op %: no operation is given");
    // An op cannot contain its own digest; naming anything that is not there is as close as one gets.
    let loops = pb::Op {
        inputs: vec![pb::Input {
            digest: Digest::sha256(b"itself").to_string(),
            index: 0,
        }],
        ..op(pb::op::Op::Merge(pb::MergeOp::default()), 0)
    };
    refused(
        &loops,
        &format!("invalid missing input digest {}", Digest::sha256(b"itself")),
    );
}

#[test]
fn cve_2026_15792_input_indexes_out_of_range() {
    let image = Digest::sha256(&golden(IMAGE)).to_string();
    for index in [-1, 1, i64::MAX, i64::MIN] {
        fails(
            &definition(vec![golden(IMAGE)], index),
            &format!("invalid input 0 output index {index} of vertex {image}"),
        );
        let merge = pb::Op {
            inputs: vec![
                pb::Input {
                    digest: image.clone(),
                    index: 0,
                },
                pb::Input {
                    digest: image.clone(),
                    index,
                },
            ],
            op: Some(pb::op::Op::Merge(pb::MergeOp {
                inputs: vec![pb::MergeInput { input: 0 }],
            })),
            ..pb::Op::default()
        };
        refused(&merge, &format!("invalid input 1 output index {index} of vertex %"));
    }
    for index in [-2, 1, i64::MAX, i64::MIN] {
        refused(
            &mount(|mount| mount.input = index),
            &format!("invalid exec op %: mount \"/m\": missing input {index}"),
        );
        let merge = pb::MergeOp {
            inputs: vec![pb::MergeInput { input: index }],
        };
        refused(
            &op(pb::op::Op::Merge(merge), 1),
            &format!("invalid merge op %: missing input {index}"),
        );
        let pass = pb::PassthroughOp {
            id: "p".to_owned(),
            outputs: vec![index],
        };
        refused(
            &op(pb::op::Op::Passthrough(pass), 1),
            "invalid passthrough op %: an output is not one of the inputs",
        );
        let diff = pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: index }),
            upper: Some(pb::UpperDiffInput { input: 0 }),
        };
        refused(
            &op(pb::op::Op::Diff(diff), 1),
            &format!("invalid diff op %: missing lower input {index}"),
        );
    }
}

#[test]
fn cve_2026_15792_diff_without_sides() {
    let diff = |lower: Option<i64>, upper: Option<i64>| {
        let diff = pb::DiffOp {
            lower: lower.map(|input| pb::LowerDiffInput { input }),
            upper: upper.map(|input| pb::UpperDiffInput { input }),
        };
        op(pb::op::Op::Diff(diff), 1)
    };
    refused(&diff(None, None), "invalid diff op %: no lower side");
    refused(&diff(None, Some(0)), "invalid diff op %: no lower side");
    refused(&diff(Some(0), None), "invalid diff op %: no upper side");
}

/// An unknown mode must never mean "unconfined" (GHSA-7236-3392-c5c6).
#[test]
fn ghsa_7236_3392_c5c6_unknown_modes() {
    for mode in [-1, 2, i32::MAX] {
        refused(
            &exec(|exec| exec.security = mode),
            &format!("invalid exec op %: unknown security mode {mode}"),
        );
    }
    refused(
        &exec(|exec| exec.network = 3),
        "invalid exec op %: unknown network mode 3",
    );
    refused(
        &mount(|mount| mount.mount_type = 9),
        "invalid exec op %: mount \"/m\": mount type 9 not implemented",
    );
    refused(
        &mount(|mount| mount.content_cache = 3),
        "invalid exec op %: mount \"/m\": unknown content cache mode 3",
    );
    let sharing = mount(|mount| {
        mount.set_mount_type(pb::MountType::Cache);
        mount.cache_opt = Some(pb::CacheOpt {
            id: "c".to_owned(),
            sharing: 3,
        });
    });
    refused(
        &sharing,
        "invalid exec op %: mount \"/m\": invalid cache sharing option: 3",
    );
}

#[test]
fn other_ops() {
    refused(
        &op(pb::op::Op::Merge(pb::MergeOp::default()), 1),
        "invalid merge op %: no inputs",
    );
    let pass = |id: &str, outputs: Vec<i64>| {
        let id = id.to_owned();
        op(pb::op::Op::Passthrough(pb::PassthroughOp { id, outputs }), 1)
    };
    refused(&pass("", vec![0]), "invalid passthrough op %: no id");
    refused(&pass("p", vec![]), "invalid passthrough op %: no outputs");
}

#[test]
fn nested_builds() {
    let good = || pb::BuildOp {
        builder: -1,
        inputs: [("buildkit.llb.definition".to_owned(), pb::BuildInput { input: 0 })].into(),
        ..pb::BuildOp::default()
    };
    let change = |change: fn(&mut pb::BuildOp)| {
        let mut wire = good();
        change(&mut wire);
        op(pb::op::Op::Build(wire), 1)
    };
    refused(
        &change(|wire| wire.builder = 0),
        "invalid build op %: only LLB builder is currently allowed",
    );
    refused(
        &change(|wire| wire.inputs.clear()),
        "invalid build op %: no llb definition input buildkit.llb.definition found",
    );
    refused(
        &change(|wire| {
            wire.inputs.insert("x".to_owned(), pb::BuildInput { input: 1 });
        }),
        "invalid build op %: input \"x\": missing input 1",
    );
    refused(
        &change(|wire| {
            wire.attrs.insert("llbbuild.filename".to_owned(), "a\0".to_owned());
        }),
        "invalid build op %: a NUL byte in a path",
    );
    refused(
        &change(|wire| {
            wire.attrs.insert("other".to_owned(), String::new());
        }),
        "attribute \"other\" of a build op is not supported by this daemon (vertex %)",
    );
    refused(
        &change(|wire| {
            let def = vec![bytes::Bytes::new()];
            wire.def = Some(pb::Definition {
                def,
                ..pb::Definition::default()
            });
        }),
        "a definition inside of a build op is not supported by this daemon (vertex %)",
    );
}

#[test]
fn worker_constraints() {
    let with = |filter: Vec<String>| pb::Op {
        constraints: Some(pb::WorkerConstraints { filter }),
        ..op(
            pb::op::Op::Merge(pb::MergeOp {
                inputs: vec![pb::MergeInput { input: 0 }],
            }),
            1,
        )
    };
    let message = "invalid worker constraints of vertex %: at most 16 of 4096 bytes are accepted";
    refused(&with(vec![String::new(); 17]), message);
    refused(&with(vec!["x".repeat(4097)]), message);
}

#[test]
fn platforms_and_capabilities() {
    for (os, architecture, variant) in [
        ("", "amd64", ""),
        ("linux", "", ""),
        ("linux", "a/b", ""),
        ("linux", "arm", "\0"),
    ] {
        let platform = pb::Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..pb::Platform::default()
        };
        let source = pb::Op {
            platform: Some(platform),
            ..source("docker-image://a", &[])
        };
        refused(&source, "invalid platform of vertex %");
    }
    let mut wire = definition(vec![golden(IMAGE)], 0).to_wire();
    let digest = Digest::sha256(&wire.def[0]).to_string();
    wire.metadata
        .entry(digest)
        .or_default()
        .caps
        .insert("source.telepathy".to_owned(), false);
    fails(&Definition::from_wire(wire), "unknown API capability source.telepathy");
}
