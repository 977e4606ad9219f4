//! A graph as text: one paragraph per vertex, inputs by number.

use std::collections::HashMap;
use std::fmt::Write as _;

use cairn_solver::llb::{
    ActionInput, Chown, Definition, ExecOp, FileActionKind, FileOp, Graph, MountKind, NetMode, NodeIndex, Op,
    OpMetadata, SecurityMode, SourceOp, UserSpec, decode,
};

pub(crate) fn dump(definition: &Definition) -> String {
    let Some(graph) = decode(definition).expect("the frontend makes valid graphs") else {
        return "scratch\n".to_owned();
    };
    let order = topological(&graph);
    let numbers: HashMap<NodeIndex, usize> = order
        .iter()
        .enumerate()
        .map(|(number, index)| (*index, number))
        .collect();
    let mut out = String::new();
    for (number, index) in order.iter().enumerate() {
        let vertex = graph.vertex(*index);
        let inputs: Vec<String> = vertex
            .inputs
            .iter()
            .map(|edge| format!("#{}", numbers[&edge.vertex]))
            .collect();
        let platform = vertex
            .platform
            .as_ref()
            .map(|platform| format!(" ({platform})"))
            .unwrap_or_default();
        let lines = graph.source_map().locations.get(&vertex.digest).map(|locations| {
            let lines: Vec<String> = locations
                .iter()
                .flat_map(|location| &location.ranges)
                .map(|range| range.start_line.to_string())
                .collect();
            lines.join(",")
        });
        let lines = lines
            .filter(|lines| !lines.is_empty())
            .map(|lines| format!(" @{lines}"))
            .unwrap_or_default();
        writeln!(out, "#{number} {}{lines}{}", vertex.name(), extras(&vertex.metadata)).unwrap();
        writeln!(out, "   {}{platform} <- [{}]", op(&vertex.op), inputs.join(" ")).unwrap();
    }
    let result = graph.target();
    writeln!(out, "result #{}", numbers[&result.vertex]).unwrap();
    out
}

/// Depth first from the result, so that the order does not depend on digests.
fn topological(graph: &Graph) -> Vec<NodeIndex> {
    fn visit(graph: &Graph, index: NodeIndex, order: &mut Vec<NodeIndex>) {
        if order.contains(&index) {
            return;
        }
        for edge in &graph.vertex(index).inputs {
            visit(graph, edge.vertex, order);
        }
        order.push(index);
    }
    let mut order = Vec::new();
    visit(graph, graph.target().vertex, &mut order);
    order
}

fn extras(metadata: &OpMetadata) -> String {
    let mut out = String::new();
    if metadata.ignore_cache {
        out.push_str(" ignore-cache");
    }
    if let Some(group) = &metadata.progress_group {
        write!(out, " group={:?}{}", group.name, if group.weak { " weak" } else { "" }).unwrap();
    }
    if let Some(resources) = &metadata.resources {
        write!(out, " memory={}", resources.memory).unwrap();
    }
    out
}

fn op(op: &Op) -> String {
    match op {
        Op::Source(SourceOp::Image(image)) => {
            let (name, digest) = image.reference.split_once('@').unwrap_or((&image.reference, ""));
            format!("image {name}@{:.15}", digest)
        }
        Op::Source(SourceOp::Local(local)) => format!(
            "local {} follow={:?} exclude={:?} hint={} session={}",
            local.name,
            local.follow_paths,
            local.exclude,
            local.shared_key_hint,
            local.session.as_deref().unwrap_or("-")
        ),
        Op::Source(SourceOp::OciLayout(layout)) => format!("oci-layout {} store={}", layout.reference, layout.store),
        Op::Source(SourceOp::Git(git)) => format!("git {git:?}"),
        Op::Source(SourceOp::Blob(blob)) => blob.identifier(),
        Op::Source(SourceOp::Http(http)) => format!("http {http:?}"),
        Op::Exec(exec) => run(exec),
        Op::File(file) => files(file),
        Op::Merge { .. } => "merge".to_owned(),
        Op::Diff { .. } => "diff".to_owned(),
        Op::Passthrough { .. } => "passthrough".to_owned(),
        Op::Build(_) => "build".to_owned(),
    }
}

