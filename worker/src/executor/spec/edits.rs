//! What devices change about a container, in terms of the specification.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, HooksBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::executor::edits::{self, DeviceNode, Edits, HookStage, NodeKind};
use crate::executor::process::ProcessSpec;
use crate::executor::user::User;

/// The environment of a process, in which variables of its devices replace others.
pub(super) fn env(process: &ProcessSpec) -> Vec<String> {
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    let mut env = process.env.clone();
    for entry in &process.devices.env {
        match env.iter_mut().find(|known| name(known) == name(entry)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}

/// Groups that a process is in besides its own.
pub(super) fn groups(process: &ProcessSpec) -> Vec<u32> {
    let mut groups = process.user.groups.clone();
    for gid in &process.devices.groups {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    groups
}

/// The files that stand for devices. Of two at one path, the later one counts.
pub(super) fn nodes(edits: &Edits, user: &User) -> Result<Vec<LinuxDevice>, OciSpecError> {
    let is_last =
        |place: usize, node: &DeviceNode| !edits.nodes[place + 1..].iter().any(|later| later.path == node.path);
    let nodes = edits
        .nodes
        .iter()
        .enumerate()
        .filter(|(place, node)| is_last(*place, node));
    let made = nodes.map(|(_, node)| {
        LinuxDeviceBuilder::default()
            .path(&node.path)
            .typ(kind(node.kind))
            .major(i64::from(node.major))
            .minor(i64::from(node.minor))
            .file_mode(node.mode)
            .uid(node.uid.unwrap_or(user.uid))
            .gid(node.gid.unwrap_or(user.gid))
            .build()
    });
    made.collect()
}

/// What the control group allows besides what every process may use.
pub(super) fn device_rules(edits: &Edits) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let governed = edits
        .nodes
        .iter()
        .filter(|node| node.kind != NodeKind::Pipe && !node.access.is_empty());
    let rules = governed.map(|node| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(node.kind))
            .major(i64::from(node.major))
            .minor(i64::from(node.minor))
            .access(node.access.clone())
            .build()
    });
    rules.collect()
}

/// The programs that the runtime calls; `None` if there are none.
pub(super) fn hooks(edits: &Edits) -> Result<Option<Hooks>, OciSpecError> {
    if edits.hooks.is_empty() {
        return Ok(None);
    }
    let of = |stage: HookStage| {
        let hooks = edits.hooks.iter().filter(|hook| hook.stage == stage);
        hooks.map(hook).collect::<Result<Vec<_>, _>>()
    };
    let hooks = HooksBuilder::default()
        .prestart(of(HookStage::Prestart)?)
        .create_runtime(of(HookStage::CreateRuntime)?)
        .create_container(of(HookStage::CreateContainer)?)
        .start_container(of(HookStage::StartContainer)?)
        .poststart(of(HookStage::Poststart)?)
        .poststop(of(HookStage::Poststop)?)
        .build()?;
    Ok(Some(hooks))
}

fn hook(hook: &edits::Hook) -> Result<Hook, OciSpecError> {
    let args = if hook.args.is_empty() {
        vec![hook.path.to_string_lossy().into_owned()]
    } else {
        hook.args.clone()
    };
    let made = HookBuilder::default().path(&hook.path).args(args).env(hook.env.clone());
    match hook.timeout {
        Some(seconds) => made.timeout(i64::from(seconds)).build(),
        None => made.build(),
    }
}

fn kind(kind: NodeKind) -> LinuxDeviceType {
    match kind {
        NodeKind::Block => LinuxDeviceType::B,
        NodeKind::Character => LinuxDeviceType::C,
        NodeKind::Pipe => LinuxDeviceType::P,
    }
}
