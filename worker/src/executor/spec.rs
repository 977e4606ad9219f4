//! The one place where OCI runtime specifications are made.
//!
//! Whatever runs — build steps, frontends, debug shells — is confined by what is decided here: Docker's default
//! capabilities, seccomp profile, masked and read-only paths. [`SecurityMode`] has two values and a `match` on it is
//! complete, so that no third way around the confinement can come in from outside.

mod edits;

use std::path::{Path, PathBuf};

use cairn_solver::llb::{LinuxResources, SecurityMode};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDevice,
    LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, LinuxSeccomp, Mount,
    MountBuilder, PosixRlimit, PosixRlimitBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use super::process::{ExecutorError, Network, ProcessSpec};
use crate::sys::abi;

/// Version of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.0.2";

/// Docker's default capabilities.
const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Capabilities there are, by number, as in `linux/capability.h`.
const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Paths that show nothing.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that cannot be written.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices that an unconfined process finds, with their numbers: what is behind one may only be there once it
/// is opened.
const CHARACTER_DEVICES: [(&str, i64, i64); 6] = [
    ("/dev/kmsg", 1, 11),
    ("/dev/net/tun", 10, 200),
    ("/dev/cuse", 10, 203),
    ("/dev/fuse", 10, 229),
    ("/dev/kvm", 10, 232),
    ("/dev/loop-control", 10, 237),
];

/// The number of loop devices among block devices.
const LOOP_MAJOR: i64 = 7;
/// How many loop devices an unconfined process finds besides those that the host has.
const MORE_LOOPS: i64 = 8;
/// Most of all.
const MAX_LOOPS: i64 = 256;

/// Docker's default profile for processes without privileges, but for the architectures.
const SECCOMP: &str = include_str!("seccomp.json");

/// Makes the specification of a process. Without `cgroup` it is in the daemon's control group, without limits.
pub fn runtime_spec(process: &ProcessSpec, cgroup: Option<&Path>) -> Result<Spec, ExecutorError> {
    build(process, cgroup).map_err(|error| ExecutorError::Spec(error.to_string()))
}

/// Makes the description of a process for a container that runs already.
pub fn runtime_process(process: &ProcessSpec) -> Result<Process, ExecutorError> {
    run(process).map_err(|error| ExecutorError::Spec(error.to_string()))
}

fn build(process: &ProcessSpec, cgroup: Option<&Path>) -> Result<Spec, OciSpecError> {
    let root = RootBuilder::default()
        .path(&process.rootfs)
        .readonly(process.rootfs_readonly)
        .build()?;
    let mut linux = LinuxBuilder::default().namespaces(namespaces(&process.network)?);
    let mut rules = device_rules(process.security)?;
    rules.extend(edits::device_rules(&process.devices)?);
    let mut resources = LinuxResourcesBuilder::default().devices(rules);
    if let Some(cgroup) = cgroup {
        linux = linux.cgroups_path(cgroup);
        resources = limits(resources, &process.resources)?;
    }
    linux = linux.resources(resources.build()?);
    let mut devices = edits::nodes(&process.devices, &process.user)?;
    linux = match process.security {
        SecurityMode::Sandbox => linux
            .seccomp(seccomp()?)
            .masked_paths(MASKED.map(str::to_owned).to_vec())
            .readonly_paths(READONLY.map(str::to_owned).to_vec()),
        SecurityMode::Insecure => {
            let mut others = host_devices()?;
            others.retain(|host| devices.iter().all(|device| device.path() != host.path()));
            devices.extend(others);
            linux.masked_paths(Vec::new()).readonly_paths(Vec::new())
        }
    };
    if !devices.is_empty() {
        linux = linux.devices(devices);
    }
    let spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(run(process)?)
        .hostname(process.hostname.clone())
        .mounts(mounts(process)?)
        .linux(linux.build()?);
    match edits::hooks(&process.devices)? {
        Some(hooks) => spec.hooks(hooks).build(),
        None => spec.build(),
    }
}

/// What concerns the process itself, whether it is the first of its container or not.
fn run(process: &ProcessSpec) -> Result<Process, OciSpecError> {
    let user = UserBuilder::default()
        .uid(process.user.uid)
        .gid(process.user.gid)
        .additional_gids(edits::groups(process))
        .build()?;
    let rlimits: Vec<PosixRlimit> = process
        .rlimits
        .iter()
        .map(|limit| {
            PosixRlimitBuilder::default()
                .typ(limit.kind)
                .soft(limit.soft)
                .hard(limit.hard)
                .build()
        })
        .collect::<Result<_, _>>()?;
    ProcessBuilder::default()
        .terminal(process.terminal)
        .user(user)
        .args(process.args.clone())
        .env(edits::env(process))
        .cwd(&process.cwd)
        .capabilities(capabilities(process.security)?)
        .rlimits(rlimits)
        .no_new_privileges(false)
        .build()
}

/// In the sandbox, inheritable and ambient sets are empty: files with inheritable capabilities must not gain by them. An
/// unconfined process has all of them also as another user than root.
fn capabilities(security: SecurityMode) -> Result<oci_spec::runtime::LinuxCapabilities, OciSpecError> {
    let (held, inherited): (Capabilities, Capabilities) = match security {
        SecurityMode::Sandbox => (CAPABILITIES.into_iter().collect(), Capabilities::new()),
        SecurityMode::Insecure => (own_capabilities(), own_capabilities()),
    };
    LinuxCapabilitiesBuilder::default()
        .bounding(held.clone())
        .effective(held.clone())
        .permitted(held)
        .inheritable(inherited.clone())
        .ambient(inherited)
        .build()
}

