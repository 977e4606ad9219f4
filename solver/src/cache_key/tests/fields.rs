//! Every field of every op: in the key, or deliberately not.

use bytes::Bytes;

use super::*;
use crate::Digest;
use crate::llb::{
    ActionInput, CacheSharing, CdiDevice, Chown, ContentCache, CopyAction, Edge, ExecOp, FileAction, FileActionKind,
    FileGrant, FileOp, HostIp, LinuxResources, Mount, MountKind, NetMode, NodeIndex, Op, OpMetadata, ProgressGroup,
    ProxyEnv, SecretEnv, SecurityMode, Ulimit, UserSpec,
};

pub(super) fn vertex(op: Op, inputs: usize) -> Vertex {
    let vertex = NodeIndex::new(0);
    Vertex {
        digest: Digest::sha256(b"vertex"),
        op,
        inputs: (0..inputs).map(|output| Edge { vertex, output }).collect(),
        platform: None,
        constraints: Box::default(),
        metadata: OpMetadata::default().into(),
    }
}

/// The key, with inputs that say how they are depended on.
fn key(vertex: &Vertex) -> CacheKey {
    key_on(vertex, Some(&Platform::new("linux", "amd64", "")))
}

fn key_on(vertex: &Vertex, platform: Option<&Platform>) -> CacheKey {
    let content = |output, selector: &ContentSelector| {
        let key = content_key(&CacheKey::from_bytes([0; 32]), output, None, selector);
        Digest::from_sha256(*key.as_bytes())
    };
    let part = |(output, dependency): (usize, Dependency)| match dependency {
        Dependency::Identity => InputPart::Identity {
            key: CacheKey::from_bytes([0xa7; 32]),
            output,
        },
        Dependency::Content(selectors) => {
            InputPart::Content(selectors.iter().map(|selector| content(output, selector)).collect())
        }
    };
    let inputs: Vec<InputPart> = dependencies(vertex).into_iter().enumerate().map(part).collect();
    let key = op_key(vertex, platform, &inputs);
    // The long way to a key leads to the same one.
    assert_eq!(op_preimage(vertex, platform, inputs).key(), key);
    key
}

fn mount(dest: &str, input: Option<usize>, output: Option<usize>, kind: MountKind) -> Mount {
    Mount {
        dest: dest.to_owned(),
        input,
        selector: String::new(),
        readonly: false,
        output,
        kind,
        content_cache: ContentCache::Default,
    }
}

fn cache(id: &str, sharing: CacheSharing) -> MountKind {
    let id = id.to_owned();
    MountKind::Cache { id, sharing }
}

pub(super) fn exec() -> ExecOp {
    ExecOp {
        args: vec!["a".to_owned(), "b".to_owned()],
        env: vec!["A=1".to_owned()],
        cwd: "/".to_owned(),
        extra_hosts: vec![HostIp {
            host: "h".to_owned(),
            ip: [1, 2, 3, 4].into(),
        }],
        ulimits: vec![Ulimit {
            name: "nofile".to_owned(),
            soft: 1,
            hard: 2,
        }],
        secret_env: vec![SecretEnv {
            id: "s".to_owned(),
            name: "S".to_owned(),
            optional: false,
        }],
        devices: vec![CdiDevice {
            name: "v/c=d".to_owned(),
            optional: false,
        }],
        mounts: vec![
            mount("/", Some(0), Some(0), MountKind::Bind),
            mount("/bind", Some(1), None, MountKind::Bind),
            mount("/cache", None, None, cache("c", CacheSharing::Shared)),
            mount("/tmp", None, None, MountKind::Tmpfs { size: 0 }),
            mount("/secret", None, None, MountKind::Secret(FileGrant::default())),
            mount("/ssh", None, None, MountKind::Ssh(FileGrant::default())),
        ],
        ..ExecOp::default()
    }
}

fn grant(exec: &mut ExecOp, mount: usize) -> &mut FileGrant {
    match &mut exec.mounts[mount].kind {
        MountKind::Secret(grant) | MountKind::Ssh(grant) => grant,
        other => panic!("{other:?}"),
    }
}

