//! Decoding of single ops.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use cairn_proto::pb;

use super::super::graph::VertexDigest;
use super::super::op::{
    BuildOp, CacheSharing, CdiDevice, ContentCache, ExecOp, FileGrant, HostIp, Mount, MountKind, NetMode, Op, ProxyEnv,
    SecretEnv, SecurityMode, Ulimit,
};
use super::{DecodeError, file, source};

/// Largest number of mounts of one run.
const MAX_MOUNTS: usize = 1024;

/// Decodes the op of a vertex; input indexes are checked against the number of its inputs.
pub(in crate::llb) fn decode(vertex: VertexDigest, inputs: usize, wire: Option<pb::op::Op>) -> Result<Op, DecodeError> {
    match wire {
        None => Err(invalid("llb", vertex, "no operation is given")),
        Some(pb::op::Op::Source(wire)) => source::decode(vertex, inputs, &wire).map(Op::Source),
        Some(pb::op::Op::Exec(wire)) => exec(vertex, inputs, wire).map(Op::Exec),
        Some(pb::op::Op::File(wire)) => file::decode(vertex, inputs, &wire).map(Op::File),
        Some(pb::op::Op::Merge(wire)) => merge(vertex, inputs, &wire),
        Some(pb::op::Op::Diff(wire)) => diff(vertex, inputs, &wire),
        Some(pb::op::Op::Passthrough(wire)) => passthrough(vertex, inputs, wire),
        Some(pb::op::Op::Build(wire)) => build(vertex, inputs, wire).map(Op::Build),
    }
}

/// An error about one op.
pub(super) fn invalid(kind: &'static str, vertex: VertexDigest, message: impl Into<String>) -> DecodeError {
    DecodeError::Op {
        kind,
        vertex,
        message: message.into(),
    }
}

pub(super) fn unsupported(vertex: VertexDigest, what: impl Into<String>) -> DecodeError {
    DecodeError::Unsupported {
        vertex,
        what: what.into(),
    }
}

fn exec(vertex: VertexDigest, inputs: usize, wire: pb::ExecOp) -> Result<ExecOp, DecodeError> {
    let fail = |message: String| invalid("exec", vertex, message);
    let lacks = |part| DecodeError::Lacks {
        kind: "exec",
        part,
        vertex,
    };
    let mut meta = wire.meta.ok_or_else(|| lacks("meta"))?;
    // There may be very many ops: none keeps room for more than it has.
    meta.args.shrink_to_fit();
    meta.env.shrink_to_fit();
    if meta.args.is_empty() {
        return Err(lacks("args"));
    }
    let single = [&meta.cwd, &meta.user, &meta.hostname, &meta.cgroup_parent];
    let texts = [&meta.args, &meta.env].into_iter().flatten().chain(single);
    if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
        return Err(fail(format!("a NUL byte in {text:?}")));
    }
    if !meta.cwd.is_empty() && !meta.cwd.starts_with('/') {
        return Err(fail(format!("working directory {:?} is not absolute", meta.cwd)));
    }
    if wire.mounts.is_empty() {
        return Err(lacks("mounts"));
    }
    if wire.mounts.len() > MAX_MOUNTS {
        return Err(fail(format!(
            "{} mounts: at most {MAX_MOUNTS} are accepted",
            wire.mounts.len()
        )));
    }
    let mut mounts = Vec::with_capacity(wire.mounts.len());
    for wire in wire.mounts {
        mounts.push(mount(vertex, inputs, wire)?);
    }
    let mut roots = mounts.iter().filter(|mount| mount.dest == "/");
    match (roots.next(), roots.next()) {
        (None, _) => return Err(lacks("rootfs")),
        (Some(_), Some(_)) => return Err(fail("more than one mount at /".to_owned())),
        (Some(root), None) if root.kind != MountKind::Bind => {
            return Err(fail(format!("invalid mount type {} for /", type_name(&root.kind))));
        }
        (Some(_), None) => {}
    }
    dense(mounts.iter().map(|mount| mount.output)).map_err(fail)?;
    Ok(ExecOp {
        args: meta.args,
        env: meta.env,
        cwd: if meta.cwd.is_empty() { "/".to_owned() } else { meta.cwd },
        user: meta.user,
        hostname: meta.hostname,
        proxy: meta.proxy_env.and_then(proxy),
        extra_hosts: meta
            .extra_hosts
            .iter()
            .map(|line| {
                let ip = line
                    .ip
                    .parse()
                    .map_err(|_| fail(format!("{:?} is no IP address", line.ip)))?;
                if line.host.is_empty() || line.host.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err(fail(format!("{:?} is no host name", line.host)));
                }
                Ok(HostIp {
                    host: line.host.clone(),
                    ip,
                })
            })
            .collect::<Result<_, _>>()?,
        ulimits: meta
            .ulimit
            .iter()
            .map(|limit| Ulimit {
                name: limit.name.clone(),
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        cgroup_parent: meta.cgroup_parent,
        valid_exit_codes: meta.valid_exit_codes,
        remove_mount_stubs_recursive: meta.remove_mount_stubs_recursive,
        mounts,
        network: match pb::NetMode::try_from(wire.network) {
            Ok(pb::NetMode::Unset) => NetMode::Sandbox,
            Ok(pb::NetMode::Host) => NetMode::Host,
            Ok(pb::NetMode::None) => NetMode::None,
            Err(_) => return Err(fail(format!("unknown network mode {}", wire.network))),
        },
        security: match pb::SecurityMode::try_from(wire.security) {
            Ok(pb::SecurityMode::Sandbox) => SecurityMode::Sandbox,
            Ok(pb::SecurityMode::Insecure) => SecurityMode::Insecure,
            Err(_) => return Err(fail(format!("unknown security mode {}", wire.security))),
        },
        secret_env: wire
            .secretenv
            .iter()
            .map(|secret| {
                if secret.name.is_empty() || secret.name.contains(['=', '\0']) {
                    return Err(fail(format!("{:?} is no variable name", secret.name)));
                }
                Ok(SecretEnv {
                    id: secret.id.clone(),
                    name: secret.name.clone(),
                    optional: secret.optional,
                })
            })
            .collect::<Result<_, _>>()?,
        devices: wire
            .cdi_devices
            .iter()
            .map(|device| CdiDevice {
                name: device.name.clone(),
                optional: device.optional,
            })
            .collect(),
    })
}

