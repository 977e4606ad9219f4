use super::super::spec::{Spec, Syntax};
use super::*;

/// What is made of the edits of one device.
fn collected(edits: &str) -> Result<Edits, String> {
    let text = format!("cdiVersion: 1.1.0\nkind: v.com/c\ndevices: [{{name: a, containerEdits: {edits}}}]");
    let spec = Spec::parse(&text, Syntax::Yaml).unwrap();
    let origin = Origin { device: "v.com/c=a" };
    let mut made = Edits::default();
    let outcome = origin.collect(&spec.devices[0].container_edits, &mut made);
    outcome
        .map(|()| made)
        .map_err(|error| crate::causes::with_causes(&error))
}

#[test]
fn device_nodes_are_described_to_the_last_number() {
    for (node, want) in [
        (
            "{path: /dev/x, type: c, major: 10, minor: 5}",
            (NodeKind::Character, 10, 5, 0o666, "rwm"),
        ),
        (
            "{path: /dev/x, type: b, major: 7, permissions: r, fileMode: 0640}",
            (NodeKind::Block, 7, 0, 0o640, "r"),
        ),
        (
            "{path: /dev/x, type: p, permissions: none}",
            (NodeKind::Pipe, 0, 0, 0o666, ""),
        ),
        ("{path: /dev/null}", (NodeKind::Character, 1, 3, 0o666, "rwm")),
        (
            "{path: /dev/null, major: 7, minor: 8}",
            (NodeKind::Character, 7, 8, 0o666, "rwm"),
        ),
        (
            "{path: /dev/x, hostPath: /dev/zero, type: c}",
            (NodeKind::Character, 1, 5, 0o666, "rwm"),
        ),
    ] {
        let edits = collected(&format!("{{deviceNodes: [{node}]}}")).unwrap();
        let made = &edits.nodes[0];
        let found = (made.kind, made.major, made.minor, made.mode, made.access.as_str());
        assert_eq!(found, want, "{node}");
    }
}

#[test]
fn mounts_are_restricted_as_their_options_say() {
    let edits =
        "{mounts: [{hostPath: /h, containerPath: /c/., options: [rbind, ro, nosuid, nodev, noexec, exec, rprivate]}]}";
    let edits = collected(edits).unwrap();
    let want = HostMount {
        source: "/h".into(),
        dest: "/c".into(),
        restrictions: Restrictions {
            readonly: true,
            nosuid: true,
            nodev: true,
            noexec: false,
        },
        is_recursive: true,
    };
    assert_eq!(edits.mounts, [want]);
}

#[test]
fn what_cannot_be_done_is_refused_and_named() {
    for (edits, want) in [
        (
            "{intelRdt: {}}",
            "device v.com/c=a: limits by Intel RDT are not supported",
        ),
        (
            "{netDevices: [{hostInterfaceName: a, name: b}]}",
            "network devices are not supported",
        ),
        (
            "{deviceNodes: [{path: /x, type: c, major: 1}]}",
            "a device node at /x is not supported",
        ),
        (
            "{deviceNodes: [{path: /dev, type: c, major: 1}]}",
            "a device node at /dev is not supported",
        ),
        (
            "{deviceNodes: [{path: /dev/no-such}]}",
            "failed to look at /dev/no-such",
        ),
        ("{deviceNodes: [{path: /dev/x, hostPath: /etc}]}", "it is no device"),
        (
            "{deviceNodes: [{path: /dev/null, type: b}]}",
            "a device of another type",
        ),
        (
            "{mounts: [{hostPath: /h, containerPath: /c, type: tmpfs}]}",
            "a mount of type \"tmpfs\" is not supported",
        ),
        (
            "{mounts: [{hostPath: /h, containerPath: /c, options: [rshared]}]}",
            "mount option \"rshared\" is not supported",
        ),
        (
            "{mounts: [{hostPath: /h, containerPath: /./}]}",
            "a mount over everything is not supported",
        ),
    ] {
        let error = collected(edits).unwrap_err();
        assert!(error.contains(want), "{edits}: {error}");
    }
    let hooks = collected("{hooks: [{hookName: createRuntime, path: /h}]}")
        .unwrap()
        .hooks;
    assert_eq!(hooks.len(), 1);
    assert_eq!(collected("{additionalGids: [0, 5]}").unwrap().groups, [5]);
}
