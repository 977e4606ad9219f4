//! Networks that processes join. The plugins are scripts that note what they are called for and change nothing.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::cni::{CniConfig, Namespaces, NetworkSource};
use crate::sys::mounts::mounts_below;

const PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND ${0##*/}" >>"${0%/*}/calls"
test "${0##*/}" != net || test ! -e "${0%/*}/fail" || { echo '{"msg": "out of addresses"}'; exit 1; }
test "$CNI_COMMAND" = DEL || echo '{}'
"#;
/// Says which network namespace it is in.
const WHERE: &str = "readlink /proc/self/ns/net";

impl Fixture {
    async fn with_plugins(mut self) -> Self {
        let plugins = self.plugins();
        std::fs::create_dir(&plugins).unwrap();
        for name in ["loopback", "net"] {
            std::fs::write(plugins.join(name), PLUGIN).unwrap();
            std::fs::set_permissions(plugins.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = plugins.join("n.conf");
        std::fs::write(&file, r#"{"cniVersion": "1.0.0", "name": "n", "type": "net"}"#).unwrap();
        let config = CniConfig {
            source: NetworkSource::File(file),
            plugin_dir: plugins,
            pool_size: 0,
        };
        let namespaces = Namespaces::open(&config, &self.dir.path().join("networks")).await;
        self.runner.networks = Networks::Namespaces(namespaces.unwrap());
        self
    }

    fn plugins(&self) -> std::path::PathBuf {
        self.dir.path().join("plugins")
    }

    /// How often the plugin of the network was called for this.
    fn count(&self, verb: &str) -> usize {
        let calls = std::fs::read_to_string(self.plugins().join("calls")).unwrap();
        calls.lines().filter(|line| *line == format!("{verb} net")).count()
    }

    /// Takes everything down; nothing may be left.
    async fn close(self) {
        self.runner.close().await;
        assert_eq!(self.count("ADD"), self.count("DEL"));
        let networks = self.dir.path().join("networks").canonicalize().unwrap();
        assert_eq!(std::fs::read_dir(&networks).unwrap().count(), 0);
        let left = mounts_below(&networks).unwrap();
        assert!(left.iter().all(|mount| *mount == networks), "{left:?}");
    }
}

/// The first line of an output.
async fn line(output: std::io::PipeReader) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        line.trim().to_owned()
    });
    read.await.unwrap()
}

fn own() -> String {
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    own.into_os_string().into_string().unwrap()
}

#[tokio::test]
async fn processes_are_in_namespaces_that_plugins_set_up() {
    let Some(f) = fixture().await else { return };
    let f = f.with_plugins().await;
    let first = f.ok(script(WHERE)).await.0;
    assert_ne!(first.trim(), own());
    assert_eq!(f.ok(script(WHERE)).await.0, first, "it is not used again");
    let of = |network| ExecOp {
        network,
        ..script(WHERE)
    };
    assert_eq!(f.ok(of(NetMode::Host)).await.0.trim(), own());
    assert_ne!(f.ok(of(NetMode::None)).await.0, first);
    assert_eq!((f.count("ADD"), f.count("DEL")), (1, 0));
    let (text, _) = f.ok(script("cat /etc/resolv.conf")).await;
    assert!(!text.contains("nameserver 127."), "{text}");
    // A name of its own is told to plugins, so it is a namespace of its own.
    let named = ExecOp {
        hostname: "box".to_owned(),
        ..script("readlink /proc/self/ns/net; grep -c box /etc/hosts")
    };
    let (named, _) = f.ok(named).await;
    assert!(!named.contains(first.trim()) && named.ends_with("\n1\n"), "{named}");
    f.close().await;
}

#[tokio::test]
async fn who_could_have_changed_a_network_leaves_it_to_nobody() {
    let Some(f) = fixture().await else { return };
    let f = f.with_plugins().await;
    let mut last = f.ok(script(WHERE)).await.0;
    let insecure = ExecOp {
        security: SecurityMode::Insecure,
        ..script(WHERE)
    };
    assert_eq!(f.ok(insecure).await.0, last);
    let next = f.ok(script(WHERE)).await.0;
    assert_ne!(next, last);
    last = next;
    // Nor does one of which it is not known what has become of it.
    let cancel = CancellationToken::new();
    let sink = Arc::new(Collected::default());
    let run = f
        .runner
        .run(f.request(script("echo; sleep 1000")), sink.clone(), &cancel);
    let stop = async {
        sink.seen.notified().await;
        cancel.cancel();
    };
    assert!(tokio::join!(run, stop).0.is_err());
    assert_ne!(f.ok(script(WHERE)).await.0, last);
    // One that fails does.
    f.fail(script("exit 1")).await;
    assert_eq!(f.count("ADD"), 3);
    f.close().await;
}

#[tokio::test]
async fn processes_at_the_same_time_are_apart() {
    let Some(f) = fixture().await else { return };
    let f = f.with_plugins().await;
    let caches = || ExecOp {
        mounts: vec![script("").mounts[0].clone(), cache("/c")],
        // Each waits for the other.
        ..script(
            "n=$(readlink /proc/self/ns/net); touch /c/${n#net:}; until test $(ls /c | grep -c .) = 2; do sleep 0.01; done; echo $n",
        )
    };
    let (one, other) = tokio::join!(f.ok(caches()), f.ok(caches()));
    assert_ne!(one.0, other.0);
    f.close().await;
}

#[tokio::test]
async fn a_network_that_cannot_be_had_fails_the_process() {
    let Some(f) = fixture().await else { return };
    let f = f.with_plugins().await;
    std::fs::write(f.plugins().join("fail"), "").unwrap();
    let named = || ExecOp {
        hostname: "box".to_owned(),
        ..script("true")
    };
    let error = WorkerError::from(f.fail(named()).await).to_string();
    let file = f.plugins().join("n.conf");
    let want = format!(
        "process \"/bin/sh -euc true\" did not complete successfully: CNI setup error: plugin type=\"net\" failed (add) \
         for network \"n\" of {file:?}: out of addresses"
    );
    assert!(error.contains(&want), "{error}");
    std::fs::remove_file(f.plugins().join("fail")).unwrap();
    f.ok(named()).await;
    f.runner.close().await;
}

#[tokio::test]
async fn all_processes_of_a_container_are_in_one_namespace() {
    let Some(f) = fixture().await else { return };
    let f = f.with_plugins().await;
    let cancel = CancellationToken::new();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let container = f.container(&cancel).await;
        let (first, output) = f.start(&container, "readlink /proc/self/ns/net; sleep 1000");
        seen.push(line(output).await);
        let (second, output) = f.start(&container, WHERE);
        assert_eq!(second.await.unwrap().unwrap().code, 0);
        assert_eq!(line(output).await, *seen.last().unwrap());
        container.release().await;
        assert!(first.await.unwrap().is_err());
    }
    assert!(seen[0] != seen[1] && !seen.contains(&own()), "{seen:?}");
    f.close().await;
}
