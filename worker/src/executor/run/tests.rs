use std::os::unix::fs::symlink;

use bytes::Bytes;
use cairn_solver::WorkerError;
use cairn_solver::llb::{
    CacheSharing, ContentCache, ExecOp, FileGrant, HostIp, LinuxResources, Mount, ProxyEnv, SecretEnv, SecurityMode,
    Ulimit,
};
use parking_lot::Mutex;

mod containers;
mod devices;

use super::super::oci_runtime::OciRuntime;
use super::super::process::OutputStream;
use super::super::rootfs::RootfsError;
use super::*;
use crate::causes::with_causes;
use crate::executor::Edits;
use crate::layer::Describe;
use crate::sys::is_root_or_skip;

/// A store, a runtime and a root file system with busybox.
struct Fixture {
    runner: ExecRunner,
    layers: LayerStore,
    base: LayerList,
    dir: tempfile::TempDir,
}

#[derive(Default)]
struct Collected {
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
    seen: tokio::sync::Notify,
}

impl OutputSink for Collected {
    fn output(&self, stream: OutputStream, data: Bytes) {
        match stream {
            OutputStream::Stdout => self.stdout.lock().extend_from_slice(&data),
            OutputStream::Stderr => self.stderr.lock().extend_from_slice(&data),
        }
        self.seen.notify_one();
    }
}

impl Collected {
    fn text(&self) -> String {
        String::from_utf8(self.stdout.lock().clone()).unwrap()
    }
}

