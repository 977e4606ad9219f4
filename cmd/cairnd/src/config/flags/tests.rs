use std::time::Duration;

use cairn_worker::cni::{NetworkConfig, NetworkSource};

use super::*;
use crate::config::{Address, DiskSpace};

const FILE: &str = r#"
root = "/of-the-file"
insecure-entitlements = ["network.host"]
[grpc]
address = ["unix:///of/the/file"]
[worker.oci]
labels = { a = "1", b = "1" }
max-parallelism = 5
gc = true
[history]
maxAge = "1h"
"#;

/// Configures with a file and these options.
fn configured(options: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cairnd.toml");
    std::fs::write(&file, FILE).unwrap();
    let file = file.display().to_string();
    let fixed = ["cairnd", "--config", &file];
    configure(fixed.iter().chain(options)).map_err(|error| error.to_string())
}

#[test]
fn options_win_over_the_file() {
    let config = configured(&[]).unwrap();
    assert_eq!(config.root, Path::new("/of-the-file"));
    assert_eq!(config.max_parallelism, 5);
    let config = configured(&[
        "--root=/r",
        "--addr",
        "unix:///x,tcp://127.0.0.1:1",
        "--addr=fd://",
        "--debug",
        "--log-format",
        "json",
        "--group",
        "12",
        "--tlscert=/c",
        "--tlskey=/k",
        "--tlscacert=/a",
        "--allow-insecure-entitlement=security.insecure",
        "--oci-worker-labels=b=2,c=3",
        "--oci-worker-labels",
        "d.e=4",
        "--oci-worker-platform=linux/amd64,linux/arm64",
        "--oci-worker-net=host",
        "--oci-worker-binary=crun",
        "--oci-max-parallelism=7",
    ])
    .unwrap();
    assert_eq!(config.root, Path::new("/r"));
    let addresses = ["unix:///x", "tcp://127.0.0.1:1", "fd://"].map(|text| text.parse::<Address>().unwrap());
    assert_eq!(config.addresses, addresses);
    assert_eq!((config.log.level.as_str(), config.log.json), ("debug", true));
    assert_eq!(config.socket_owner, (None, Some(12)));
    assert!(config.tls.is_some_and(|tls| tls.ca.is_some()));
    assert_eq!(config.allowed_entitlements.len(), 1);
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(labels, ["a=1", "b=2", "c=3", "d.e=4"]);
    assert_eq!(config.platforms.len(), 2);
    assert_eq!(config.runtime.as_deref(), Some("crun"));
    assert_eq!(config.max_parallelism, 7);
    assert_eq!(config.network, NetworkConfig::Host);
    assert_eq!(
        config.history.max_age,
        Duration::from_secs(3600),
        "what no option says is left alone"
    );
}

#[test]
fn networks_are_chosen() {
    let config = configured(&[
        "--oci-worker-net=cni",
        "--oci-cni-config-path=/c.json",
        "--oci-cni-binary-dir=/b",
        "--oci-cni-pool-size=3",
    ]);
    let NetworkConfig::Cni(cni) = config.unwrap().network else {
        panic!("another mode");
    };
    assert_eq!(cni.source, NetworkSource::File("/c.json".into()));
    assert_eq!((cni.plugin_dir.as_path(), cni.pool_size), (Path::new("/b"), 3));
}

#[test]
fn space_and_garbage_collection() {
    let config = configured(&["--oci-worker-gc-keepstorage=1,2,3"]).unwrap();
    let policy = &config.gc[3];
    assert_eq!(policy.reserved_space, Some(DiskSpace::Bytes(1_000_000)));
    assert_eq!(policy.min_free_space, Some(DiskSpace::Bytes(2_000_000)));
    assert_eq!(policy.max_used_space, Some(DiskSpace::Bytes(3_000_000)));
    assert!(configured(&["--oci-worker-gc=false"]).unwrap().gc.is_empty());
    assert!(!configured(&["--oci-worker-gc"]).unwrap().gc.is_empty());
}

#[test]
fn options_that_ask_for_nothing_are_taken() {
    let config = configured(&[
        "--oci-worker=auto",
        "--oci-worker=true",
        "--oci-worker-snapshotter=auto",
        "--oci-worker-rootless=false",
        "--oci-worker-selinux=false",
        "--rootless=false",
        "--containerd-worker=auto",
        "--containerd-worker=false",
        "--cdi-disabled",
        "--proxy-network=false",
        "--debugaddr=",
        "--group",
        "root",
    ])
    .unwrap();
    assert!(config.ignored.is_empty(), "{:?}", config.ignored);
    assert_eq!(config.socket_owner.1, Some(0));
    let config = configured(&["--containerd-worker-addr=/run/x.sock", "--containerd-worker-gc"]).unwrap();
    assert_eq!(config.ignored, ["worker.containerd.address", "worker.containerd.gc"]);
}

#[test]
fn what_is_not_supported_is_refused_and_named() {
    for (option, want) in [
        ("--debugaddr=0.0.0.0:1", "grpc.debugAddress"),
        ("--rootless", "worker.oci.rootless"),
        ("--oci-worker=false", "there is no other worker"),
        ("--oci-worker-net=slirp", "networkMode"),
        ("--oci-worker-snapshotter=native", "overlayfs"),
        ("--oci-worker-no-process-sandbox", "noProcessSandbox"),
        ("--oci-cni-pool-size=-3", "cniPoolSize"),
        ("--oci-cni-config-path=x", "cniConfigPath"),
        ("--containerd-worker=true", "containerd worker"),
        ("--cdi-spec-dir=x", "absolute path"),
        ("--otel-socket-path=x", "otel.socketPath"),
        ("--proxy-network", "proxied networking"),
        ("--save-cache-debug", "debugging the cache"),
        ("--allow-insecure-entitlement=devices", "known are"),
        ("--group=no-such-group", "no such group"),
        ("--oci-max-parallelism=many", "expected a number"),
        ("--oci-max-parallelism=-1", "max-parallelism"),
        ("--debug=perhaps", "expected true or false"),
        ("--oci-worker-gc-keepstorage=x", "in MB"),
        ("--oci-worker-labels=x", "name=value"),
        ("--tlscert=/c", "a certificate needs its key"),
        ("--no-such-option", "--no-such-option"),
    ] {
        let error = configured(&[option]).unwrap_err();
        assert!(error.contains(want), "{option}: {error}");
    }
}

#[test]
fn a_file_that_is_named_must_exist() {
    let error = configure(["cairnd", "--config", "/no/such/file"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn every_option_is_declared_once() {
    command().debug_assert();
}