/// All that the daemon has itself; naming another, or one the kernel does not know, would fail the start.
fn own_capabilities() -> Capabilities {
    let held = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| permitted(&status))
        .unwrap_or(0);
    ALL_CAPABILITIES
        .into_iter()
        .enumerate()
        .filter(|(number, _)| held >> number & 1 == 1)
        .map(|(_, c)| c)
        .collect()
}

/// The set of permitted capabilities in `/proc/PID/status`.
fn permitted(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// A control group namespace always: the host's groups must not be there to be written.
fn namespaces(network: &Network) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let new = |kind| LinuxNamespaceBuilder::default().typ(kind);
    let kinds = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    let network = match network {
        Network::Host => None,
        Network::None => Some(new(LinuxNamespaceType::Network)),
        Network::Namespace(path) => Some(new(LinuxNamespaceType::Network).path(path)),
    };
    kinds
        .map(new)
        .into_iter()
        .chain(network)
        .map(|namespace| namespace.build())
        .collect()
}

fn seccomp() -> Result<LinuxSeccomp, OciSpecError> {
    let mut profile: LinuxSeccomp = serde_json::from_str(SECCOMP).map_err(OciSpecError::SerDe)?;
    let architectures = if cfg!(target_arch = "x86_64") {
        x86_architectures(abi::takes_x32())
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchNative]
    };
    profile.set_architectures(Some(architectures));
    Ok(profile)
}

/// The runtime compiles its filter anew for every process, each architecture on top of the ones before it: x32 alone
/// takes it a third of its time. It is left out where the kernel refuses all calls of that kind anyway.
fn x86_architectures(takes_x32: bool) -> Vec<Arch> {
    let mut architectures = vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86];
    if takes_x32 {
        architectures.push(Arch::ScmpArchX32);
    }
    architectures
}

/// Nothing but what the runtime always allows (null, zero, full, random, urandom, tty, ptmx); or everything.
fn device_rules(security: SecurityMode) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let allow = match security {
        SecurityMode::Sandbox => false,
        SecurityMode::Insecure => true,
    };
    Ok(vec![
        LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm").build()?,
    ])
}

/// What an unconfined process finds in `/dev` beside what everybody does.
fn host_devices() -> Result<Vec<LinuxDevice>, OciSpecError> {
    let device = |path: &str, kind, major, minor| {
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(kind)
            .major(major)
            .minor(minor)
            .file_mode(0o666u32)
            .uid(0u32)
            .gid(0u32)
            .build()
    };
    let characters = CHARACTER_DEVICES
        .into_iter()
        .map(|(path, major, minor)| device(path, LinuxDeviceType::C, major, minor));
    // A free one is made when it is asked for, but its file is not, as this is no file system that the kernel fills.
    let loops =
        (0..loop_count()).map(|minor| device(&format!("/dev/loop{minor}"), LinuxDeviceType::B, LOOP_MAJOR, minor));
    characters.chain(loops).collect()
}

fn loop_count() -> i64 {
    let Ok(blocks) = std::fs::read_dir("/sys/block") else {
        return MORE_LOOPS;
    };
    let names = blocks
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let numbers = names.filter_map(|name| name.strip_prefix("loop")?.parse::<i64>().ok());
    let known = numbers.max().map_or(0, |last| last.saturating_add(1));
    known.saturating_add(MORE_LOOPS).min(MAX_LOOPS)
}

fn limits(builder: LinuxResourcesBuilder, resources: &LinuxResources) -> Result<LinuxResourcesBuilder, OciSpecError> {
    let mut memory = LinuxMemoryBuilder::default();
    if resources.memory > 0 {
        memory = memory.limit(resources.memory);
    }
    if resources.memory_swap != 0 {
        memory = memory.swap(resources.memory_swap);
    }
    let mut cpu = LinuxCpuBuilder::default();
    if resources.cpu_shares > 0 {
        cpu = cpu.shares(resources.cpu_shares);
    }
    if resources.cpu_period > 0 {
        cpu = cpu.period(resources.cpu_period);
    }
    if resources.cpu_quota != 0 {
        cpu = cpu.quota(resources.cpu_quota);
    }
    if !resources.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        cpu = cpu.mems(resources.cpuset_mems.clone());
    }
    Ok(builder.memory(memory.build()?).cpu(cpu.build()?))
}

fn mounts(process: &ProcessSpec) -> Result<Vec<Mount>, OciSpecError> {
    let sys_access = match process.security {
        SecurityMode::Sandbox => "ro",
        SecurityMode::Insecure => "rw",
    };
    let system: [(&str, &str, &[&str]); 7] = [
        ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        (
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys_access]),
        (
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sys_access],
        ),
    ];
    let mut mounts = Vec::new();
    for (dest, kind, options) in system {
        // What is asked for at the same place takes the place.
        if process.late_mounts.iter().any(|late| late.dest == Path::new(dest)) {
            continue;
        }
        mounts.push(mount(
            Path::new(dest),
            kind,
            Path::new(kind),
            options.iter().map(|&o| o.to_owned()).collect(),
        )?);
    }
    for late in &process.late_mounts {
        let access = if late.readonly { "ro" } else { "rw" };
        let (bind, private) = if late.is_recursive {
            ("rbind", "rprivate")
        } else {
            ("bind", "private")
        };
        let mut options = vec![bind, private, "nosuid", access];
        if !late.has_devices {
            options.push("nodev");
        }
        let options = options.into_iter().map(str::to_owned).collect();
        mounts.push(mount(&late.dest, "bind", &late.source, options)?);
    }
    Ok(mounts)
}

fn mount(dest: &Path, kind: &str, source: &Path, options: Vec<String>) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(dest)
        .typ(kind)
        .source(PathBuf::from(source))
        .options(options)
        .build()
}

#[cfg(test)]
mod tests;
