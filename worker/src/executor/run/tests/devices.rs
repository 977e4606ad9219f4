//! What devices change about a container, as the process in it sees it.

use super::*;
use crate::executor::{DeviceNode, Hook, HookStage, HostMount, NodeKind};
use crate::sys::mounts::Restrictions;

fn null(path: &str) -> DeviceNode {
    DeviceNode {
        path: path.into(),
        kind: NodeKind::Character,
        major: 1,
        minor: 3,
        mode: 0o640,
        uid: None,
        gid: Some(50),
        access: "rw".to_owned(),
    }
}

#[tokio::test]
async fn a_process_finds_its_devices_and_leaves_nothing_of_them() {
    let Some(f) = fixture().await else { return };
    let host = f.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("lib"), "of the host\n").unwrap();
    let called = host.join("called");
    let mount = |source: &Path, dest: &str, readonly| HostMount {
        source: source.to_owned(),
        dest: dest.into(),
        restrictions: Restrictions {
            readonly,
            ..Restrictions::default()
        },
        is_recursive: true,
    };
    let mut op = script(
        "stat -c '%F %t %T %a %u %g' /dev/cairn-null; echo gone > /dev/cairn-null; cat /opt/gpu/lib /dev/gpu/lib; \
         (echo x > /opt/gpu/new) 2>/dev/null || echo read-only; echo $COLOUR $SIZE; id -G",
    );
    op.user = "bob".to_owned();
    op.env = vec!["COLOUR=red".to_owned(), "SIZE=1".to_owned()];
    let mut request = f.request(op);
    request.devices = Edits {
        env: vec!["COLOUR=blue".to_owned()],
        nodes: vec![null("/dev/cairn-null")],
        mounts: vec![mount(&host, "/opt/gpu", true), mount(&host, "/dev/gpu", false)],
        groups: vec![4242],
        hooks: vec![Hook {
            stage: HookStage::CreateRuntime,
            path: "/bin/sh".into(),
            args: vec![
                "sh".to_owned(),
                "-c".to_owned(),
                format!("echo $A > {}", called.display()),
            ],
            env: vec!["A=b".to_owned()],
            timeout: Some(10),
        }],
    };
    let (outcome, sink) = f.run_request(request).await;
    let lists = outcome.unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    let text = sink.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "character special file 1 3 640 1000 50",
            "of the host",
            "of the host",
            "read-only",
            "blue 1",
            "1000 50 4242"
        ]
    );
    assert_eq!(std::fs::read_to_string(called).unwrap(), "b\n");
    assert!(f.changed(&lists[0]).is_empty(), "{:?}", f.changed(&lists[0]));
}

#[tokio::test]
async fn what_a_device_needs_of_the_host_has_to_be_there() {
    let Some(f) = fixture().await else { return };
    let mut request = f.request(script("true"));
    request.devices.mounts.push(HostMount {
        source: "/no/such/file".into(),
        dest: "/opt/x".into(),
        restrictions: Restrictions::default(),
        is_recursive: false,
    });
    let error = with_causes(&f.run_request(request).await.0.unwrap_err());
    assert!(
        error.starts_with("failed to mount /no/such/file of the host at /opt/x for a device"),
        "{error}"
    );
    let mut request = f.request(script("true"));
    request.devices.mounts.push(HostMount {
        source: f.dir.path().to_owned(),
        dest: "/proc/x".into(),
        restrictions: Restrictions::default(),
        is_recursive: false,
    });
    let error = with_causes(&f.run_request(request).await.0.unwrap_err());
    assert!(error.contains("cannot mount at /proc/x"), "{error}");
}