type Changes<T> = &'static [(&'static str, fn(&mut T))];

/// Checks that each change leads to a key of its own.
#[track_caller]
fn distinct<T: Clone>(good: &T, changes: Changes<T>, key: impl Fn(&T) -> CacheKey) {
    let mut seen = vec![("nothing", key(good))];
    for (name, change) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        let key = key(&changed);
        if let Some((other, _)) = seen.iter().find(|(_, known)| *known == key) {
            panic!("changing {name} gives the same key as changing {other}");
        }
        seen.push((name, key));
    }
}

#[test]
fn what_a_run_depends_on_is_in_its_key() {
    let changes: Changes<ExecOp> = &[
        ("args", |exec| exec.args.push("c".to_owned())),
        ("args joined", |exec| exec.args = vec!["a b".to_owned()]),
        ("env", |exec| exec.env.push("B=1".to_owned())),
        ("cwd", |exec| exec.cwd = "/src".to_owned()),
        ("user", |exec| exec.user = "u".to_owned()),
        ("hostname", |exec| exec.hostname = "h".to_owned()),
        ("network host", |exec| exec.network = NetMode::Host),
        ("network none", |exec| exec.network = NetMode::None),
        ("security", |exec| exec.security = SecurityMode::Insecure),
        ("extra host", |exec| exec.extra_hosts[0].host = "i".to_owned()),
        ("limit name", |exec| exec.ulimits[0].name = "core".to_owned()),
        ("soft limit", |exec| exec.ulimits[0].soft = 2),
        ("hard limit", |exec| exec.ulimits[0].hard = 3),
        ("exit codes", |exec| exec.valid_exit_codes.push(1)),
        ("stubs", |exec| exec.remove_mount_stubs_recursive = true),
        ("device", |exec| exec.devices[0].name = "v/c=e".to_owned()),
        ("device optional", |exec| exec.devices[0].optional = true),
        ("secret env id", |exec| exec.secret_env[0].id = "t".to_owned()),
        ("secret env name", |exec| exec.secret_env[0].name = "T".to_owned()),
        ("secret env optional", |exec| exec.secret_env[0].optional = true),
        ("mounts", |exec| exec.mounts.truncate(5)),
        ("mount order", |exec| exec.mounts.swap(3, 4)),
        ("mount dest", |exec| exec.mounts[1].dest = "/other".to_owned()),
        ("mount input", |exec| exec.mounts[1].input = Some(0)),
        ("mount without input", |exec| exec.mounts[1].input = None),
        ("mount selector", |exec| exec.mounts[1].selector = "/s".to_owned()),
        ("mount readonly", |exec| exec.mounts[1].readonly = true),
        ("mount output", |exec| exec.mounts[1].output = Some(1)),
        ("mount by identity", |exec| {
            exec.mounts[1].content_cache = ContentCache::Off
        }),
        ("cache to bind", |exec| exec.mounts[2].kind = MountKind::Bind),
        ("tmpfs size", |exec| exec.mounts[3].kind = MountKind::Tmpfs { size: 1 }),
        ("tmpfs to bind", |exec| exec.mounts[3].kind = MountKind::Bind),
        ("secret id", |exec| grant(exec, 4).id = "t".to_owned()),
        ("secret uid", |exec| grant(exec, 4).uid = 1),
        ("secret gid", |exec| grant(exec, 4).gid = 1),
        ("secret mode", |exec| grant(exec, 4).mode = 1),
        ("secret optional", |exec| grant(exec, 4).optional = true),
        ("ssh id", |exec| grant(exec, 5).id = "t".to_owned()),
        ("ssh uid", |exec| grant(exec, 5).uid = 1),
        ("ssh gid", |exec| grant(exec, 5).gid = 1),
        ("ssh mode", |exec| grant(exec, 5).mode = 1),
        ("ssh optional", |exec| grant(exec, 5).optional = true),
    ];
    distinct(&exec(), changes, |exec| key(&vertex(Op::Exec(exec.clone()), 2)));
}

