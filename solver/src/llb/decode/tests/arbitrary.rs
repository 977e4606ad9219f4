//! Random ops and graphs.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::super::*;
use super::*;
use crate::Platform;

/// A random graph, and what each of its vertices is.
#[derive(Debug)]
pub(super) struct Random {
    builder: Builder,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) inputs: Vec<Output>,
    pub(super) platform: Option<Platform>,
    pub(super) metadata: OpMetadata,
    pub(super) output: Output,
}

impl Random {
    pub(super) fn definition(&self) -> Definition {
        self.builder.finish(self.steps.last().unwrap().output)
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-z=:/ é\n]{0,8}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..3)
}

/// A number that the wire has room for.
fn mode() -> impl Strategy<Value = u32> {
    0..0x7fff_ffff_u32
}

/// Bits of a file of its own: a written zero says as much as none, and is read as none.
fn file_mode() -> impl Strategy<Value = u32> {
    1_u32..0o10000
}

fn grant() -> impl Strategy<Value = FileGrant> {
    (text(), any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(|(id, uid, gid, mode, optional)| {
        FileGrant {
            id,
            uid,
            gid,
            mode,
            optional,
        }
    })
}

fn timestamp() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(0..i64::MAX)
}

fn image() -> impl Strategy<Value = SourceOp> {
    let mode = prop_oneof![
        Just(ResolveMode::Default),
        Just(ResolveMode::Pull),
        Just(ResolveMode::Local)
    ];
    let checksum = prop::option::of(any::<[u8; 32]>().prop_map(Digest::from_sha256));
    ("[a-z:@]{1,8}", mode, text(), prop::option::of(1_usize..9), checksum).prop_map(
        |(reference, resolve_mode, record_type, layer_limit, checksum)| {
            SourceOp::Image(ImageSource {
                reference,
                resolve_mode,
                record_type,
                layer_limit,
                checksum,
            })
        },
    )
}

fn local() -> impl Strategy<Value = SourceOp> {
    let differ = prop_oneof![Just(Differ::Metadata), Just(Differ::None)];
    let names = ("[a-z]{1,8}", prop::option::of("[a-z]{1,8}"), "[a-z]{0,4}");
    let metadata = (any::<bool>(), texts());
    (names, texts(), texts(), texts(), text(), differ, text(), metadata).prop_map(
        |((name, session, prefix), include, exclude, follow_paths, shared_key_hint, differ, unique, metadata)| {
            SourceOp::Local(LocalSource {
                name,
                session,
                prefix,
                include,
                exclude,
                follow_paths,
                shared_key_hint,
                differ,
                unique,
                metadata_only: metadata.0,
                metadata_exceptions: metadata.1,
            })
        },
    )
}

fn layout() -> impl Strategy<Value = SourceOp> {
    let checksum = prop::option::of(any::<[u8; 32]>().prop_map(Digest::from_sha256));
    let session = prop::option::of("[a-z]{1,8}");
    (
        "[a-z/]{0,8}@[a-z:]{1,8}",
        session,
        text(),
        prop::option::of(1_usize..9),
        checksum,
    )
        .prop_map(|(reference, session, store, layer_limit, checksum)| {
            SourceOp::OciLayout(OciLayoutSource {
                reference,
                session,
                store,
                layer_limit,
                checksum,
            })
        })
}

fn blob() -> impl Strategy<Value = SourceOp> {
    let layout = (prop::option::of("[a-z]{1,8}"), text());
    let layout = prop::option::of(layout.prop_map(|(session, store)| BlobLayout { session, store }));
    let digest = any::<[u8; 32]>().prop_map(Digest::from_sha256);
    let attributes = (prop::option::of(file_mode()), any::<u32>(), any::<u32>());
    ("[a-z/]{1,8}", digest, layout, "[a-z]{0,8}", attributes, "[a-z]{0,8}").prop_map(
        |(name, digest, layout, filename, (mode, uid, gid), record_type)| {
            SourceOp::Blob(BlobSource {
                reference: format!("{name}@{digest}"),
                layout,
                filename,
                mode,
                uid,
                gid,
                record_type,
            })
        },
    )
}

