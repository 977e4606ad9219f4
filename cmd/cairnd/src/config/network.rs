//! Networks of steps.

use std::path::{Path, PathBuf};

use cairn_worker::cni::{CniConfig, NetworkConfig, NetworkSource};

use super::{ConfigError, OciSection};

/// What describes the network of mode `cni`, and whose presence decides what mode `auto` is. The path is buildkitd's.
const DEFAULT_CNI_CONFIG: &str = "/etc/buildkit/cni.json";
/// Where plugins usually are.
const DEFAULT_CNI_BINARIES: &str = "/opt/cni/bin";
/// The bridge of mode `bridge`.
const DEFAULT_BRIDGE: &str = "buildkit0";
const DEFAULT_SUBNET: &str = "10.10.0.0/16";
/// Most namespaces to prepare.
const MAX_POOL: usize = 1024;

/// The network of steps.
pub(super) fn of(oci: &OciSection) -> Result<NetworkConfig, ConfigError> {
    // Settings of other modes are to make sense, too.
    let (file, bridge) = (file(oci)?, bridge(oci)?);
    let plugin_dir = path("cniBinaryPath", &oci.cni_binary_path, DEFAULT_CNI_BINARIES)?;
    if oci.cni_pool_size > MAX_POOL {
        let size = i64::try_from(oci.cni_pool_size).unwrap_or(i64::MAX);
        return Err(ConfigError::value(
            "worker.oci.cniPoolSize",
            size,
            "expected at most 1024",
        ));
    }
    let cni = |source| CniConfig {
        source,
        plugin_dir,
        pool_size: oci.cni_pool_size,
    };
    match oci.network_mode.as_str() {
        "" | "auto" => Ok(NetworkConfig::Auto(cni(file))),
        "bridge" => Ok(NetworkConfig::Cni(cni(bridge))),
        "cni" => Ok(NetworkConfig::Cni(cni(file))),
        "host" => Ok(NetworkConfig::Host),
        "none" => Ok(NetworkConfig::None),
        mode => {
            let expected = "expected auto, bridge, cni, host or none";
            Err(ConfigError::value("worker.oci.networkMode", mode, expected))
        }
    }
}

fn file(oci: &OciSection) -> Result<NetworkSource, ConfigError> {
    path("cniConfigPath", &oci.cni_config_path, DEFAULT_CNI_CONFIG).map(NetworkSource::File)
}

fn bridge(oci: &OciSection) -> Result<NetworkSource, ConfigError> {
    let (name, subnet) = (
        or(&oci.bridge_name, DEFAULT_BRIDGE),
        or(&oci.bridge_subnet, DEFAULT_SUBNET),
    );
    let fail_name = |_| {
        let expected = "expected the name of a network interface, of at most 15 characters";
        ConfigError::value("worker.oci.bridgeName", name, expected)
    };
    let fail_subnet = |_| {
        let expected = "expected a subnet by its first address, such as 10.10.0.0/16, with room for at least two more";
        ConfigError::value("worker.oci.bridgeSubnet", subnet, expected)
    };
    Ok(NetworkSource::Bridge {
        name: name.parse().map_err(fail_name)?,
        subnet: subnet.parse().map_err(fail_subnet)?,
    })
}

fn path(key: &str, given: &Path, default: &str) -> Result<PathBuf, ConfigError> {
    let path = super::absolute(&format!("worker.oci.{key}"), Some(given.to_owned()))?;
    Ok(path.unwrap_or_else(|| PathBuf::from(default)))
}

fn or<'a>(given: &'a str, default: &'a str) -> &'a str {
    if given.is_empty() { default } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(path: &str) -> NetworkSource {
        NetworkSource::File(PathBuf::from(path))
    }

    #[test]
    fn modes_and_their_settings() {
        let cni = |source| CniConfig {
            source,
            plugin_dir: PathBuf::from("/opt/cni/bin"),
            pool_size: 0,
        };
        let bridge = |name: &str, subnet: &str| NetworkSource::Bridge {
            name: name.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
        };
        let default = file_of("/etc/buildkit/cni.json");
        for (text, want) in [
            ("", NetworkConfig::Auto(cni(default.clone()))),
            ("networkMode = \"auto\"", NetworkConfig::Auto(cni(default.clone()))),
            ("networkMode = \"cni\"", NetworkConfig::Cni(cni(default))),
            ("networkMode = \"host\"", NetworkConfig::Host),
            ("networkMode = \"none\"", NetworkConfig::None),
            (
                "networkMode = \"bridge\"",
                NetworkConfig::Cni(cni(bridge("buildkit0", "10.10.0.0/16"))),
            ),
            (
                "networkMode = \"bridge\"\nbridgeName = \"b\"\nbridgeSubnet = \"10.1.0.0/24\"",
                NetworkConfig::Cni(cni(bridge("b", "10.1.0.0/24"))),
            ),
            (
                "networkMode = \"cni\"\ncniConfigPath = \"/x.conflist\"\ncniBinaryPath = \"/y\"\ncniPoolSize = 3",
                NetworkConfig::Cni(CniConfig {
                    source: file_of("/x.conflist"),
                    plugin_dir: PathBuf::from("/y"),
                    pool_size: 3,
                }),
            ),
        ] {
            let section: OciSection = toml::from_str(text).unwrap();
            assert_eq!(of(&section).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_whatever_the_mode() {
        for (text, want) in [
            (
                "networkMode = \"slirp\"",
                "worker.oci.networkMode is \"slirp\": expected auto, bridge, cni, host or none",
            ),
            (
                "cniConfigPath = \"x\"",
                "worker.oci.cniConfigPath is \"x\": expected an absolute path",
            ),
            (
                "cniBinaryPath = \"x\"",
                "worker.oci.cniBinaryPath is \"x\": expected an absolute path",
            ),
            (
                "cniPoolSize = 1025",
                "worker.oci.cniPoolSize is 1025: expected at most 1024",
            ),
            ("bridgeName = \"a/b\"", "worker.oci.bridgeName is \"a/b\""),
            (
                "bridgeSubnet = \"10.10.0.1/16\"",
                "worker.oci.bridgeSubnet is \"10.10.0.1/16\"",
            ),
        ] {
            let section: OciSection = toml::from_str(text).unwrap();
            let error = of(&section).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