#[test]
fn what_must_not_cost_a_run_is_not_in_its_key() {
    let good = vertex(Op::Exec(exec()), 2);
    let changes: Changes<Vertex> = &[
        ("digest", |vertex| vertex.digest = Digest::sha256(b"other")),
        ("ignore cache", |vertex| {
            std::sync::Arc::make_mut(&mut vertex.metadata).ignore_cache = true
        }),
        ("name", |vertex| vertex.metadata = OpMetadata::named("other").into()),
        ("group", |vertex| {
            std::sync::Arc::make_mut(&mut vertex.metadata).progress_group = Some(ProgressGroup::default().into())
        }),
        ("resources", |vertex| {
            std::sync::Arc::make_mut(&mut vertex.metadata).resources = Some(LinuxResources::default().into())
        }),
    ];
    for (name, change) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        assert_eq!(key(&good), key(&changed), "{name}");
    }
    let changes: Changes<ExecOp> = &[
        ("proxy", |exec| {
            exec.proxy = Some(Box::new(ProxyEnv {
                http: "p".to_owned(),
                https: "p".to_owned(),
                ftp: "p".to_owned(),
                no: "p".to_owned(),
                all: "p".to_owned(),
            }));
        }),
        ("extra host address", |exec| {
            exec.extra_hosts[0].ip = [4, 3, 2, 1].into()
        }),
        ("control group", |exec| exec.cgroup_parent = "g".to_owned()),
        ("cache id", |exec| {
            exec.mounts[2].kind = cache("d", CacheSharing::Shared)
        }),
        ("cache private", |exec| {
            exec.mounts[2].kind = cache("c", CacheSharing::Private)
        }),
        ("cache locked", |exec| {
            exec.mounts[2].kind = cache("c", CacheSharing::Locked)
        }),
    ];
    for (name, change) in changes {
        let mut changed = exec();
        change(&mut changed);
        assert_eq!(key(&good), key(&vertex(Op::Exec(changed), 2)), "{name}");
    }
}

#[test]
fn the_platform_is_in_the_key_of_what_runs() {
    let mut platforms = vec![
        None,
        Some(Platform::new("linux", "amd64", "")),
        Some(Platform::new("linux", "amd64", "v3")),
        Some(Platform::new("linux", "arm64", "")),
        Some(Platform::new("windows", "amd64", "")),
    ];
    let mut versioned = Platform::new("linux", "amd64", "");
    versioned.os_version = "10".to_owned();
    platforms.push(Some(versioned));
    let mut featured = Platform::new("linux", "amd64", "");
    featured.os_features.push("f".to_owned());
    platforms.push(Some(featured));
    let run = vertex(Op::Exec(exec()), 2);
    let keys: BTreeSet<_> = platforms
        .iter()
        .map(|platform| key_on(&run, platform.as_ref()))
        .collect();
    assert_eq!(keys.len(), platforms.len());
}

pub(super) fn copy() -> CopyAction {
    CopyAction {
        src: "/a".to_owned(),
        dest: "/b".to_owned(),
        ..CopyAction::default()
    }
}

pub(super) fn action(kind: FileActionKind) -> Op {
    let actions = vec![FileAction {
        input: Some(ActionInput::Vertex(0)),
        secondary: matches!(kind, FileActionKind::Copy(_)).then_some(ActionInput::Vertex(1)),
        output: Some(0),
        kind,
    }];
    Op::File(FileOp { actions })
}

fn owner(user: Option<UserSpec>, group: Option<UserSpec>) -> Option<Chown> {
    Some(Chown { user, group })
}

fn named(name: &str, input: usize) -> Option<UserSpec> {
    Some(UserSpec::Name {
        name: name.to_owned(),
        input: Some(ActionInput::Vertex(input)),
    })
}

