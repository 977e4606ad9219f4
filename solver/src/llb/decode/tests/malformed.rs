//! Every way in which a definition can be wrong, and what is said about it.

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
        "invalid exec op %: mount \"/m\": unknown mount type 9",
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
    refused(&sharing, "invalid exec op %: mount \"/m\": unknown sharing mode 3");
}

#[test]
fn execs() {
    refused(&exec(|exec| exec.meta = None), "invalid exec op %: no meta");
    let meta = |change: fn(&mut pb::Meta)| exec(|exec| change(exec.meta.as_mut().unwrap()));
    refused(&meta(|meta| meta.args.clear()), "invalid exec op %: no arguments");
    refused(
        &meta(|meta| meta.args[0] = "a\0".to_owned()),
        "invalid exec op %: a NUL byte in \"a\\0\"",
    );
    refused(
        &meta(|meta| meta.env.push("\0".to_owned())),
        "invalid exec op %: a NUL byte in \"\\0\"",
    );
    refused(
        &meta(|meta| meta.user = "\0".to_owned()),
        "invalid exec op %: a NUL byte in \"\\0\"",
    );
    refused(
        &meta(|meta| meta.cwd = "/\0".to_owned()),
        "invalid exec op %: a NUL byte in \"/\\0\"",
    );
    refused(
        &meta(|meta| meta.cwd = "src".to_owned()),
        "invalid exec op %: working directory \"src\" is not absolute",
    );
    let host = |host: &str, ip: &str| {
        exec(|exec| {
            exec.meta.as_mut().unwrap().extra_hosts.push(pb::HostIp {
                host: host.to_owned(),
                ip: ip.to_owned(),
            });
        })
    };
    refused(&host("a", "1.2.3"), "invalid exec op %: \"1.2.3\" is no IP address");
    refused(
        &host("a\n6.6.6.6 b", "::1"),
        "invalid exec op %: \"a\\n6.6.6.6 b\" is no host name",
    );
    let secret = |name: &str| {
        exec(|exec| {
            exec.secretenv.push(pb::SecretEnv {
                id: "s".to_owned(),
                name: name.to_owned(),
                optional: false,
            });
        })
    };
    refused(&secret(""), "invalid exec op %: \"\" is no variable name");
    refused(&secret("A=B"), "invalid exec op %: \"A=B\" is no variable name");
}

#[test]
fn mounts() {
    refused(&exec(|exec| exec.mounts.clear()), "invalid exec op %: no mounts");
    refused(
        &exec(|exec| exec.mounts[0].dest = "/x".to_owned()),
        "invalid exec op %: no rootfs",
    );
    for root in ["/", "//", "/./"] {
        refused(
            &exec(|exec| exec.mounts[1].dest = root.to_owned()),
            "invalid exec op %: more than one mount at /",
        );
    }
    refused(
        &exec(|exec| {
            exec.mounts[0].set_mount_type(pb::MountType::Tmpfs);
            exec.mounts[0].output = -1;
        }),
        "invalid exec op %: the mount at / is no bind mount",
    );
    refused(
        &exec(|exec| exec.mounts = vec![exec.mounts[0].clone(); MAX_MOUNTS_PLUS_ONE]),
        "invalid exec op %: 1025 mounts: at most 1024 are accepted",
    );
    refused(
        &exec(|exec| exec.mounts[1].output = 0),
        "invalid exec op %: duplicate output 0",
    );
    refused(
        &exec(|exec| exec.mounts[1].output = 2),
        "invalid exec op %: missing output index 1",
    );
    refused(
        &exec(|exec| exec.mounts.iter_mut().for_each(|mount| mount.output = -1)),
        "invalid exec op %: no outputs specified",
    );
    refused(
        &exec(|exec| exec.mounts[1].output = -2),
        "invalid exec op %: mount \"/mnt\": output -2",
    );
    refused(
        &mount(|mount| mount.dest.clear()),
        "invalid exec op %: mount \"\": no destination",
    );
    refused(
        &mount(|mount| mount.dest = "/\0".to_owned()),
        "invalid exec op %: mount \"/\\0\": a NUL byte in a path",
    );
    refused(
        &mount(|mount| mount.selector = "\0".to_owned()),
        "invalid exec op %: mount \"/m\": a NUL byte in a path",
    );
    refused(
        &mount(|mount| mount.result_id = "r".to_owned()),
        "invalid exec op %: mount \"/m\": a result id is only for containers of the gateway",
    );
    refused(
        &mount(|mount| mount.set_mount_type(pb::MountType::Cache)),
        "invalid exec op %: mount \"/m\": no cache options",
    );
    refused(
        &mount(|mount| mount.set_mount_type(pb::MountType::Secret)),
        "invalid exec op %: mount \"/m\": no secret options",
    );
    refused(
        &mount(|mount| {
            mount.set_mount_type(pb::MountType::Tmpfs);
            mount.tmpfs_opt = Some(pb::TmpfsOpt { size: -5 });
        }),
        "invalid exec op %: mount \"/m\": size -5",
    );
    refused(
        &mount(|mount| {
            mount.set_mount_type(pb::MountType::Secret);
            mount.secret_opt = Some(pb::SecretOpt::default());
            mount.output = 2;
        }),
        "invalid exec op %: mount \"/m\": only files that are kept can become an output",
    );
}