fn http() -> impl Strategy<Value = SourceOp> {
    let checksum = prop::option::of(any::<[u8; 32]>().prop_map(Digest::from_sha256));
    let headers = prop::collection::btree_map(
        prop_oneof![Just("accept".to_owned()), Just("user-agent".to_owned())],
        "[a-z]{1,8}",
        0..3,
    );
    let attributes = (prop::option::of(file_mode()), any::<u32>(), any::<u32>());
    (
        "https?://[a-z/:?#]{1,16}",
        checksum,
        "[a-z]{0,8}",
        attributes,
        text(),
        headers,
        prop::option::of(("[a-z]{1,8}", "[a-z]{1,8}")),
    )
        .prop_map(
            |(url, checksum, filename, (mode, uid, gid), auth_header_secret, headers, signature)| {
                SourceOp::Http(HttpSource {
                    url,
                    checksum,
                    filename,
                    mode,
                    uid,
                    gid,
                    auth_header_secret,
                    headers,
                    signature: signature.map(|(keys, signature)| HttpSignature { keys, signature }),
                })
            },
        )
}

fn mount(inputs: usize) -> impl Strategy<Value = Mount> {
    let sharing = prop_oneof![
        Just(CacheSharing::Shared),
        Just(CacheSharing::Private),
        Just(CacheSharing::Locked)
    ];
    let kind = prop_oneof![
        Just(MountKind::Bind),
        (text(), sharing).prop_map(|(id, sharing)| MountKind::Cache { id, sharing }),
        (0..i64::MAX as u64).prop_map(|size| MountKind::Tmpfs { size }),
        grant().prop_map(MountKind::Secret),
        grant().prop_map(MountKind::Ssh),
    ];
    let content_cache = prop_oneof![
        Just(ContentCache::Default),
        Just(ContentCache::On),
        Just(ContentCache::Off)
    ];
    let input = prop::option::of(0..inputs.max(1)).prop_map(move |input| input.filter(|_| inputs > 0));
    (
        "/?[a-z]{1,6}",
        input,
        text(),
        any::<bool>(),
        any::<bool>(),
        kind,
        content_cache,
    )
        .prop_map(
            |(dest, input, selector, readonly, is_output, kind, content_cache)| Mount {
                dest,
                input,
                selector,
                readonly,
                // Numbered once all are known.
                output: (is_output && matches!(kind, MountKind::Bind | MountKind::Cache { .. })).then_some(0),
                kind,
                content_cache,
            },
        )
}

fn exec(inputs: usize) -> impl Strategy<Value = Op> {
    let proxy = [text(), text(), text(), text(), text()].prop_map(|[http, https, ftp, no, all]| {
        let proxy = ProxyEnv {
            http,
            https,
            ftp,
            no,
            all,
        };
        (proxy != ProxyEnv::default()).then(|| Box::new(proxy))
    });
    let hosts = prop::collection::vec(
        ("[a-z]{1,5}", any::<IpAddr>()).prop_map(|(host, ip)| HostIp { host, ip }),
        0..3,
    );
    let limits = prop::collection::vec(
        (text(), any::<i64>(), any::<i64>()).prop_map(|(name, soft, hard)| Ulimit { name, soft, hard }),
        0..3,
    );
    let secrets = prop::collection::vec(
        (text(), "[A-Z]{1,5}", any::<bool>()).prop_map(|(id, name, optional)| SecretEnv { id, name, optional }),
        0..3,
    );
    let network = prop_oneof![Just(NetMode::Sandbox), Just(NetMode::Host), Just(NetMode::None)];
    let security = prop_oneof![Just(SecurityMode::Sandbox), Just(SecurityMode::Insecure)];
    let meta = (
        prop::collection::vec(text(), 1..4),
        texts(),
        "/[a-z]{0,5}",
        text(),
        text(),
        text(),
        prop::collection::vec(any::<i32>(), 0..3),
        any::<bool>(),
    );
    let mounts = prop::collection::vec(mount(inputs), 0..4);
    (meta, proxy, hosts, limits, secrets, network, security, mounts).prop_map(
        |(meta, proxy, extra_hosts, ulimits, secret_env, network, security, mut mounts)| {
            let (args, env, cwd, user, hostname, cgroup_parent, valid_exit_codes, remove_mount_stubs_recursive) = meta;
            mounts.push(Mount {
                dest: "/".to_owned(),
                input: None,
                selector: String::new(),
                readonly: false,
                output: Some(0),
                kind: MountKind::Bind,
                content_cache: ContentCache::Default,
            });
            for (number, output) in mounts.iter_mut().filter_map(|mount| mount.output.as_mut()).enumerate() {
                *output = number;
            }
            Op::Exec(ExecOp {
                args,
                env,
                cwd,
                user,
                hostname,
                proxy,
                extra_hosts,
                ulimits,
                cgroup_parent,
                valid_exit_codes,
                remove_mount_stubs_recursive,
                mounts,
                network,
                security,
                secret_env,
                devices: Vec::new(),
            })
        },
    )
}

