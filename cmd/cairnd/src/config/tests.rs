use std::path::Path;
use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    let file: ConfigFile = toml::from_str(text).map_err(|error| error.to_string())?;
    Config::from_file(file).map_err(|error| error.to_string())
}

#[test]
fn more_and_more_is_logged() {
    for (text, want) in [
        ("", "info"),
        ("debug = true", "debug"),
        ("trace = true", "trace"),
        ("trace = true\ndebug = true", "trace"),
        ("trace = false", "info"),
    ] {
        let file: ConfigFile = toml::from_str(text).unwrap();
        assert_eq!(Config::from_file(file).unwrap().log.level, want, "{text}");
    }
}

#[test]
fn the_state_directory_is_an_absolute_path() {
    let here = std::env::current_dir().unwrap();
    for (text, want) in [
        ("root = \"/somewhere\"", Path::new("/somewhere").to_owned()),
        ("root = \"state\"", here.join("state")),
        ("root = \"./a/b\"", here.join("a/b")),
    ] {
        assert_eq!(parse(text).unwrap().root, want, "{text}");
    }
    let error = parse("root = \"\"").unwrap_err();
    assert!(
        error.contains("root is \"\": expected the path of a directory"),
        "{error}"
    );
}

#[test]
fn a_file_in_buildkitds_layout_is_understood() {
    let config = parse(
        r#"
        root = "/somewhere"
        insecure-entitlements = ["network.host"]
        [grpc]
        address = ["unix:///run/x.sock", "tcp://127.0.0.1:1234", "fd://"]
        gid = 7
        [grpc.tls]
        cert = "/c"
        key = "/k"
        ca = "/a"
        [log]
        level = "warning"
        format = "json"
        [dns]
        nameservers = ["1.1.1.1"]
        options = ["edns0"]
        searchDomains = ["example.com"]
        [history]
        maxAge = 60
        maxEntries = 5
        [frontend."dockerfile.v0"]
        enabled = false
        [frontend."gateway.v0"]
        allowedRepositories = ["docker/dockerfile"]
        [worker.oci]
        max-parallelism = 3
        max-parallelism-per-build = 2
        binary = "crun"
        labels = { team = "a" }
        platforms = ["linux/arm64", "amd64"]
        [[worker.oci.gcpolicy]]
        keepDuration = "48h"
        maxUsedSpace = "1GB"
        filters = ["type==regular"]
        [[worker.oci.gcpolicy]]
        keepBytes = 5
        [registry."docker.io"]
        mirrors = ["mirror.example:5000"]
        [registry."mirror.example:5000"]
        http = true
        tlsconfigdir = ["/dir"]
        [[registry."mirror.example:5000".keypair]]
        key = "/rk"
        cert = "/rc"
        "#,
    )
    .unwrap();
    assert_eq!(config.root, Path::new("/somewhere"));
    assert_eq!(
        config.addresses,
        [
            Address::Unix("/run/x.sock".into()),
            Address::Tcp("127.0.0.1:1234".to_owned()),
            Address::Inherited(String::new()),
        ]
    );
    assert_eq!(config.socket_owner, (None, Some(7)));
    let tls = TlsFiles {
        cert: "/c".into(),
        key: "/k".into(),
        ca: Some("/a".into()),
    };
    assert_eq!(config.tls, Some(tls));
    assert_eq!((config.log.level.as_str(), config.log.json), ("warn", true));
    assert_eq!(config.dns.servers, ["1.1.1.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        (config.dns.options, config.dns.search),
        (vec!["edns0".to_owned()], vec!["example.com".to_owned()])
    );
    let history = Limits {
        max_age: Duration::from_secs(60),
        max_entries: 5,
    };
    assert_eq!(config.history, history);
    assert_eq!((config.frontends.dockerfile, config.frontends.gateway), (false, true));
    assert_eq!(config.frontends.repositories, ["docker.io/docker/dockerfile"]);
    assert_eq!(config.allowed_entitlements, [Entitlement::NetworkHost]);
    assert_eq!((config.max_parallelism, config.max_parallelism_per_build), (3, Some(2)));
    assert_eq!(config.runtime.as_deref(), Some("crun"));
    assert_eq!(
        config.platforms,
        [Platform::new("linux", "arm64", ""), Platform::new("linux", "amd64", "")]
    );
    assert_eq!(config.gc.len(), 2);
    assert_eq!(config.gc[0].keep_duration, Some(Duration::from_secs(48 * 3600)));
    assert_eq!(config.gc[1].reserved_space, Some(DiskSpace::Bytes(5)));
    assert_eq!(config.registries["docker.io"].mirrors, ["mirror.example:5000"]);
    let mirror = &config.registries["mirror.example:5000"];
    assert_eq!(
        (mirror.http, mirror.tlsconfigdir.as_slice()),
        (Some(true), &["/dir".into()][..])
    );
    assert_eq!(
        (mirror.keypair[0].key.as_path(), mirror.keypair[0].cert.as_path()),
        (Path::new("/rk"), Path::new("/rc"))
    );
    assert!(config.ignored.is_empty(), "{:?}", config.ignored);
}

#[test]
fn nothing_written_means_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!((config.log.level.as_str(), config.log.json), ("info", false));
    assert_eq!(config.history.max_age, Duration::from_secs(48 * 3600));
    assert_eq!(config.history.max_entries, 50);
    assert_eq!((config.tls, config.platforms.len()), (None, 0));
    assert_eq!((config.frontends.dockerfile, config.frontends.gateway), (true, true));
    let bytes = |disk: u64, space: Option<DiskSpace>| space.map_or(0, |space| space.bytes(disk));
    let policy = &config.gc[3];
    for (disk, reserved, max, free) in [
        (50_000_000_000, 5_000_000_000, 40_000_000_000, 10_000_000_000),
        (1_000_000_000_000, 10_000_000_000, 100_000_000_000, 200_000_000_000),
    ] {
        assert_eq!(bytes(disk, policy.reserved_space), reserved);
        assert_eq!(bytes(disk, policy.max_used_space), max);
        assert_eq!(bytes(disk, policy.min_free_space), free);
    }
    assert!(policy.all && !config.gc[2].all);
    assert_eq!(config.gc[0].max_used_space, Some(DiskSpace::Bytes(512_000_000)));
}