fn run(exec: &ExecOp) -> String {
    let mut out = format!("exec {:?}\n   env={:?} cwd={}", exec.args, exec.env, exec.cwd);
    for (key, value) in [
        ("user", &exec.user),
        ("hostname", &exec.hostname),
        (
            "http_proxy",
            exec.proxy.as_ref().map_or(&String::new(), |proxy| &proxy.http),
        ),
        ("cgroup", &exec.cgroup_parent),
    ] {
        if !value.is_empty() {
            write!(out, " {key}={value}").unwrap();
        }
    }
    for host in &exec.extra_hosts {
        write!(out, " host={}={}", host.host, host.ip).unwrap();
    }
    for limit in &exec.ulimits {
        write!(out, " ulimit={}={}:{}", limit.name, limit.soft, limit.hard).unwrap();
    }
    match exec.network {
        NetMode::Sandbox => {}
        mode => write!(out, " network={mode:?}").unwrap(),
    }
    if exec.security == SecurityMode::Insecure {
        out.push_str(" insecure");
    }
    for device in &exec.devices {
        let optional = if device.optional { " optional" } else { "" };
        write!(out, " device={}{optional}", device.name).unwrap();
    }
    for secret in &exec.secret_env {
        write!(
            out,
            " secret-env={}={}{}",
            secret.name,
            secret.id,
            if secret.optional { " optional" } else { "" }
        )
        .unwrap();
    }
    for mount in &exec.mounts {
        let kind = match &mount.kind {
            MountKind::Bind => "bind".to_owned(),
            MountKind::Cache { id, sharing } => format!("cache id={id} {sharing:?}"),
            MountKind::Tmpfs { size } => format!("tmpfs size={size}"),
            MountKind::Secret(grant) => format!(
                "secret {} {}:{} {:o}{}",
                grant.id,
                grant.uid,
                grant.gid,
                grant.mode,
                if grant.optional { " optional" } else { "" }
            ),
            MountKind::Ssh(grant) => format!(
                "ssh {:?} {:o}{}",
                grant.id,
                grant.mode,
                if grant.optional { " optional" } else { "" }
            ),
        };
        let input = mount.input.map_or("-".to_owned(), |input| format!("in{input}"));
        let output = mount.output.map_or(String::new(), |output| format!(" out{output}"));
        let selector = if mount.selector.is_empty() {
            String::new()
        } else {
            format!(" selector={}", mount.selector)
        };
        write!(
            out,
            "\n   mount {} {kind} {input}{selector}{}{output}",
            mount.dest,
            if mount.readonly { " ro" } else { "" }
        )
        .unwrap();
    }
    out + "\n  "
}

fn files(file: &FileOp) -> String {
    let actions: Vec<String> = file
        .actions
        .iter()
        .map(|action| {
            let output = action.output.map_or(String::new(), |output| format!(" -> out{output}"));
            format!(
                "{}{output}: {}",
                input(action.input),
                kind(&action.kind, action.secondary)
            )
        })
        .collect();
    format!("file {}", actions.join("\n        "))
}

fn input(input: Option<ActionInput>) -> String {
    match input {
        None => "scratch".to_owned(),
        Some(ActionInput::Vertex(index)) => format!("in{index}"),
        Some(ActionInput::Action(index)) => format!("action{index}"),
    }
}

fn kind(kind: &FileActionKind, secondary: Option<ActionInput>) -> String {
    match kind {
        FileActionKind::Copy(copy) => {
            let mut out = format!("copy {} {} => {}", input(secondary), copy.src, copy.dest);
            for (name, is_set) in [
                ("follow", copy.follow_symlink),
                ("contents", copy.dir_copy_contents),
                ("unpack", copy.attempt_unpack),
                ("parents", copy.create_dest_path),
                ("wildcard", copy.allow_wildcard),
                ("empty-wildcard", copy.allow_empty_wildcard),
            ] {
                if is_set {
                    write!(out, " {name}").unwrap();
                }
            }
            if let Some(owner) = &copy.owner {
                write!(out, " owner={}", chown(owner)).unwrap();
            }
            if let Some(mode) = copy.mode {
                write!(out, " mode={mode:o}").unwrap();
            }
            for (name, value) in [("mode", &copy.mode_str)] {
                if !value.is_empty() {
                    write!(out, " {name}={value}").unwrap();
                }
            }
            for (name, list) in [
                ("include", &copy.include),
                ("exclude", &copy.exclude),
                ("required", &copy.required_paths),
            ] {
                if !list.is_empty() {
                    write!(out, " {name}={list:?}").unwrap();
                }
            }
            out
        }
        FileActionKind::Mkfile { path, mode, data, .. } => format!("mkfile {path} {mode:o} {data:?}"),
        FileActionKind::Mkdir {
            path,
            mode,
            owner,
            timestamp,
            ..
        } => {
            format!(
                "mkdir {path} {mode:o} {} {timestamp:?}",
                owner.as_ref().map(chown).unwrap_or_default()
            )
        }
        other => format!("{other:?}"),
    }
}

fn chown(owner: &Chown) -> String {
    let part = |part: &Option<UserSpec>| match part {
        None => String::new(),
        Some(UserSpec::Id(id)) => id.to_string(),
        Some(UserSpec::Name { name, input: lookup }) => format!("{name}({})", input(*lookup)),
    };
    format!("{}:{}", part(&owner.user), part(&owner.group))
}