/// What an action may refer to, given by a number that is reduced to what there is.
fn at(number: usize, inputs: usize, position: usize) -> Option<ActionInput> {
    let number = number % (inputs + position + 1);
    match number.checked_sub(inputs) {
        None => Some(ActionInput::Vertex(number)),
        Some(action) if action < position => Some(ActionInput::Action(action)),
        Some(_) => None,
    }
}

fn owner() -> impl Strategy<Value = Option<Chown>> {
    let user = || {
        prop::option::of(prop_oneof![
            any::<u32>().prop_map(UserSpec::Id),
            "[a-z]{0,5}".prop_map(|name| UserSpec::Name { name, input: None }),
        ])
    };
    prop::option::of((user(), user()).prop_map(|(user, group)| Chown { user, group }))
}

fn copy() -> impl Strategy<Value = FileActionKind> {
    let lists = (texts(), texts(), texts());
    (
        text(),
        text(),
        owner(),
        prop::option::of(mode()),
        text(),
        any::<[bool; 7]>(),
        timestamp(),
        lists,
    )
        .prop_map(
            |(src, dest, owner, mode, mode_str, flags, timestamp, (include, exclude, required_paths))| {
                let [follow, contents, unpack, create, wildcard, empty, replace] = flags;
                FileActionKind::Copy(CopyAction {
                    src,
                    dest,
                    owner,
                    mode,
                    mode_str,
                    follow_symlink: follow,
                    dir_copy_contents: contents,
                    attempt_unpack: unpack,
                    create_dest_path: create,
                    allow_wildcard: wildcard,
                    allow_empty_wildcard: empty,
                    timestamp,
                    include,
                    exclude,
                    always_replace: replace,
                    required_paths,
                })
            },
        )
}

fn action_kind() -> impl Strategy<Value = FileActionKind> {
    prop_oneof![
        copy(),
        (
            text(),
            mode(),
            prop::collection::vec(any::<u8>(), 0..9),
            owner(),
            timestamp()
        )
            .prop_map(|(path, mode, data, owner, timestamp)| FileActionKind::Mkfile {
                path,
                mode,
                data: data.into(),
                owner,
                timestamp,
            }),
        (text(), mode(), any::<bool>(), owner(), timestamp()).prop_map(
            |(path, mode, make_parents, owner, timestamp)| FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                owner,
                timestamp,
            }
        ),
        (text(), any::<bool>(), any::<bool>()).prop_map(|(path, allow_not_found, allow_wildcard)| {
            FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            }
        }),
        (text(), text(), owner(), timestamp()).prop_map(|(old_path, new_path, owner, timestamp)| {
            FileActionKind::Symlink {
                old_path,
                new_path,
                owner,
                timestamp,
            }
        }),
    ]
}

fn file(inputs: usize) -> impl Strategy<Value = Op> {
    let action = (any::<usize>(), any::<usize>(), any::<bool>(), action_kind());
    prop::collection::vec(action, 1..5).prop_map(move |actions| {
        let mut outputs = 0;
        let last = actions.len() - 1;
        let actions = actions
            .into_iter()
            .enumerate()
            .map(|(position, (input, secondary, is_output, mut kind))| {
                fix_owner(&mut kind, inputs);
                let output = (is_output || position == last).then(|| {
                    outputs += 1;
                    outputs - 1
                });
                FileAction {
                    input: at(input, inputs, position),
                    secondary: at(secondary, inputs, position).filter(|_| matches!(kind, FileActionKind::Copy(_))),
                    output,
                    kind,
                }
            })
            .collect();
        Op::File(FileOp { actions })
    })
}

/// Names need an input to be looked up in.
fn fix_owner(kind: &mut FileActionKind, inputs: usize) {
    let (FileActionKind::Copy(CopyAction { owner, .. })
    | FileActionKind::Mkfile { owner, .. }
    | FileActionKind::Mkdir { owner, .. }
    | FileActionKind::Symlink { owner, .. }) = kind
    else {
        return;
    };
    let Some(chown) = owner else { return };
    for spec in [&mut chown.user, &mut chown.group] {
        if let Some(UserSpec::Name { input, .. }) = spec {
            if inputs == 0 {
                *spec = None;
            } else {
                *input = Some(ActionInput::Vertex(inputs - 1));
            }
        }
    }
}