/// One more than the decoder takes.
const MAX_MOUNTS_PLUS_ONE: usize = 1025;

#[test]
fn files() {
    refused(&file(vec![]), "invalid file op %: no actions");
    refused(
        &file(vec![action(|_| {}); 10_001]),
        "invalid file op %: 10001 actions: at most 10000 are accepted",
    );
    refused(
        &file(vec![action(|action| action.action = None)]),
        "invalid file op %: action 0: nothing to do",
    );
    refused(
        &file(vec![action(|action| action.input = 1)]),
        "invalid file op %: action 0: loop from index 1",
    );
    refused(
        &file(vec![
            action(|action| action.input = 2),
            action(|action| action.output = 1),
        ]),
        "invalid file op %: action 0: missing input 2, or one that comes later",
    );
    refused(
        &file(vec![action(|action| action.input = -2)]),
        "invalid file op %: action 0: input -2",
    );
    refused(
        &file(vec![action(|action| action.output = -2)]),
        "invalid file op %: action 0: output -2",
    );
    refused(
        &file(vec![action(|action| action.output = -1)]),
        "invalid file op %: no outputs specified",
    );
    refused(
        &file(vec![action(|action| action.output = 1)]),
        "invalid file op %: missing output index 0",
    );
    refused(
        &file(vec![action(|_| {}), action(|_| {})]),
        "invalid file op %: duplicate output 0",
    );
    refused(&mkdir(|mkdir| mkdir.mode = -1), "invalid file op %: action 0: mode -1");
    refused(
        &mkdir(|mkdir| mkdir.path = "a\0b".to_owned()),
        "invalid file op %: action 0: a NUL byte in path \"a\\0b\"",
    );
    for input in [-1, -2] {
        let named = mkdir(|mkdir| {
            mkdir.owner = Some(pb::ChownOpt {
                user: Some(pb::UserOpt {
                    user: Some(pb::user_opt::User::ByName(pb::NamedUserOpt {
                        name: "u".to_owned(),
                        input,
                    })),
                }),
                group: None,
            });
        });
        let want = match input {
            -1 => "invalid missing user mount".to_owned(),
            other => format!("input {other}"),
        };
        refused(&named, &format!("invalid file op %: action 0: {want}"));
    }
    let copy = action(|action| {
        action.secondary_input = 7;
        action.action = Some(pb::file_action::Action::Copy(pb::FileActionCopy::default()));
    });
    refused(
        &file(vec![copy]),
        "invalid file op %: action 0: missing input 7, or one that comes later",
    );
}