/// Proxies, if one is given.
fn proxy(wire: pb::ProxyEnv) -> Option<Box<ProxyEnv>> {
    let proxy = ProxyEnv {
        http: wire.http_proxy,
        https: wire.https_proxy,
        ftp: wire.ftp_proxy,
        no: wire.no_proxy,
        all: wire.all_proxy,
    };
    (proxy != ProxyEnv::default()).then(|| Box::new(proxy))
}

fn mount(vertex: VertexDigest, inputs: usize, wire: pb::Mount) -> Result<Mount, DecodeError> {
    let fail = |message: String| invalid("exec", vertex, format!("mount {:?}: {message}", wire.dest));
    if wire.dest.is_empty() {
        return Err(fail("no destination".to_owned()));
    }
    if wire.dest.contains('\0') || wire.selector.contains('\0') {
        return Err(fail("a NUL byte in a path".to_owned()));
    }
    if !wire.result_id.is_empty() {
        return Err(fail("a result id is only for containers of the gateway".to_owned()));
    }
    let grant = |id: &str, uid, gid, mode, optional| FileGrant {
        id: id.to_owned(),
        uid,
        gid,
        mode,
        optional,
    };
    let kind = match pb::MountType::try_from(wire.mount_type) {
        Ok(pb::MountType::Bind) => MountKind::Bind,
        Ok(pb::MountType::Cache) => {
            let options = wire
                .cache_opt
                .as_ref()
                .ok_or_else(|| fail("missing cache mount options".to_owned()))?;
            MountKind::Cache {
                id: options.id.clone(),
                sharing: match pb::CacheSharingOpt::try_from(options.sharing) {
                    Ok(pb::CacheSharingOpt::Shared) => CacheSharing::Shared,
                    Ok(pb::CacheSharingOpt::Private) => CacheSharing::Private,
                    Ok(pb::CacheSharingOpt::Locked) => CacheSharing::Locked,
                    Err(_) => return Err(fail(format!("invalid cache sharing option: {}", options.sharing))),
                },
            }
        }
        Ok(pb::MountType::Tmpfs) => MountKind::Tmpfs {
            size: match &wire.tmpfs_opt {
                None => 0,
                Some(options) => u64::try_from(options.size).map_err(|_| fail(format!("size {}", options.size)))?,
            },
        },
        Ok(pb::MountType::Secret) => {
            let options = wire
                .secret_opt
                .as_ref()
                .ok_or_else(|| fail("invalid secret mount options".to_owned()))?;
            MountKind::Secret(grant(
                &options.id,
                options.uid,
                options.gid,
                options.mode,
                options.optional,
            ))
        }
        Ok(pb::MountType::Ssh) => {
            let options = wire.ssh_opt.clone().unwrap_or_default();
            MountKind::Ssh(grant(
                &options.id,
                options.uid,
                options.gid,
                options.mode,
                options.optional,
            ))
        }
        Err(_) => return Err(fail(format!("mount type {} not implemented", wire.mount_type))),
    };
    let mut output = index(wire.output, usize::MAX).map_err(|index| fail(format!("output {index}")))?;
    if !matches!(kind, MountKind::Bind | MountKind::Cache { .. }) {
        // Nothing is kept of it. Clients leave the field as it is for secrets and agents: 0, which is the root's.
        output = None;
    }
    Ok(Mount {
        dest: normal_dest(&wire.dest),
        input: index(wire.input, inputs).map_err(|index| fail(format!("missing input {index}")))?,
        selector: wire.selector,
        readonly: wire.readonly,
        output,
        kind,
        content_cache: match pb::MountContentCache::try_from(wire.content_cache) {
            Ok(pb::MountContentCache::Default) => ContentCache::Default,
            Ok(pb::MountContentCache::On) => ContentCache::On,
            Ok(pb::MountContentCache::Off) => ContentCache::Off,
            Err(_) => return Err(fail(format!("unknown content cache mode {}", wire.content_cache))),
        },
    })
}