fn op(inputs: usize) -> BoxedStrategy<Op> {
    if inputs == 0 {
        return prop_oneof![
            image().prop_map(Op::Source),
            local().prop_map(Op::Source),
            layout().prop_map(Op::Source),
            http().prop_map(Op::Source),
            blob().prop_map(Op::Source),
            exec(0),
            file(0)
        ]
        .boxed();
    }
    let side = || prop::option::of(0..inputs);
    prop_oneof![
        exec(inputs),
        file(inputs),
        prop::collection::vec(0..inputs, 1..4).prop_map(|inputs| Op::Merge { inputs }),
        (side(), side()).prop_map(|(lower, upper)| Op::Diff { lower, upper }),
        ("[a-z]{1,4}", prop::collection::vec(0..inputs, 1..4))
            .prop_map(|(id, outputs)| Op::Passthrough { id, outputs }),
        (
            prop::collection::btree_map("[a-z]{1,4}", 0..inputs, 0..3),
            0..inputs,
            text()
        )
            .prop_map(|(mut inputs, definition, filename)| {
                inputs.insert(BuildOp::DEFINITION.to_owned(), definition);
                Op::Build(BuildOp::new(inputs, filename).expect("there is a definition"))
            }),
    ]
    .boxed()
}

fn metadata() -> impl Strategy<Value = OpMetadata> {
    let caps = prop::collection::btree_set(prop::sample::select(caps::SUPPORTED), 0..3);
    let group = (text(), text(), any::<bool>()).prop_map(|(id, name, weak)| ProgressGroup { id, name, weak });
    let resources = (
        any::<i64>(),
        any::<i64>(),
        any::<u64>(),
        any::<u64>(),
        any::<i64>(),
        text(),
    )
        .prop_map(
            |(memory, memory_swap, cpu_shares, cpu_period, cpu_quota, cpuset_cpus)| LinuxResources {
                memory,
                memory_swap,
                cpu_shares,
                cpu_period,
                cpu_quota,
                cpuset_mems: cpuset_cpus.clone(),
                cpuset_cpus,
            },
        );
    let description = prop::collection::btree_map(text(), text(), 0..3);
    (
        any::<bool>(),
        description,
        prop::option::of(any::<bool>()),
        prop::option::of(group),
        prop::option::of(resources),
        caps,
    )
        .prop_map(
            |(ignore_cache, description, export_cache, progress_group, resources, caps)| OpMetadata {
                ignore_cache,
                description: description.into_iter().collect(),
                export_cache,
                progress_group: progress_group.map(Arc::new),
                resources: resources.map(Box::new),
                caps: caps.into_iter().map(str::to_owned).collect(),
            },
        )
}

fn platform() -> impl Strategy<Value = Option<Platform>> {
    prop::option::of(prop::sample::select(vec![
        Platform::new("linux", "amd64", ""),
        Platform::new("linux", "arm", "v7"),
        Platform::new("windows", "arm64", "v9"),
    ]))
}

pub(super) fn graph() -> impl Strategy<Value = Random> {
    let step = (0_usize..4).prop_flat_map(|inputs| {
        let froms = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), inputs);
        (op(inputs), froms, platform(), metadata())
    });
    let first = (op(0), platform(), metadata());
    (first, prop::collection::vec(step, 0..8)).prop_map(|((op, platform, metadata), rest)| {
        let mut random = Random {
            builder: Builder::new(),
            steps: Vec::new(),
        };
        random.add(op, Vec::new(), platform, metadata);
        for (op, froms, platform, metadata) in rest {
            let inputs = froms
                .into_iter()
                .map(|(from, output)| {
                    let from = &random.steps[from.index(random.steps.len())];
                    from.output.sibling(output.index(from.op.output_count()))
                })
                .collect();
            random.add(op, inputs, platform, metadata);
        }
        random
    })
}

impl Random {
    fn add(&mut self, op: Op, inputs: Vec<Output>, platform: Option<Platform>, metadata: OpMetadata) {
        let output = Builder::new().op(op.clone(), &inputs, platform.as_ref(), metadata.clone());
        // One vertex twice would have the metadata of both.
        if self.steps.iter().all(|step| step.output != output) {
            self.builder
                .op(op.clone(), &inputs, platform.as_ref(), metadata.clone());
            self.steps.push(Step {
                op,
                inputs,
                platform,
                metadata,
                output,
            });
        }
    }
}

