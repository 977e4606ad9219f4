use super::*;

fn parse(text: &str) -> Result<Config, String> {
    let file: ConfigFile = toml::from_str(text).map_err(|error| error.to_string())?;
    Config::from_file(file).map_err(|error| error.to_string())
}

#[test]
fn a_file_in_buildkitds_layout_is_understood() {
    let config = parse(
        r#"
        root = "/somewhere"
        insecure-entitlements = ["network.host"]
        [grpc]
        address = ["unix:///run/x.sock", "tcp://127.0.0.1:1234"]
        [worker.oci]
        max-parallelism = 3
        max-parallelism-per-build = 2
        binary = "crun"
        labels = { team = "a" }
        [[worker.oci.gcpolicy]]
        keepDuration = "48h"
        maxUsedSpace = "1GB"
        filters = ["type==regular"]
        [registry."docker.io"]
        mirrors = ["mirror.example:5000"]
        [registry."mirror.example:5000"]
        http = true
        "#,
    )
    .unwrap();
    assert_eq!(config.root, Path::new("/somewhere"));
    assert_eq!(
        config.addresses,
        [
            Address::Unix("/run/x.sock".into()),
            Address::Tcp("127.0.0.1:1234".to_owned())
        ]
    );
    assert_eq!(config.allowed_entitlements, [Entitlement::NetworkHost]);
    assert_eq!((config.max_parallelism, config.max_parallelism_per_build), (3, Some(2)));
    assert_eq!(config.runtime.as_deref(), Some("crun"));
    assert_eq!(config.gc.len(), 1);
    assert_eq!(config.gc[0].keep_duration, Some(Duration::from_secs(48 * 3600)));
    assert_eq!(config.registries["docker.io"].mirrors, ["mirror.example:5000"]);
    assert_eq!(config.registries["mirror.example:5000"].http, Some(true));
    assert!(config.ignored.is_empty());
}

#[test]
fn settings_that_nobody_reads_are_named() {
    let config =
        parse("[otel]\nsocketPath = \"/x\"\n[worker.oci]\nrootless = true\n[grpc]\ndebugAddress = \"x\"").unwrap();
    assert_eq!(config.ignored, ["otel", "grpc.debugAddress", "worker.oci.rootless"]);
}

#[test]
fn nonsense_is_refused_with_its_place() {
    for (text, want) in [
        ("root = 5", "line 1"),
        ("insecure-entitlements = [\"x\"]", "insecure-entitlements"),
        ("[grpc]\naddress = [\"x\"]", "expected unix:///path or tcp://host:port"),
        ("[worker.oci]\nenabled = false", "worker.oci.enabled"),
        ("[worker.oci]\nnetworkMode = \"cni\"", "networkMode"),
        ("[worker.oci]\nreservedSpace = \"much\"", "disk space"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
}
