use super::*;
use crate::executor::process::LateMount;

fn process(security: SecurityMode) -> ProcessSpec {
    ProcessSpec {
        rootfs: "/r".into(),
        rootfs_readonly: true,
        late_mounts: vec![LateMount {
            dest: "/dev/shm".into(),
            source: "/s".into(),
            readonly: false,
            has_devices: false,
            is_recursive: false,
        }],
        devices: Default::default(),
        args: vec!["a".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: Default::default(),
        hostname: "h".to_owned(),
        rlimits: Vec::new(),
        network: Network::None,
        security,
        cgroup_parent: String::new(),
        resources: LinuxResources {
            memory: 5,
            cpu_shares: 6,
            ..LinuxResources::default()
        },
        terminal: false,
    }
}

#[test]
fn architectures_are_those_that_the_kernel_takes() {
    use Arch::{ScmpArchX32 as X32, ScmpArchX86 as X86, ScmpArchX86_64 as X86_64};
    assert_eq!(x86_architectures(true), [X86_64, X86, X32]);
    assert_eq!(x86_architectures(false), [X86_64, X86]);
}

#[test]
fn the_profile_parses_and_names_each_call_once() {
    let profile = seccomp().unwrap();
    let mut seen = std::collections::HashSet::new();
    for rule in profile
        .syscalls()
        .as_ref()
        .unwrap()
        .iter()
        .filter(|rule| rule.args().is_none())
    {
        for name in rule.names() {
            assert!(seen.insert(name.clone()), "{name} twice");
        }
    }
    for refused in [
        "mount",
        "umount2",
        "pivot_root",
        "setns",
        "unshare",
        "bpf",
        "keyctl",
        "init_module",
        "kexec_load",
        "open_by_handle_at",
        "userfaultfd",
        "perf_event_open",
        "io_uring_setup",
        "reboot",
        "settimeofday",
        "swapon",
        "quotactl",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsmount",
        "mount_setattr",
    ] {
        assert!(!seen.contains(refused), "{refused} is allowed");
    }
    for allowed in ["openat", "execve", "futex", "chroot", "mknod", "ptrace"] {
        assert!(seen.contains(allowed), "{allowed} is refused");
    }
}

#[test]
fn ghsa_7236_3392_c5c6_only_insecure_lifts_the_confinement() {
    let spec = runtime_spec(&process(SecurityMode::Sandbox), Some(Path::new("/g/r"))).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    assert_eq!(linux.masked_paths().as_ref().unwrap().len(), MASKED.len());
    assert_eq!(linux.readonly_paths().as_ref().unwrap().len(), READONLY.len());
    assert!(linux.devices().is_none());
    let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 14);
    assert!(capabilities.inheritable().as_ref().unwrap().is_empty());
    assert!(capabilities.ambient().as_ref().unwrap().is_empty());

    let spec = runtime_spec(&process(SecurityMode::Insecure), None).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    assert!(linux.cgroups_path().is_none());
    let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding(), &Some(own_capabilities()));
    assert_eq!(capabilities.inheritable(), capabilities.bounding());
    assert_eq!(capabilities.ambient(), capabilities.bounding());
    let devices = linux.devices().as_ref().unwrap();
    for path in [
        "/dev/kmsg",
        "/dev/cuse",
        "/dev/fuse",
        "/dev/loop-control",
        "/dev/loop0",
        "/dev/loop7",
    ] {
        assert!(
            devices.iter().any(|device| device.path() == Path::new(path)),
            "no {path}"
        );
    }
}

#[test]
fn cve_2023_25809_there_is_always_a_control_group_namespace() {
    let spec = runtime_spec(&process(SecurityMode::Insecure), None).unwrap();
    let kinds: Vec<_> = spec
        .linux()
        .as_ref()
        .unwrap()
        .namespaces()
        .as_ref()
        .unwrap()
        .iter()
        .map(LinuxNamespace::typ)
        .collect();
    for kind in [
        LinuxNamespaceType::Cgroup,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
    ] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
}

#[test]
fn what_is_asked_for_takes_the_place_of_a_system_mount() {
    let spec = runtime_spec(&process(SecurityMode::Sandbox), None).unwrap();
    let mounts = spec.mounts().as_ref().unwrap();
    let shm: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.destination() == Path::new("/dev/shm"))
        .collect();
    assert_eq!(shm.len(), 1);
    assert_eq!(shm[0].source().as_deref(), Some(Path::new("/s")));
}

#[test]
fn permitted_capabilities_are_read_from_the_status() {
    assert_eq!(
        permitted("Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n"),
        Some(0xa804_25fb)
    );
    assert_eq!(permitted("Name:\tx\n"), None);
}

#[test]
fn devices_are_allowed_one_by_one() {
    use crate::executor::edits::{DeviceNode, NodeKind};
    let mut asks = process(SecurityMode::Sandbox);
    let node = |path: &str, kind, access: &str| DeviceNode {
        path: path.into(),
        kind,
        major: 10,
        minor: 5,
        mode: 0o600,
        uid: None,
        gid: None,
        access: access.to_owned(),
    };
    asks.user.uid = 7;
    asks.env = vec!["A=1".to_owned(), "B=1".to_owned()];
    asks.devices.env = vec!["B=2".to_owned(), "C=2".to_owned()];
    asks.devices.nodes = vec![
        node("/dev/a", NodeKind::Block, "rwm"),
        node("/dev/b", NodeKind::Character, ""),
        node("/dev/p", NodeKind::Pipe, "rwm"),
        node("/dev/a", NodeKind::Character, "r"),
    ];
    let spec = runtime_spec(&asks, None).unwrap();
    assert_eq!(
        spec.process().as_ref().unwrap().env().as_ref().unwrap(),
        &["A=1", "B=2", "C=2"]
    );
    let linux = spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    let found: Vec<_> = devices
        .iter()
        .map(|device| (device.path().to_str().unwrap(), device.typ(), device.uid()))
        .collect();
    assert_eq!(
        found,
        [
            ("/dev/b", LinuxDeviceType::C, Some(7)),
            ("/dev/p", LinuxDeviceType::P, Some(7)),
            ("/dev/a", LinuxDeviceType::C, Some(7)),
        ]
    );
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    let found: Vec<_> = rules
        .iter()
        .map(|rule| (rule.allow(), rule.typ(), rule.major(), rule.access().clone().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            (false, None, None, "rwm".to_owned()),
            (true, Some(LinuxDeviceType::B), Some(10), "rwm".to_owned()),
            (true, Some(LinuxDeviceType::C), Some(10), "r".to_owned()),
        ]
    );
    assert!(spec.hooks().is_none());
}

#[test]
fn a_network_that_is_there_is_joined_by_its_path() {
    let path_of = |network| {
        let process = ProcessSpec {
            network,
            ..process(SecurityMode::Sandbox)
        };
        let spec = runtime_spec(&process, None).unwrap();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let network = namespaces
            .into_iter()
            .find(|one| one.typ() == LinuxNamespaceType::Network);
        network.map(|network| network.path().clone())
    };
    assert_eq!(path_of(Network::Host), None);
    assert_eq!(path_of(Network::None), Some(None));
    assert_eq!(path_of(Network::Namespace("/n".into())), Some(Some("/n".into())));
}
