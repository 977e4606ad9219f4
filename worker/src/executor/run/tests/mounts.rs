//! What is mounted, and where that leads.

use super::*;

#[tokio::test]
async fn mounts_follow_the_rules() {
    let Some(f) = fixture().await else { return };
    let mut op = script(
        "cat /ro/bin/one; ! touch /ro/x 2>/dev/null; touch /rw/x; touch /out/y; echo c >> /cache/f; touch /mem/z; \
         cat /run/secrets/s; stat -c %a:%u /run/secrets/s; cat /sel; test ! -e /opt; touch /dev/shm/q; echo $TOKEN",
    );
    op.mounts.extend([
        Mount {
            input: Some(1),
            readonly: true,
            ..bind("/ro")
        },
        Mount {
            input: Some(1),
            ..bind("/rw")
        },
        Mount {
            output: Some(1),
            ..bind("/out")
        },
        cache("/cache"),
        with_kind("/mem", MountKind::Tmpfs { size: 1 << 20 }),
        with_kind("/run/secrets/s", MountKind::Secret(FileGrant { uid: 5, ..grant("s") })),
        with_kind(
            "/opt",
            MountKind::Secret(FileGrant {
                optional: true,
                ..grant("none")
            }),
        ),
        with_kind("/dev/shm", MountKind::Tmpfs { size: 1 << 20 }),
        Mount {
            input: Some(1),
            selector: "/bin/link".to_owned(),
            readonly: true,
            ..bind("/sel")
        },
        Mount {
            input: Some(1),
            readonly: true,
            output: Some(2),
            ..bind("/same")
        },
    ]);
    op.secret_env = vec![SecretEnv {
        id: "s".to_owned(),
        name: "TOKEN".to_owned(),
        optional: false,
    }];
    let writable = f.layers.prepare(&f.layers.scratch()).unwrap();
    writable.upper().create_dir("bin", 0o755).unwrap();
    let staged = writable.mount().unwrap();
    std::fs::write(staged.path().join("bin/one"), "one\n").unwrap();
    symlink("/bin/one", staged.path().join("bin/link")).unwrap();
    staged.unmount().unwrap();
    let other = writable.commit(&Describe::default()).unwrap();
    let mut request = f.request(op);
    request.inputs.push(Some(other.clone()));
    request.grants.secrets.insert("s".to_owned(), b"hush\n".to_vec());
    let (outcome, sink) = f.run_request(request).await;
    let lists =
        outcome.unwrap_or_else(|e| panic!("{}: {}", with_causes(&e), String::from_utf8_lossy(&sink.stderr.lock())));
    assert_eq!(sink.text(), "one\nhush\n400:5\none\nhush\n");
    assert_eq!(lists.len(), 3);
    assert_eq!(lists[2], other);
    assert_eq!(f.changed(&lists[1]), ["y"]);
    // Mount points are gone; their parent stays, as it was made on the way.
    assert_eq!(
        f.changed(&lists[0])
            .into_iter()
            .filter(|name| name != "etc")
            .collect::<Vec<_>>(),
        ["run"]
    );
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    assert!(mounted.root().read_dir("run/secrets").unwrap().is_empty());
    drop(mounted);
    let mut again = script("cat /cache/f");
    again.mounts.push(cache("/cache"));
    assert_eq!(f.ok(again).await.0, "c\n");
}

#[tokio::test]
async fn missing_grants_are_told() {
    let Some(f) = fixture().await else { return };
    let mut op = script("true");
    op.mounts.push(with_kind("/s", MountKind::Secret(grant("token"))));
    assert_eq!(f.fail(op).await.to_string(), "secret token: not found");
    let mut op = script("true");
    op.mounts.push(with_kind("/s", MountKind::Ssh(grant("default"))));
    assert_eq!(
        f.fail(op).await.to_string(),
        "no SSH key \"default\" forwarded from the client"
    );
}

#[tokio::test]
async fn an_ssh_socket_is_lent() {
    let Some(f) = fixture().await else { return };
    let path = f.dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut op = script("test -S /run/agent; stat -c %a:%u /run/agent");
    op.mounts.push(with_kind(
        "/run/agent",
        MountKind::Ssh(FileGrant {
            uid: 7,
            mode: 0o600,
            ..grant("default")
        }),
    ));
    let index = op.mounts.len() - 1;
    let mut request = f.request(op);
    request.grants.ssh.insert(index, path);
    let (outcome, sink) = f.run_request(request).await;
    outcome.unwrap();
    assert_eq!(sink.text(), "600:7\n");
}