/// `None`, with the reason printed, where containers cannot be run.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
async fn fixture() -> Option<Fixture> {
    if !is_root_or_skip() {
        return None;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        eprintln!("skipped: needs a static busybox");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let runtime = match OciRuntime::open(dir.path().join("runtime"), None).await {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let layers = LayerStore::open(dir.path().join("layers")).unwrap();
    let writable = layers.prepare(&layers.scratch()).unwrap();
    let root = writable.upper();
    for dir in ["bin", "etc", "tmp", "root", "home"] {
        root.create_dir(dir, 0o755).unwrap();
    }
    root.chmod("tmp", 0o1777).unwrap();
    let bin = dir.path().join("layers/staging");
    let bin = std::fs::read_dir(bin)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("fs");
    std::fs::copy(busybox, bin.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "ls", "id", "sleep", "stat", "mount", "touch", "rm", "mkdir", "hostname", "ip", "env", "pwd",
        "grep", "mknod", "test", "chmod", "ln", "dd", "kill", "unshare", "readlink", "stty",
    ] {
        symlink("busybox", bin.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        bin.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(bin.join("etc/group"), "root:x:0:\nbob:x:1000:\nstaff:x:50:bob\n").unwrap();
    let base = writable.commit(&Describe::default()).unwrap();
    let runner = ExecRunner::new(
        layers.clone(),
        Arc::new(runtime),
        dir.path().join("run"),
        DnsConfig::default(),
        Network::Host,
    )
    .unwrap();
    Some(Fixture {
        runner,
        layers,
        base,
        dir,
    })
}

fn bind(dest: &str) -> Mount {
    Mount {
        dest: dest.to_owned(),
        input: None,
        selector: String::new(),
        readonly: false,
        output: None,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    }
}

fn with_kind(dest: &str, kind: MountKind) -> Mount {
    Mount { kind, ..bind(dest) }
}

fn cache(dest: &str) -> Mount {
    with_kind(
        dest,
        MountKind::Cache {
            id: "c".to_owned(),
            sharing: CacheSharing::Shared,
        },
    )
}

fn grant(id: &str) -> FileGrant {
    FileGrant {
        id: id.to_owned(),
        mode: 0o400,
        ..FileGrant::default()
    }
}

/// Whether the root file system could not be put together as asked.
fn is_refused(error: &ExecError) -> bool {
    let ExecError::Process { source, .. } = error else {
        return false;
    };
    matches!(**source, ExecError::Rootfs(RootfsError::Refused { .. }))
}

/// Runs a script on the base, whose changes are output 0.
fn script(text: &str) -> ExecOp {
    ExecOp {
        args: ["/bin/sh", "-euc", text].map(str::to_owned).to_vec(),
        cwd: "/".to_owned(),
        mounts: vec![Mount {
            input: Some(0),
            output: Some(0),
            ..bind("/")
        }],
        ..ExecOp::default()
    }
}

impl Fixture {
    fn request(&self, op: ExecOp) -> ExecRequest {
        ExecRequest {
            op,
            resources: LinuxResources::default(),
            inputs: vec![Some(self.base.clone())],
            grants: Grants::default(),
            devices: Edits::default(),
            meter: None,
        }
    }

    async fn run_request(&self, request: ExecRequest) -> (Result<Vec<LayerList>, ExecError>, Arc<Collected>) {
        let sink = Arc::new(Collected::default());
        let outcome = self.runner.run(request, sink.clone(), &CancellationToken::new()).await;
        (outcome.map_err(|failure| failure.error), sink)
    }

    /// Output of a script that is to succeed, and what it left.
    async fn ok(&self, op: ExecOp) -> (String, Vec<LayerList>) {
        let (outcome, sink) = self.run_request(self.request(op)).await;
        let stderr = String::from_utf8_lossy(&sink.stderr.lock()).into_owned();
        let lists = outcome.unwrap_or_else(|error| panic!("{}\n{stderr}", with_causes(&error)));
        (sink.text(), lists)
    }

    async fn fail(&self, op: ExecOp) -> ExecError {
        self.run_request(self.request(op)).await.0.unwrap_err()
    }

    /// Names in the layer that a run added.
    fn changed(&self, list: &LayerList) -> Vec<String> {
        assert!(list.ids().len() <= self.base.ids().len() + 1);
        let root = self.layers.layer_root(list.top().unwrap()).unwrap();
        let mut names: Vec<String> = root
            .read_dir("")
            .unwrap()
            .into_iter()
            .map(|entry| entry.name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let runs = std::fs::read_dir(self.dir.path().join("run")).unwrap().count();
        let bundles = std::fs::read_dir(self.dir.path().join("runtime/runs")).unwrap().count();
        let containers = std::fs::read_dir(self.dir.path().join("runtime/state"))
            .unwrap()
            .count();
        if !std::thread::panicking() {
            assert_eq!((runs, bundles, containers), (0, 0, 0), "something was left");
        }
    }
}

#[tokio::test]
async fn output_and_changes_come_out() {
    let Some(f) = fixture().await else { return };
    let (text, lists) = f.ok(script("echo hello; echo oops >&2; touch /new")).await;
    assert_eq!(text, "hello\n");
    assert_eq!(f.changed(&lists[0]), ["new"]);
}

#[tokio::test]
async fn a_run_that_changes_nothing_leaves_no_trace() {
    let Some(f) = fixture().await else { return };
    let (_, lists) = f
        .ok(script(
            "test -s /etc/hosts; test -e /etc/resolv.conf; test -d /proc/self; test -c /dev/null",
        ))
        .await;
    assert!(f.changed(&lists[0]).is_empty());
    // What is changed beside the mount points does not show that they were there.
    let (_, lists) = f.ok(script("touch /etc/../new /home/new")).await;
    assert_eq!(f.changed(&lists[0]), ["home", "new"]);
    let (_, lists) = f
        .ok(script("chmod 755 /root /etc /bin; ln /etc/passwd /same; rm /same"))
        .await;
    assert!(f.changed(&lists[0]).is_empty(), "{:?}", f.changed(&lists[0]));
    let (_, lists) = f.ok(script("chmod 700 /root")).await;
    assert_eq!(f.changed(&lists[0]), ["root"]);
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    let before = f.layers.layer_root(f.base.top().unwrap()).unwrap();
    assert_eq!(
        mounted.root().stat("etc").unwrap().mtime,
        before.stat("etc").unwrap().mtime
    );
    assert_eq!(mounted.root().stat("").unwrap().mtime, before.stat("").unwrap().mtime);
    for gone in ["etc/hosts", "etc/resolv.conf", "proc", "dev", "sys"] {
        assert!(mounted.root().lstat(gone).is_err(), "{gone}");
    }
}

#[tokio::test]
async fn exit_codes_are_judged() {
    let Some(f) = fixture().await else { return };
    let error = f.fail(script("exit 7")).await;
    assert_eq!(
        error.to_string(),
        "process \"/bin/sh -euc exit 7\" did not complete successfully: exit code: 7"
    );
    assert!(matches!(WorkerError::from(error), WorkerError::Exit { code: 7, .. }));
    f.ok(ExecOp {
        valid_exit_codes: vec![7],
        ..script("exit 7")
    })
    .await;
    let error = f
        .fail(ExecOp {
            valid_exit_codes: vec![7],
            ..script("exit 0")
        })
        .await;
    assert!(matches!(error, ExecError::Exit { code: 0, .. }));
    let error = f.fail(script("(sh -c 'kill -9 $$') || exit $?")).await;
    assert!(matches!(error, ExecError::Exit { code: 137, .. }), "{error}");
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_as_a_process_and_is_named_in_the_output() {
    let Some(f) = fixture().await else { return };
    let op = ExecOp {
        args: ["nope", "x"].map(str::to_owned).to_vec(),
        ..script("")
    };
    let (outcome, sink) = f.run_request(f.request(op)).await;
    let error = outcome.unwrap_err();
    assert_eq!(
        error.to_string(),
        "process \"nope x\" did not complete successfully: exit code: 1"
    );
    assert!(matches!(WorkerError::from(error), WorkerError::Exit { code: 1, .. }));
    let said = String::from_utf8_lossy(&sink.stderr.lock()).into_owned();
    assert_eq!(said.lines().filter(|line| line.contains("nope")).count(), 1, "{said}");
}

#[tokio::test]
async fn a_user_that_is_not_there_is_an_error_of_the_process() {
    let Some(f) = fixture().await else { return };
    let op = ExecOp {
        user: "nobodyx".to_owned(),
        ..script("id")
    };
    let error = WorkerError::from(f.fail(op).await);
    assert_eq!(
        error.to_string(),
        "process \"/bin/sh -euc id\" did not complete successfully: unable to find user nobodyx: no matching entries \
         in passwd file"
    );
    assert!(matches!(error, WorkerError::Invalid(_)));
}

#[tokio::test]
async fn the_primary_group_is_among_the_groups_of_the_process() {
    let Some(f) = fixture().await else { return };
    for (user, groups) in [("", "0"), ("bob", "50 1000"), ("bob:staff", "50"), ("7:8", "8")] {
        let op = ExecOp {
            user: user.to_owned(),
            ..script("grep ^Groups: /proc/self/status")
        };
        let (text, _) = f.ok(op).await;
        assert_eq!(text.strip_prefix("Groups:").unwrap().trim(), groups, "{user:?}");
    }
}

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

#[tokio::test]
async fn users_directories_names_and_limits() {
    let Some(f) = fixture().await else { return };
    let op = ExecOp {
        user: "bob".to_owned(),
        cwd: "/srv/deep".to_owned(),
        hostname: "box".to_owned(),
        ulimits: vec![Ulimit {
            name: "nofile".to_owned(),
            soft: 77,
            hard: 88,
        }],
        env: vec!["A=1".to_owned()],
        proxy: Some(Box::new(ProxyEnv {
            http: "http://p".to_owned(),
            ..ProxyEnv::default()
        })),
        extra_hosts: vec![HostIp {
            host: "db".to_owned(),
            ip: "10.1.2.3".parse().unwrap(),
        }],
        ..script(
            "id -u; id -g; id -G; pwd; hostname; ulimit -n; echo $A $http_proxy $HTTP_PROXY $HOME $PATH; touch x; grep db /etc/hosts",
        )
    };
    let (text, lists) = f.ok(op).await;
    let expected = "1000\n1000\n1000 50\n/srv/deep\nbox\n77\n1 http://p http://p /home/bob \
                    /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n10.1.2.3\tdb\n";
    assert_eq!(text, expected);
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    assert_eq!(mounted.root().stat("srv/deep").unwrap().uid, 1000);
    assert_eq!(mounted.root().stat("srv").unwrap().permissions(), 0o755);
    let error = f
        .fail(ExecOp {
            user: "eve".to_owned(),
            ..script("")
        })
        .await;
    assert!(with_causes(&error).contains("unable to find user eve"), "{error}");
}

#[tokio::test]
async fn networks() {
    let Some(f) = fixture().await else { return };
    let own = std::fs::read_link("/proc/self/ns/net")
        .unwrap()
        .into_os_string()
        .into_string()
        .unwrap();
    let (text, _) = f.ok(script("readlink /proc/self/ns/net")).await;
    assert_eq!(text.trim(), own);
    let op = ExecOp {
        network: NetMode::None,
        ..script("readlink /proc/self/ns/net; ip link | grep -c UP; ls /sys/class/net")
    };
    let (text, _) = f.ok(op).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_ne!(lines[0], own);
    assert_eq!(&lines[1..], ["1", "lo"]);
}

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
        let error = f.fail(op).await;
        assert!(matches!(error, ExecError::Selector { .. }), "{selector}: {error}");
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

#[tokio::test]
async fn cancelling_kills_everything() {
    let Some(f) = fixture().await else { return };
    let sink = Arc::new(Collected::default());
    let cancel = CancellationToken::new();
    let request = f.request(script("(sleep 1000 &); echo started; sleep 1000"));
    let run = f.runner.run(request, sink.clone(), &cancel);
    let stop = async {
        sink.seen.notified().await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(run, stop);
    assert!(matches!(outcome, Err(failure) if matches!(failure.error, ExecError::Cancelled)));
    let early = CancellationToken::new();
    early.cancel();
    let outcome = f.runner.run(f.request(script("true")), sink, &early).await;
    assert!(matches!(outcome, Err(failure) if matches!(failure.error, ExecError::Cancelled)));
}

#[tokio::test]
async fn cancelling_at_any_stage_leaves_nothing() {
    let Some(f) = fixture().await else { return };
    for millis in [1, 5, 10, 20, 30, 50] {
        let cancel = CancellationToken::new();
        let run = f
            .runner
            .run(f.request(script("sleep 1000")), Arc::new(Collected::default()), &cancel);
        let stop = async {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(run, stop);
        assert!(
            matches!(outcome, Err(failure) if matches!(failure.error, ExecError::Cancelled)),
            "{millis}"
        );
    }
}

#[tokio::test]
async fn output_is_not_held_up_by_what_the_process_leaves_behind() {
    let Some(f) = fixture().await else { return };
    let (text, _) = f.ok(script("sleep 1000 & echo done")).await;
    assert_eq!(text, "done\n");
}

#[tokio::test]
async fn concurrent_runs_do_not_mix() {
    let Some(f) = fixture().await else { return };
    let runs = (0..4).map(|n| {
        let op = script(&format!("echo {n}; touch /f{n}"));
        let f = &f;
        async move { (n, f.ok(op).await) }
    });
    for (n, (text, lists)) in futures_util::future::join_all(runs).await {
        assert_eq!(text, format!("{n}\n"));
        assert_eq!(
            f.changed(&lists[0])
                .into_iter()
                .filter(|name| name != "etc")
                .collect::<Vec<_>>(),
            [format!("f{n}")]
        );
    }
}

#[tokio::test]
async fn running_out_of_memory_is_told() {
    let Some(f) = fixture().await else { return };
    let mut request = f.request(script("dd if=/dev/zero of=/dev/null bs=200M count=1"));
    request.resources.memory = 32 << 20;
    request.resources.memory_swap = 32 << 20;
    let error = f.run_request(request).await.0.unwrap_err();
    match error {
        ExecError::Exit {
            code: 137,
            out_of_memory,
            ..
        } => assert!(out_of_memory),
        // Some kernels let the allocation fail instead.
        ExecError::Exit { code, .. } => {
            assert_ne!(code, 0)
        }
        other => panic!("{other}"),
    }
}
