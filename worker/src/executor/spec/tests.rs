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
        }],
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
    assert!(capabilities.inheritable().as_ref().unwrap().is_empty());
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
