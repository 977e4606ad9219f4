use std::os::unix::fs::symlink;

use bytes::Bytes;
use cairn_solver::WorkerError;
use cairn_solver::llb::{
    CacheSharing, ContentCache, ExecOp, FileGrant, HostIp, LinuxResources, Mount, NetMode, ProxyEnv, SecretEnv,
    SecurityMode, Ulimit,
};
use parking_lot::Mutex;

mod confinement;
mod containers;
mod devices;
mod endings;
mod mounts;
mod networks;

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
        Networks::Host,
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
            collector: None,
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
async fn working_directories_in_mounts_are_also_below_them() {
    let Some(f) = fixture().await else { return };
    let mut op = ExecOp {
        user: "bob".to_owned(),
        cwd: "/srv/deep".to_owned(),
        ..script("stat -c '%u %a' /srv /srv/deep /etc /new")
    };
    for dest in ["/srv", "/etc", "/new"] {
        op.mounts.push(with_kind(dest, MountKind::Tmpfs { size: 4096 }));
    }
    let (text, lists) = f.ok(op).await;
    // In memory it is root's; a mount looks as what it covers.
    assert_eq!(text, "0 755\n0 755\n0 755\n0 1777\n");
    let mounted = f.layers.mount_readonly(&lists[0]).unwrap();
    for path in ["srv", "srv/deep"] {
        assert_eq!(mounted.root().stat(path).unwrap().uid, 1000, "{path}");
    }
    assert!(mounted.root().lstat("new").is_err());
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