/// Well-formed messages with senseless numbers in them.
pub(super) fn wild_op() -> impl Strategy<Value = pb::Op> {
    let number = || prop_oneof![-3_i64..5, any::<i64>()];
    let small = || prop_oneof![-1_i32..5, any::<i32>()];
    let mount = (
        number(),
        number(),
        "[/a.]{0,3}",
        any::<bool>(),
        small(),
        small(),
        any::<[bool; 4]>(),
    )
        .prop_map(
            |(input, output, dest, readonly, mount_type, content_cache, options)| pb::Mount {
                input,
                output,
                dest,
                readonly,
                mount_type,
                content_cache,
                tmpfs_opt: options[0].then_some(pb::TmpfsOpt { size: input }),
                cache_opt: options[1].then(pb::CacheOpt::default),
                secret_opt: options[2].then(pb::SecretOpt::default),
                ssh_opt: options[3].then(pb::SshOpt::default),
                ..pb::Mount::default()
            },
        );
    let exec = (
        prop::option::of(texts()),
        prop::collection::vec(mount, 0..5),
        small(),
        small(),
    )
        .prop_map(|(args, mut mounts, network, security)| {
            mounts.push(pb::Mount {
                input: -1,
                dest: "/".to_owned(),
                ..pb::Mount::default()
            });
            pb::op::Op::Exec(pb::ExecOp {
                meta: args.map(|args| pb::Meta {
                    args,
                    ..pb::Meta::default()
                }),
                mounts,
                network,
                security,
                ..pb::ExecOp::default()
            })
        });
    let action = (number(), number(), number(), small(), any::<bool>()).prop_map(
        |(input, secondary_input, output, mode, is_copy)| pb::FileAction {
            input,
            secondary_input,
            output,
            action: Some(if is_copy {
                pb::file_action::Action::Copy(pb::FileActionCopy {
                    mode,
                    ..pb::FileActionCopy::default()
                })
            } else {
                pb::file_action::Action::Mkdir(pb::FileActionMkDir {
                    mode,
                    timestamp: input,
                    ..pb::FileActionMkDir::default()
                })
            }),
        },
    );
    let file = prop::collection::vec(action, 0..4).prop_map(|actions| pb::op::Op::File(pb::FileOp { actions }));
    let merge = prop::collection::vec(number(), 0..4).prop_map(|inputs| {
        let inputs = inputs.into_iter().map(|input| pb::MergeInput { input }).collect();
        pb::op::Op::Merge(pb::MergeOp { inputs })
    });
    let diff = (prop::option::of(number()), prop::option::of(number())).prop_map(|(lower, upper)| {
        pb::op::Op::Diff(pb::DiffOp {
            lower: lower.map(|input| pb::LowerDiffInput { input }),
            upper: upper.map(|input| pb::UpperDiffInput { input }),
        })
    });
    let pass = (text(), prop::collection::vec(number(), 0..4))
        .prop_map(|(id, outputs)| pb::op::Op::Passthrough(pb::PassthroughOp { id, outputs }));
    let source = (
        "[a-z:/-]{0,20}",
        prop::collection::btree_map("local[.]differ|image[.]layerlimit", text(), 0..2),
    )
        .prop_map(|(identifier, attrs)| pb::op::Op::Source(pb::SourceOp { identifier, attrs }));
    let names = prop_oneof![text(), Just(BuildOp::DEFINITION.to_owned())];
    let inputs = prop::collection::btree_map(names, number().prop_map(|input| pb::BuildInput { input }), 0..3);
    let attrs = prop::collection::btree_map("llbbuild.filename|other", text(), 0..2);
    let build = (-2_i64..1, inputs, attrs).prop_map(|(builder, inputs, attrs)| {
        pb::op::Op::Build(pb::BuildOp {
            builder,
            inputs,
            def: None,
            attrs,
        })
    });
    let kind = prop::option::of(prop_oneof![exec, file, merge, diff, pass, source, build]);
    let input = (any::<bool>(), number()).prop_map(|(is_image, index)| pb::Input {
        digest: Digest::sha256(&golden(if is_image { IMAGE } else { LOCAL })).to_string(),
        // Mostly right, so that what comes after is reached.
        index: if index == -1 { -1 } else { 0 },
    });
    (kind, prop::collection::vec(input, 0..4)).prop_map(|(op, inputs)| pb::Op {
        inputs,
        op,
        ..pb::Op::default()
    })
}