#[test]
fn what_a_copy_depends_on_is_in_its_key() {
    let changes: Changes<CopyAction> = &[
        ("src", |copy| copy.src = "/c".to_owned()),
        ("dest", |copy| copy.dest = "/c".to_owned()),
        ("user", |copy| copy.owner = owner(Some(UserSpec::Id(0)), None)),
        ("group", |copy| copy.owner = owner(None, Some(UserSpec::Id(0)))),
        ("user by name", |copy| copy.owner = owner(named("0", 0), None)),
        ("user by other name", |copy| copy.owner = owner(named("1", 0), None)),
        ("user by name elsewhere", |copy| copy.owner = owner(named("0", 1), None)),
        ("mode", |copy| copy.mode = Some(0o644)),
        ("mode string", |copy| copy.mode_str = "644".to_owned()),
        ("follow", |copy| copy.follow_symlink = true),
        ("contents", |copy| copy.dir_copy_contents = true),
        ("unpack", |copy| copy.attempt_unpack = true),
        ("parents", |copy| copy.create_dest_path = true),
        ("wildcard", |copy| copy.allow_wildcard = true),
        ("empty wildcard", |copy| copy.allow_empty_wildcard = true),
        ("timestamp", |copy| copy.timestamp = Some(0)),
        ("include", |copy| copy.include.push("x".to_owned())),
        ("exclude", |copy| copy.exclude.push("x".to_owned())),
        ("replace", |copy| copy.always_replace = true),
        ("required", |copy| copy.required_paths.push("x".to_owned())),
    ];
    distinct(&copy(), changes, |copy| {
        key(&vertex(action(FileActionKind::Copy(copy.clone())), 2))
    });
}

#[test]
fn what_other_file_changes_depend_on_is_in_their_key() {
    let somebody = || owner(Some(UserSpec::Id(1)), None);
    let mkfile = |path: &str, mode, data: &'static str, owner, timestamp| FileActionKind::Mkfile {
        path: path.to_owned(),
        mode,
        data: data.into(),
        owner,
        timestamp,
    };
    let mkdir = |path: &str, mode, make_parents, owner, timestamp| FileActionKind::Mkdir {
        path: path.to_owned(),
        mode,
        make_parents,
        owner,
        timestamp,
    };
    let rm = |path: &str, allow_not_found, allow_wildcard| FileActionKind::Rm {
        path: path.to_owned(),
        allow_not_found,
        allow_wildcard,
    };
    let link = |old: &str, new: &str, owner, timestamp| FileActionKind::Symlink {
        old_path: old.to_owned(),
        new_path: new.to_owned(),
        owner,
        timestamp,
    };
    let kinds = [
        mkfile("/a", 0o644, "", None, None),
        mkfile("/b", 0o644, "", None, None),
        mkfile("/a", 0o600, "", None, None),
        mkfile("/a", 0o644, "x", None, None),
        mkfile("/a", 0o644, "", somebody(), None),
        mkfile("/a", 0o644, "", None, Some(0)),
        mkdir("/a", 0o644, false, None, None),
        mkdir("/b", 0o644, false, None, None),
        mkdir("/a", 0o600, false, None, None),
        mkdir("/a", 0o644, true, None, None),
        mkdir("/a", 0o644, false, somebody(), None),
        mkdir("/a", 0o644, false, None, Some(0)),
        rm("/a", false, false),
        rm("/b", false, false),
        rm("/a", true, false),
        rm("/a", false, true),
        link("/a", "/b", None, None),
        link("/b", "/a", None, None),
        link("/a", "/c", None, None),
        link("/a", "/b", somebody(), None),
        link("/a", "/b", None, Some(0)),
    ];
    let keys: BTreeSet<_> = kinds.iter().map(|kind| key(&vertex(action(kind.clone()), 1))).collect();
    assert_eq!(keys.len(), kinds.len());
}