#[test]
fn sources() {
    refused(&source("alpine", &[]), "invalid source op %: no scheme in \"alpine\"");
    refused(
        &source("docker-image://", &[]),
        "invalid source op %: no name in \"docker-image://\"",
    );
    refused(
        &source("ftp://x", &[]),
        "source scheme \"ftp\" is not supported by this daemon (vertex %)",
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    for reference in ["a", "a@b", "a:1"] {
        refused(
            &source(&format!("docker-image+blob://{reference}"), &[]),
            &format!("invalid source op %: no digest of a blob in {reference:?}"),
        );
    }
    for (key, value, want) in [
        (
            "http.filename",
            "../x",
            "invalid source op %: attribute http.filename is \"../x\"",
        ),
        ("http.perm", "rw", "invalid source op %: attribute http.perm is \"rw\""),
        (
            "oci.store",
            "s",
            "attribute \"oci.store\" of a blob source is not supported by this daemon (vertex %)",
        ),
    ] {
        refused(
            &source(&format!("docker-image+blob://a@{digest}"), &[(key, value)]),
            want,
        );
    }
    let git = |attrs: &[(&str, &str)]| source("git://h/r.git", attrs);
    refused(
        &git(&[("git.sig.rejectexpired", "true")]),
        "invalid source op %: no git.sig.pubkey to verify signatures with",
    );
    refused(
        &git(&[
            ("git.sig.pubkey", "k"),
            ("git.sig.requiresignedtag", "true"),
            ("git.sig.ignoresignedtag", "true"),
        ]),
        "invalid source op %: the tag has to be signed, and its signature is to be ignored",
    );
    refused(
        &git(&[("git.sig.pubkey", &"k".repeat((256 << 10) + 1))]),
        "invalid source op %: attribute git.sig.pubkey of more than 262144 bytes",
    );
    let (bundle, sum) = (
        format!("oci-layout+blob://a/b@sha256:{}", "0".repeat(64)),
        ("git.checksum", "0123"),
    );
    let stored = ("oci.store", "s");
    let in_registry = bundle.replace("oci-layout", "docker-image");
    let bundles: [(&[(&str, &str)], &str); 8] = [
        (&[("git.bundle", &bundle), stored], "requires git.checksum to be set"),
        (
            &[("git.bundle", "https://a/b"), sum],
            "git.bundle locator scheme \"https\" is not supported",
        ),
        (
            &[("git.bundle", "a"), sum],
            "git.bundle locator scheme \"\" is not supported",
        ),
        (
            &[("git.bundle", "docker-image+blob://a"), sum],
            "no digest of a blob in \"a\"",
        ),
        (
            &[stored],
            "oci.session and oci.store are for a git.bundle in an OCI layout",
        ),
        (
            &[("git.bundle", &in_registry), stored, sum],
            "oci.session and oci.store are for a git.bundle in an OCI layout",
        ),
        (
            &[("git.checkoutbundle", "true"), ("git.keepgitdir", "true")],
            "git.checkoutbundle is incompatible with git.keepgitdir",
        ),
        (
            &[("git.checkoutbundle", "yes")],
            "attribute git.checkoutbundle is \"yes\"",
        ),
    ];
    for (attrs, want) in bundles {
        let want = match want.starts_with("requires") {
            true => format!("git.bundle {} {want}", &bundle[18..]),
            false => want.to_owned(),
        };
        refused(&git(attrs), &format!("invalid source op %: {want}"));
    }
    for key in ["http.sig.pubkey", "http.sig.signature"] {
        refused(
            &source("http://h/f", &[(key, "k")]),
            "invalid source op %: http.sig.pubkey and http.sig.signature do not go without each other",
        );
    }
    for (key, value) in [
        ("image.resolvemode", "sometimes"),
        ("image.layerlimit", "0"),
        ("image.layerlimit", "-1"),
        ("image.checksum", "sha256:zz"),
    ] {
        refused(
            &source("docker-image://a", &[(key, value)]),
            &format!("invalid source op %: attribute {key} is {value:?}"),
        );
    }
    refused(
        &source("docker-image://a", &[("image.new", "x")]),
        "attribute \"image.new\" of an image source is not supported by this daemon (vertex %)",
    );
    refused(
        &source("local://a", &[("local.new", "x")]),
        "attribute \"local.new\" of a local source is not supported by this daemon (vertex %)",
    );
    refused(
        &source("local://a", &[("local.differ", "x")]),
        "invalid source op %: attribute local.differ is \"x\"",
    );
    refused(
        &source("local://a", &[("local.includepattern", "[1]")]),
        "invalid source op %: attribute local.includepattern is no list of strings: invalid type: integer `1`, \
         expected a string at line 1 column 2",
    );
    for (key, value) in [
        ("http.checksum", "md5:00"),
        ("http.perm", "0888"),
        ("http.perm", "010000"),
        ("http.perm", "-1"),
        ("http.uid", "-1"),
        ("http.uid", "4294967296"),
        ("http.gid", "root"),
        ("http.filename", ".."),
        ("http.filename", "../x"),
        ("http.filename", "a/b"),
        ("http.filename", "a\0b"),
    ] {
        refused(
            &source("https://h/x", &[(key, value)]),
            &format!("invalid source op %: attribute {key} is {value:?}"),
        );
    }
    for key in ["http.header.cookie", "http.header.Accept", "http.new"] {
        refused(
            &source("http://h/x", &[(key, "x")]),
            &format!("attribute {key:?} of an http source is not supported by this daemon (vertex %)"),
        );
    }
    refused(
        &source(&format!("http://h/{}", "x".repeat(8 << 10)), &[]),
        "invalid source op %: a URL that is too long",
    );
    refused(
        &source("oci-layout://a/b:tag", &[]),
        "invalid source op %: oci-layout reference \"a/b:tag\" has no digest",
    );
    refused(
        &source("oci-layout://a@b", &[("image.resolvemode", "pull")]),
        "attribute \"image.resolvemode\" of an OCI layout source is not supported by this daemon (vertex %)",
    );
    refused(
        &source("oci-layout://a@b", &[("oci.layerlimit", "0")]),
        "invalid source op %: attribute oci.layerlimit is \"0\"",
    );
    let mut with_input = source("local://a", &[]);
    with_input.inputs = op(pb::op::Op::Merge(pb::MergeOp::default()), 1).inputs;
    refused(&with_input, "invalid source op %: a source has no inputs");
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