#[tokio::test]
async fn a_readonly_root_without_output() {
    let Some(f) = fixture().await else { return };
    let mut op = script("! touch /x 2>/dev/null; touch /fresh/x");
    op.mounts = vec![
        Mount {
            input: Some(0),
            readonly: true,
            ..bind("/")
        },
        bind("/fresh"),
    ];
    let (_, lists) = f.ok(op).await;
    assert!(lists.is_empty());
}

#[tokio::test]
async fn cve_2024_23651_selectors_stay_in_their_source() {
    let Some(f) = fixture().await else { return };
    let secret = f.dir.path().join("host-secret");
    std::fs::write(&secret, "host").unwrap();
    let mut first = script(&format!(
        "ln -s {} /cache/link; ln -s /../../../etc /cache/up",
        secret.display()
    ));
    first.mounts.push(cache("/cache"));
    f.ok(first).await;
    for selector in ["link", "/up/passwd"] {
        let mut op = script("cat /file");
        op.mounts.push(Mount {
            selector: selector.to_owned(),
            ..cache("/file")
        });
        let ExecError::Process { source: error, .. } = f.fail(op).await else {
            panic!("{selector}: about no process");
        };
        assert!(matches!(*error, ExecError::Selector { .. }), "{selector}: {error}");
    }
}

#[tokio::test]
async fn cve_2024_23652_cleaning_up_mount_points_touches_nothing_else() {
    let Some(f) = fixture().await else { return };
    let host = f.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("stub"), "").unwrap();
    // The process puts a link to the host's directory beside the mount point, and things into what was made for it.
    let mut op = script(&format!(
        "ln -s {} /a/link; ! rm -r /a/stub 2>/dev/null",
        host.display()
    ));
    op.mounts.push(with_kind("/a/stub", MountKind::Tmpfs { size: 4096 }));
    op.remove_mount_stubs_recursive = true;
    let (_, lists) = f.ok(op).await;
    assert!(host.join("stub").exists());
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    assert_eq!(mounted.root().read_link("a/link").unwrap(), host.as_os_str());
    assert!(mounted.root().lstat("a/stub").is_err());
    drop(mounted);
    let mut op = script("touch /a/other");
    op.mounts.push(with_kind("/a/stub", MountKind::Tmpfs { size: 4096 }));
    op.remove_mount_stubs_recursive = true;
    let (_, lists) = f.ok(op).await;
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    let names = mounted.root().read_dir("a").unwrap();
    assert_eq!(
        names.len(),
        1,
        "what the process made stays, the mount point goes: {names:?}"
    );
}

#[tokio::test]
async fn cve_2026_41579_system_directories_that_are_links_are_refused() {
    let Some(f) = fixture().await else { return };
    for name in ["dev", "proc", "sys"] {
        let writable = f.layers.prepare(&f.base).unwrap();
        writable.upper().symlink("/tmp", name).unwrap();
        let mut request = f.request(script("true"));
        request.inputs = vec![Some(writable.commit(&Describe::default()).unwrap())];
        let error = f.run_request(request).await.0.unwrap_err();
        assert!(is_refused(&error), "{name}: {error}");
    }
}

#[tokio::test]
async fn cve_2019_16884_nothing_is_mounted_over_proc() {
    let Some(f) = fixture().await else { return };
    for dest in ["/proc", "/proc/self/attr", "/x/../proc/sys", "/dev", "/sys"] {
        let mut op = script("true");
        op.mounts.push(with_kind(dest, MountKind::Tmpfs { size: 4096 }));
        let error = f.fail(op).await;
        assert!(is_refused(&error), "{dest}: {error}");
    }
}

#[tokio::test]
async fn a_resolv_conf_that_is_a_link_is_followed_inside() {
    let Some(f) = fixture().await else { return };
    let writable = f.layers.prepare(&f.base).unwrap();
    writable.upper().create_dir("etc", 0o755).unwrap();
    writable
        .upper()
        .symlink("../run/systemd/resolve/stub.conf", "etc/resolv.conf")
        .unwrap();
    let mut request = f.request(script("cat /etc/resolv.conf"));
    let input = writable.commit(&Describe::default()).unwrap();
    request.inputs = vec![Some(input)];
    let (outcome, sink) = f.run_request(request).await;
    let lists = outcome.unwrap();
    assert_eq!(sink.text(), std::fs::read_to_string("/etc/resolv.conf").unwrap());
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    assert!(mounted.root().lstat("run").is_err());
    assert!(mounted.root().lstat("etc/resolv.conf").unwrap().is_symlink());
}