#[test]
fn the_order_of_layers_is_in_the_key() {
    let diff = |lower, upper| Op::Diff { lower, upper };
    let pass = |id: &str, outputs| Op::Passthrough {
        id: id.to_owned(),
        outputs,
    };
    let ops = [
        Op::Merge { inputs: vec![0, 1] },
        Op::Merge { inputs: vec![1, 0] },
        diff(Some(0), Some(1)),
        diff(Some(1), Some(0)),
        diff(None, Some(1)),
        pass("a", vec![0, 1]),
        pass("b", vec![0, 1]),
        pass("a", vec![1]),
    ];
    let keys: BTreeSet<_> = ops.iter().map(|op| key(&vertex(op.clone(), 2))).collect();
    assert_eq!(keys.len(), ops.len());
}

#[test]
fn dependencies_are_by_content_only_where_that_is_safe() {
    let of = |readonly, content_cache, output| {
        let mut exec = exec();
        let mount = &mut exec.mounts[1];
        (mount.readonly, mount.content_cache, mount.output) = (readonly, content_cache, output);
        matches!(dependencies(&vertex(Op::Exec(exec), 2))[1], Dependency::Content(_))
    };
    assert!(of(true, ContentCache::Default, None));
    assert!(of(false, ContentCache::On, None));
    assert!(of(false, ContentCache::Default, None), "changes are thrown away");
    assert!(!of(false, ContentCache::Default, Some(1)), "changes are a result");
    assert!(!of(true, ContentCache::Default, Some(1)), "handed on whole");
    assert!(!of(true, ContentCache::Off, None));
    assert!(!of(true, ContentCache::On, Some(1)), "handed on whole");
    let copy = dependencies(&vertex(action(FileActionKind::Copy(copy())), 2));
    assert_eq!(copy[0], Dependency::Identity);
    assert!(matches!(&copy[1], Dependency::Content(selectors) if selectors[0].path == "/a"));
}

#[test]
fn keys_of_ops_are_stable_across_releases() {
    let without_devices = ExecOp {
        devices: Vec::new(),
        ..exec()
    };
    let mkfile = FileActionKind::Mkfile {
        path: "/f".to_owned(),
        mode: 0o644,
        data: Bytes::from_static(b"x"),
        owner: None,
        timestamp: Some(1),
    };
    let resolved = ResolvedSource {
        pin: "image sha256:1 linux/amd64 ".to_owned(),
        parts: [("manifest".to_owned(), "sha256:1".to_owned())].into(),
        result: None,
    };
    let merge = Op::Merge { inputs: vec![0, 1] };
    let diff = Op::Diff {
        lower: None,
        upper: Some(0),
    };
    let of = |op, inputs| key(&vertex(op, inputs)).to_string();
    let keys = [
        ("exec", of(Op::Exec(exec()), 2)),
        ("exec without devices", of(Op::Exec(without_devices), 2)),
        ("copy", of(action(FileActionKind::Copy(copy())), 2)),
        ("mkfile", of(action(mkfile), 2)),
        ("merge", of(merge, 2)),
        ("diff", of(diff, 1)),
        ("source", source_preimage(&resolved).key().to_string()),
    ];
    let pinned = [
        (
            "exec",
            "blake3:000c3a12e8945db30dcac4c54d975ffbd4659e943ffb1428421fab66e05cf024",
        ),
        (
            "exec without devices",
            "blake3:de8c673d3002d604696bcd0ea2741008967ad2f6ac5ec0515004a0314aa8d137",
        ),
        (
            "copy",
            "blake3:b116f2bac4ee8971bd9ed0a6725960a2cf7eb4680ad4e471ac240cdc580accde",
        ),
        (
            "mkfile",
            "blake3:e64c2e2a4d663b957bf6714951468d186b7563132c3d2479c124a11038bf1005",
        ),
        (
            "merge",
            "blake3:32686b55909788e00c3439bfd6561f7234dfc5daddb779389683111a0c4935a1",
        ),
        (
            "diff",
            "blake3:4cf9947ebebc166af2b7151c6743c2f02c07b752be8ffd966b254be4d1b1b3b3",
        ),
        (
            "source",
            "blake3:ce714db863cf6b566ea17ef83146269b1863829fc83fad316f4f2c07b3818fcf",
        ),
    ];
    assert_eq!(keys, pinned.map(|(name, key)| (name, key.to_owned())));
}