/// A kind of mounts as definitions call it.
fn type_name(kind: &MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "BIND",
        MountKind::Secret(_) => "SECRET",
        MountKind::Ssh(_) => "SSH",
        MountKind::Cache { .. } => "CACHE",
        MountKind::Tmpfs { .. } => "TMPFS",
    }
}

/// `/`, `//` and `/.` all mean the root; anything else stays as it is.
fn normal_dest(dest: &str) -> String {
    let is_root = dest.starts_with('/')
        && Path::new(dest)
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::CurDir));
    if is_root { "/".to_owned() } else { dest.to_owned() }
}

fn merge(vertex: VertexDigest, inputs: usize, wire: &pb::MergeOp) -> Result<Op, DecodeError> {
    let indexes = wire
        .inputs
        .iter()
        .map(|input| {
            index(input.input, inputs)
                .ok()
                .flatten()
                .ok_or_else(|| invalid("merge", vertex, format!("missing input {}", input.input)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if indexes.is_empty() {
        return Err(invalid("merge", vertex, "no inputs"));
    }
    Ok(Op::Merge { inputs: indexes })
}

fn diff(vertex: VertexDigest, inputs: usize, wire: &pb::DiffOp) -> Result<Op, DecodeError> {
    let side = |input: Option<i64>, name: &str| {
        let input = input.ok_or_else(|| invalid("diff", vertex, format!("no {name} side")))?;
        index(input, inputs).map_err(|index| invalid("diff", vertex, format!("missing {name} input {index}")))
    };
    Ok(Op::Diff {
        lower: side(wire.lower.as_ref().map(|side| side.input), "lower")?,
        upper: side(wire.upper.as_ref().map(|side| side.input), "upper")?,
    })
}

fn passthrough(vertex: VertexDigest, inputs: usize, wire: pb::PassthroughOp) -> Result<Op, DecodeError> {
    let fail = |message: &str| invalid("passthrough", vertex, message);
    if wire.id.is_empty() {
        return Err(fail("no id"));
    }
    if wire.outputs.is_empty() {
        return Err(fail("no outputs"));
    }
    let outputs = wire
        .outputs
        .iter()
        .map(|&output| {
            index(output, inputs)
                .ok()
                .flatten()
                .ok_or_else(|| fail("an output is not one of the inputs"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Op::Passthrough { id: wire.id, outputs })
}

/// What says that a definition is to be built by the daemon itself; nothing else can be said.
const LLB_BUILDER: i64 = -1;
/// Name of the attribute with the name of a definition's file.
const LLB_FILENAME: &str = "llbbuild.filename";

fn build(vertex: VertexDigest, inputs: usize, wire: pb::BuildOp) -> Result<BuildOp, DecodeError> {
    let fail = |message: String| invalid("build", vertex, message);
    if wire.builder != LLB_BUILDER {
        return Err(fail("only LLB builder is currently allowed".to_owned()));
    }
    if wire.def.is_some_and(|def| !def.def.is_empty()) {
        return Err(unsupported(vertex, "a definition inside of a build op"));
    }
    let mut attrs = wire.attrs;
    let filename = attrs.remove(LLB_FILENAME).unwrap_or_default();
    if let Some(attr) = attrs.keys().next() {
        return Err(unsupported(vertex, format!("attribute {attr:?} of a build op")));
    }
    if filename.contains('\0') {
        return Err(fail("a NUL byte in a path".to_owned()));
    }
    let mut indexes = BTreeMap::new();
    for (name, input) in wire.inputs {
        match index(input.input, inputs) {
            Ok(Some(index)) => indexes.insert(name, index),
            _ => return Err(fail(format!("input {name:?}: missing input {}", input.input))),
        };
    }
    BuildOp::new(indexes, filename)
        .ok_or_else(|| fail(format!("no llb definition input {} found", BuildOp::DEFINITION)))
}

/// An index on the wire: -1 is none, anything else must be below `limit`.
pub(super) fn index(wire: i64, limit: usize) -> Result<Option<usize>, i64> {
    if wire == -1 {
        return Ok(None);
    }
    usize::try_from(wire)
        .ok()
        .filter(|&index| index < limit)
        .map(Some)
        .ok_or(wire)
}

/// Checks that outputs are numbered from 0 without gaps or repetitions, and that there is at least one.
pub(super) fn dense(outputs: impl Iterator<Item = Option<usize>>) -> Result<(), String> {
    let mut numbers: Vec<usize> = outputs.flatten().collect();
    if numbers.is_empty() {
        return Err("no outputs specified".to_owned());
    }
    numbers.sort_unstable();
    for (want, &number) in numbers.iter().enumerate() {
        match number.cmp(&want) {
            std::cmp::Ordering::Less => return Err(format!("duplicate output {number}")),
            std::cmp::Ordering::Greater => return Err(format!("missing output index {want}")),
            std::cmp::Ordering::Equal => {}
        }
    }
    Ok(())
}