#[test]
fn keys_without_effect_are_named() {
    let config = parse(
        r#"
        colour = "blue"
        [grpc]
        x = 1
        [grpc.tls]
        y = 1
        [history]
        z = 1
        [worker.oci]
        w = 1
        rootless = false
        snapshotter = "overlayfs"
        apparmor-profile = ""
        [worker.other]
        v = 1
        [worker.containerd]
        enabled = false
        namespace = "buildkit"
        [system]
        platformsCacheMaxAge = "1h"
        [cdi]
        disabled = true
        s = 1
        [registry."a.b"]
        u = 1
        [frontend."x.v0"]
        enabled = true
        [[worker.oci.gcpolicy]]
        t = 1
        "#,
    );
    let mut ignored = config.unwrap().ignored;
    ignored.sort();
    let want = [
        "cdi.s",
        "colour",
        "frontend.x.v0",
        "grpc.tls.y",
        "grpc.x",
        "history.z",
        "registry.\"a.b\".u",
        "system.platformsCacheMaxAge",
        "worker.containerd.namespace",
        "worker.oci.gcpolicy.t",
        "worker.oci.w",
        "worker.other",
    ];
    assert_eq!(ignored, want);
}

#[test]
fn what_is_not_supported_is_refused_and_named() {
    for (text, want) in [
        (
            "proxyNetwork = true",
            "proxyNetwork is true: proxied networking is not supported",
        ),
        (
            "provenanceEnvDir = \"x\"",
            "provenanceEnvDir is \"x\": expected an absolute path",
        ),
        ("[grpc]\ndebugAddress = \"0.0.0.0:6060\"", "grpc.debugAddress"),
        (
            "[otel]\nsocketPath = \"x\"",
            "otel.socketPath is \"x\": expected an absolute path",
        ),
        ("[cdi]\nspecDirs = [\"etc/cdi\"]", "cdi.specDirs"),
        ("[cdi]\nautoAllowed = [\"gpu\"]", "cdi.autoAllowed"),
        ("[worker.oci]\nrootless = true", "worker.oci.rootless"),
        ("[worker.oci]\nsnapshotter = \"btrfs\"", "overlayfs"),
        ("[worker.oci]\nnoProcessSandbox = true", "noProcessSandbox"),
        ("[worker.oci]\napparmor-profile = \"x\"", "AppArmor"),
        ("[worker.oci.stargzSnapshotter]\nnoprefetch = true", "stargzSnapshotter"),
        (
            "[worker.containerd]\nenabled = true",
            "the containerd worker is not supported",
        ),
        ("[system]\nmaxRegistryConcurrency = 3", "maxRegistryConcurrency"),
        ("[cache.gha.sign]\ncommand = [\"x\"]", "GitHub Actions"),
        ("insecure-entitlements = [\"devices\"]", "known are"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
}

#[test]
fn nonsense_is_refused_with_its_place() {
    for (text, want) in [
        ("root = 5", "line 1"),
        ("insecure-entitlements = [\"x\"]", "insecure-entitlements"),
        (
            "[grpc]\naddress = [\"x\"]",
            "expected unix:///path, tcp://host:port or fd://",
        ),
        ("[grpc]\naddress = [\"unix://x\"]", "absolute path"),
        ("[grpc]\naddress = [\"tcp://x\"]", "needs a port"),
        ("[grpc]\naddress = [\"npipe://x\"]", "named pipes"),
        ("[grpc.tls]\ncert = \"/c\"", "a certificate needs its key"),
        ("[grpc.tls]\nkey = \"/c\"", "a key needs its certificate"),
        ("[grpc.tls]\nca = \"/c\"", "needs its own"),
        ("[log]\nlevel = \"loud\"", "log.level is \"loud\""),
        ("[log]\nformat = \"xml\"", "expected text or json"),
        ("[dns]\nnameservers = [\"x\"]", "expected an IP address"),
        ("[dns]\noptions = [\"a\\nnameserver 6.6.6.6\"]", "expected one word"),
        ("[dns]\nsearchDomains = [\"\"]", "expected one word"),
        ("[history]\nmaxAge = \"long\"", "duration"),
        ("[history]\nmaxEntries = -1", "line 2"),
        (
            "[frontend.\"gateway.v0\"]\nallowedRepositories = [\"A B\"]",
            "expected a repository",
        ),
        (
            "[frontend.\"dockerfile.v0\"]\nallowedRepositories = [\"a\"]",
            "built in",
        ),
        ("[worker.oci]\nenabled = false", "worker.oci.enabled"),
        ("[worker.oci]\nnetworkMode = \"slirp\"", "networkMode"),
        ("[worker.oci]\ncniPoolSize = -1", "line 2"),
        ("[worker.oci]\nreservedSpace = \"much\"", "disk space"),
        ("[worker.oci]\nplatforms = [\"a/b/c/d\"]", "os/arch"),
        ("[registry.\"a\"]\n[[registry.\"a\".keypair]]\nkey = \"/k\"", "cert"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
}
