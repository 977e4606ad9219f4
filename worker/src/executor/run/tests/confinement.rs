//! What processes may do.

use super::*;

#[tokio::test]
async fn confinement_is_dockers() {
    let Some(f) = fixture().await else { return };
    let (text, _) = f
        .ok(script("grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status"))
        .await;
    let value = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.split_ascii_whitespace().nth(1).unwrap().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(value(set), "00000000a80425fb", "{set}");
    }
    // cve_2022_24769: no inheritable capabilities.
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(value("Seccomp"), "2");
    let refused = "! mount -t tmpfs x /tmp 2>/dev/null; ! unshare -U true 2>/dev/null; ! touch /proc/sys/x 2>/dev/null; \
                   test ! -s /proc/kcore; ! touch /sys/x 2>/dev/null; ! touch /sys/fs/cgroup/x 2>/dev/null; ls /sys/firmware";
    let (text, _) = f.ok(script(refused)).await;
    assert_eq!(text, "");
}

#[tokio::test]
async fn insecure_processes_are_not_confined() {
    let Some(f) = fixture().await else { return };
    let op = script("grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp");
    let (text, _) = f
        .ok(ExecOp {
            security: SecurityMode::Insecure,
            ..op
        })
        .await;
    assert!(text.contains("Seccomp:\t0"), "{text}");
    assert!(!text.contains("a80425fb"), "{text}");
}

#[tokio::test]
async fn cve_2024_21626_no_descriptors_leak_in() {
    let Some(f) = fixture().await else { return };
    let (text, _) = f
        .ok(script("for fd in /proc/self/fd/*; do readlink $fd || true; done"))
        .await;
    assert!(
        text.lines()
            .all(|line| line.starts_with("pipe:") || line == "/dev/null" || line.starts_with("/proc/")),
        "{text}"
    );
    for cwd in ["/proc/self/fd/7", "/link/self/fd/8"] {
        let op = ExecOp {
            cwd: cwd.to_owned(),
            ..script("pwd")
        };
        let mut request = f.request(op);
        let writable = f.layers.prepare(&f.base).unwrap();
        writable.upper().symlink("/proc", "link").unwrap();
        request.inputs = vec![Some(writable.commit(&Describe::default()).unwrap())];
        let error = f.run_request(request).await.0.unwrap_err();
        assert!(matches!(error, ExecError::Invalid(_)), "{cwd}: {error}");
    }
}
