use super::*;

const WHOLE: &str = r#"
cdiVersion: "1.0.0"
kind: vendor.com/gpu
annotations: {org.example/note: all}
containerEdits:
  env: [COMMON=1]
devices:
- name: "0"
  annotations: null
  containerEdits:
    deviceNodes:
    - {path: /dev/gpu0, hostPath: /dev/null, type: c, major: 1, minor: 3, fileMode: 0660, permissions: rw, uid: 5, gid: 6}
    mounts:
    - {hostPath: /opt/lib, containerPath: /lib/gpu, options: [ro, rbind], type: bind}
    hooks:
    - {hookName: createContainer, path: /bin/hook, args: [hook, a], env: [A=b], timeout: 3}
    additionalGids: [7]
    intelRdt: {closID: x}
- name: all:MIG-1.g
  containerEdits: {env: [ALL=1]}
"#;

#[test]
fn a_file_is_read_in_both_forms() {
    let yaml = Spec::parse(WHOLE, Syntax::Yaml).unwrap();
    assert_eq!(yaml.devices.len(), 2);
    assert_eq!(yaml.container_edits.env, ["COMMON=1"]);
    let edits = &yaml.devices[0].container_edits;
    let node = &edits.device_nodes[0];
    assert_eq!((node.major, node.minor, node.file_mode), (1, 3, Some(0o660)));
    assert_eq!(edits.hooks[0].hook_name, HookStage::CreateContainer);
    assert_eq!(edits.additional_gids, [7]);
    assert!(edits.intel_rdt.is_some());
    let json = r#"{"cdiVersion":"0.5.0","kind":"v.com/c","devices":[{"name":"a","containerEdits":{"env":["A=1"]}}]}"#;
    let json = Spec::parse(json, Syntax::Json).unwrap();
    assert_eq!(json.devices[0].container_edits.env, ["A=1"]);
    for (name, want) in [
        ("a.json", Some(Syntax::Json)),
        ("a.yaml", Some(Syntax::Yaml)),
        ("a.yml", Some(Syntax::Yaml)),
        ("a.json.bak", None),
        ("json", None),
    ] {
        assert_eq!(Syntax::of(Path::new(name)), want, "{name}");
    }
}

/// A file with one device whose edits these are.
fn with(edits: &str) -> String {
    format!("cdiVersion: 1.1.0\nkind: v.com/c\ndevices: [{{name: a, containerEdits: {edits}}}]")
}

#[test]
fn what_makes_no_sense_is_refused() {
    let long = format!("{{env: [{}]}}", vec!["A=1"; MAX_ENTRIES + 1].join(", "));
    let old =
        |version: &str, kind: &str, device: &str| format!("cdiVersion: {version}\nkind: {kind}\ndevices: [{device}]");
    let env = "containerEdits: {env: [A=1]}";
    for (text, want) in [
        ("{", "failed to parse"),
        ("kind: v.com/c\ndevices: []", "cdiVersion"),
        ("cdiVersion: 1.0.0\nkind: v.com/c\ndevices: []", "no devices"),
        (&old("0.9.0", "v.com/c", ""), "invalid version \"0.9.0\""),
        (&old("v1.0.0", "v.com/c", ""), "invalid version"),
        (&old("1.0.0", "c", ""), "invalid kind \"c\""),
        (&old("1.0.0", "v/c/d", ""), "invalid class"),
        (
            &old("1.0.0", "v.com/c", &format!("{{name: '', {env}}}")),
            "invalid device name \"\"",
        ),
        (
            &old("1.0.0", "v.com/c", &format!("{{name: a=b, {env}}}")),
            "invalid device name",
        ),
        (&old("1.0.0", "v.com/c", "{name: a}"), "nothing is changed for it"),
        (
            &old("1.0.0", "v.com/c", &format!("{{name: a, {env}}}, {{name: a, {env}}}")),
            "there are two of this name",
        ),
        (
            &old(
                "1.0.0",
                "v.com/c",
                &format!("{{name: a, annotations: {{a b: c}}, {env}}}"),
            ),
            "invalid annotation \"a b\"",
        ),
        (
            &old("0.4.0", "v.com/c", &format!("{{name: '0', {env}}}")),
            "needs version 0.5.0",
        ),
        (
            &old("0.5.0", "v.com/c.d", &format!("{{name: a, {env}}}")),
            "needs version 0.6.0",
        ),
        (
            &old("0.6.0", "v.com/c", "{name: a, containerEdits: {additionalGids: [1]}}"),
            "needs version 0.7.0",
        ),
        (&with("{colour: red}"), "colour"),
        (&with("{env: [A]}"), "invalid environment variable \"A\""),
        (&with("{env: [=A]}"), "invalid environment variable"),
        (&with(&long), "1025 variables: there can be at most 1024"),
        (&with("{deviceNodes: [{path: dev/x}]}"), "must be absolute"),
        (&with("{deviceNodes: [{path: /dev/../x}]}"), "without \"..\""),
        (&with("{deviceNodes: [{path: /dev/x, type: d}]}"), "invalid type \"d\""),
        (
            &with("{deviceNodes: [{path: /dev/x, permissions: rx}]}"),
            "invalid permissions",
        ),
        (&with("{deviceNodes: [{path: /dev/x, major: -1}]}"), "failed to parse"),
        (
            &with("{mounts: [{hostPath: x, containerPath: /y}]}"),
            "host path of a mount",
        ),
        (
            &with("{mounts: [{hostPath: /x, containerPath: ''}]}"),
            "container path of a mount",
        ),
        (&with("{hooks: [{hookName: never, path: /x}]}"), "failed to parse"),
        (&with("{hooks: [{hookName: poststop, path: x}]}"), "path of a hook"),
        (
            &with("{hooks: [{hookName: poststop, path: /x, timeout: 0}]}"),
            "no time",
        ),
        (
            &with("{hooks: [{hookName: poststop, path: /x, env: [A]}]}"),
            "invalid environment",
        ),
    ] {
        let error = Spec::parse(text, Syntax::Yaml).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}

#[test]
fn aliases_cannot_make_much_of_little() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", ")));
    }
    bomb.push_str(&with("{env: [A=1]}"));
    assert!(Spec::parse(&bomb, Syntax::Yaml).is_err());
    let deep = "[".repeat(100_000);
    assert!(Spec::parse(&deep, Syntax::Yaml).is_err());
    assert!(Spec::parse(&deep, Syntax::Json).is_err());
}

proptest::proptest! {
    #[test]
    fn whatever_stands_in_a_file_is_read_or_refused(cut in 0..WHOLE.len(), byte in 0u8..128) {
        let mut text = WHOLE.as_bytes().to_vec();
        text[cut] = byte;
        // Any answer is right that is one.
        let _answer = Spec::parse(&String::from_utf8_lossy(&text), Syntax::Yaml).is_ok();
        let _answer = Spec::parse(&WHOLE[..cut], Syntax::Yaml).is_ok();
    }
}
