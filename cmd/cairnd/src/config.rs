//! Configuration: a TOML file in buildkitd's layout, and the values it means.
//!
//! Reading it has no side effects. Sections of things this daemon does not do are accepted where leaving them out
//! changes nothing for a build, and reported; see `docs/configuration.md`.

mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_solver::Entitlement;
use serde::Deserialize;

pub use units::{DiskSpace, UnitError};

/// Default address of the daemon run by root.
pub const DEFAULT_ADDRESS: &str = "unix:///run/cairn/cairnd.sock";
/// Default state directory of the daemon run by root.
pub const DEFAULT_ROOT: &str = "/var/lib/cairn";
/// Default configuration file.
pub const DEFAULT_FILE: &str = "/etc/cairn/cairnd.toml";

/// The configuration file, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigFile {
    /// State directory.
    pub root: Option<PathBuf>,
    /// More log output.
    pub debug: bool,
    /// Entitlements that clients may ask for.
    #[serde(rename = "insecure-entitlements")]
    pub insecure_entitlements: Vec<String>,
    /// Logging.
    pub log: LogSection,
    /// The API's sockets.
    pub grpc: GrpcSection,
    /// Workers.
    pub worker: WorkerSection,
    /// Registries, by host name as in image references.
    pub registry: BTreeMap<String, RegistrySection>,
    /// Keys nobody reads; reported at start.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[log]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogSection {
    /// `text` or `json`.
    pub format: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: Option<String>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[grpc]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GrpcSection {
    /// `unix://` and `tcp://` addresses.
    pub address: Vec<String>,
    /// Owner of unix sockets.
    pub uid: Option<u32>,
    /// Group of unix sockets.
    pub gid: Option<u32>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[worker]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WorkerSection {
    /// The embedded worker; the section has buildkitd's name for its like.
    pub oci: OciSection,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[worker.oci]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OciSection {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// Additional worker labels.
    pub labels: BTreeMap<String, String>,
    /// Path or name of the OCI runtime.
    pub binary: Option<String>,
    /// Most steps at a time; 0 means as many as there are processors.
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: usize,
    /// Most steps of one build at a time; 0 means as many as of all.
    #[serde(rename = "max-parallelism-per-build")]
    pub max_parallelism_per_build: usize,
    /// Network of steps; only `host` so far.
    #[serde(rename = "networkMode")]
    pub network_mode: Option<String>,
    /// Whether unused results are removed by policy.
    pub gc: Option<bool>,
    /// Disk space never given up.
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<DiskSpace>,
    /// Disk space not to be exceeded.
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<DiskSpace>,
    /// Disk space to leave to others.
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<DiskSpace>,
    /// Policies, applied in order.
    pub gcpolicy: Vec<GcPolicySection>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[[worker.oci.gcpolicy]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GcPolicySection {
    /// Whether internal records count too.
    pub all: bool,
    /// What it applies to.
    pub filters: Vec<String>,
    /// Spares what was used more recently.
    #[serde(rename = "keepDuration", deserialize_with = "units::optional_duration")]
    pub keep_duration: Option<Duration>,
    /// Disk space never given up.
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<DiskSpace>,
    /// Disk space not to be exceeded.
    #[serde(rename = "maxUsedSpace")]
    pub max_used_space: Option<DiskSpace>,
    /// Disk space to leave to others.
    #[serde(rename = "minFreeSpace")]
    pub min_free_space: Option<DiskSpace>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[registry."host"]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RegistrySection {
    /// Hosts (`host[:port][/path]`) asked first.
    pub mirrors: Vec<String>,
    /// Whether to talk plain HTTP; by default only to this machine itself.
    pub http: Option<bool>,
    /// Whether certificates are not checked.
    pub insecure: Option<bool>,
    /// Certificate authorities, as PEM files.
    pub ca: Vec<PathBuf>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// What the daemon is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// State directory.
    pub root: PathBuf,
    /// Addresses to listen on; empty when carried inside another program.
    pub addresses: Vec<Address>,
    /// Owner of unix sockets.
    pub socket_owner: (Option<u32>, Option<u32>),
    /// Entitlements that clients may ask for.
    pub allowed_entitlements: Vec<Entitlement>,
    /// Additional worker labels.
    pub labels: BTreeMap<String, String>,
    /// Path or name of the OCI runtime; `None` looks for the known ones.
    pub runtime: Option<String>,
    /// Most steps at a time.
    pub max_parallelism: usize,
    /// Most steps of one build at a time; `None` for as many as of all.
    pub max_parallelism_per_build: Option<usize>,
    /// Policies for removing unused results; empty for none.
    pub gc: Vec<GcPolicySection>,
    /// Registries, by host name as in image references.
    pub registries: BTreeMap<String, RegistrySection>,
    /// Things in the file that nobody reads, by path.
    pub ignored: Vec<String>,
}

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or not of the right shape.
    #[error("configuration file {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A setting makes no sense.
    #[error("configuration: {key} is {value:?}: {expected}")]
    Value {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// What would make sense.
        expected: &'static str,
    },
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read or parsed; the message names file, line and column.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// Reads a file that need not exist.
    ///
    /// # Errors
    /// As [`ConfigFile::read`], except for a missing file.
    pub fn read_optional(path: &Path) -> Result<Self, ConfigError> {
        match Self::read(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            outcome => outcome,
        }
    }

    fn ignored(&self) -> Vec<String> {
        let mut ignored = Vec::new();
        let mut note = |prefix: &str, table: &toml::Table| {
            ignored.extend(table.keys().map(|key| format!("{prefix}{key}")));
        };
        note("", &self.unknown);
        note("log.", &self.log.unknown);
        note("grpc.", &self.grpc.unknown);
        note("worker.", &self.worker.unknown);
        note("worker.oci.", &self.worker.oci.unknown);
        for policy in &self.worker.oci.gcpolicy {
            note("worker.oci.gcpolicy.", &policy.unknown);
        }
        for (host, registry) in &self.registry {
            note(&format!("registry.{host:?}."), &registry.unknown);
        }
        ignored
    }
}

impl Config {
    /// What a file means, with defaults for what it leaves out.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for settings that make no sense.
    pub fn from_file(file: ConfigFile) -> Result<Self, ConfigError> {
        let ignored = file.ignored();
        let oci = file.worker.oci;
        if oci.enabled == Some(false) {
            return Err(ConfigError::Value {
                key: "worker.oci.enabled".to_owned(),
                value: "false".to_owned(),
                expected: "there is no other worker to use",
            });
        }
        if let Some(mode) = oci
            .network_mode
            .as_deref()
            .filter(|mode| !matches!(*mode, "host" | "auto" | ""))
        {
            return Err(ConfigError::Value {
                key: "worker.oci.networkMode".to_owned(),
                value: mode.to_owned(),
                expected: "only \"host\" and \"auto\" are supported",
            });
        }
        let addresses = file
            .grpc
            .address
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<Address>, _>>()?;
        Ok(Self {
            root: file.root.unwrap_or_else(default_root),
            addresses,
            socket_owner: (file.grpc.uid, file.grpc.gid),
            allowed_entitlements: file
                .insecure_entitlements
                .iter()
                .map(|name| entitlement("insecure-entitlements", name))
                .collect::<Result<_, _>>()?,
            labels: oci.labels,
            runtime: oci.binary,
            max_parallelism: match oci.max_parallelism {
                0 => std::thread::available_parallelism().map_or(2, usize::from).max(2),
                most => most,
            },
            max_parallelism_per_build: Some(oci.max_parallelism_per_build).filter(|&most| most > 0),
            gc: if oci.gc == Some(false) {
                Vec::new()
            } else if oci.gcpolicy.is_empty() {
                default_gc(oci.reserved_space, oci.max_used_space, oci.min_free_space)
            } else {
                oci.gcpolicy
            },
            registries: file.registry,
            ignored,
        })
    }

    /// The configuration of a machine without a configuration file.
    ///
    /// # Errors
    /// If the default file exists and is wrong.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = match path {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::read_optional(Path::new(DEFAULT_FILE))?,
        };
        Self::from_file(file)
    }
}

/// The entitlement called `name` in setting `key`.
///
/// # Errors
/// [`ConfigError::Value`] if there is none of that name.
pub fn entitlement(key: &str, name: &str) -> Result<Entitlement, ConfigError> {
    Entitlement::from_name(name).ok_or_else(|| ConfigError::Value {
        key: key.to_owned(),
        value: name.to_owned(),
        expected: "known are \"network.host\" and \"security.insecure\"",
    })
}

fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from(DEFAULT_ROOT);
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    home.join(".local/share/cairn")
}

/// The address to listen on when none is given.
pub fn default_address() -> Address {
    if !rustix::process::geteuid().is_root()
        && let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR")
    {
        return Address::Unix(PathBuf::from(dir).join("cairn/cairnd.sock"));
    }
    Address::Unix(PathBuf::from(DEFAULT_ADDRESS.trim_start_matches("unix://")))
}

/// Policies used when none are written down: first what can be had again easily and was not used for two days, then
/// whatever exceeds the space limits, oldest first.
fn default_gc(reserved: Option<DiskSpace>, max: Option<DiskSpace>, free: Option<DiskSpace>) -> Vec<GcPolicySection> {
    let days = |n: u64| Some(Duration::from_secs(n * 24 * 3600));
    let limits = GcPolicySection {
        reserved_space: Some(reserved.unwrap_or(DiskSpace::Percent(10))),
        max_used_space: Some(max.unwrap_or(DiskSpace::Percent(80))),
        min_free_space: Some(free.unwrap_or(DiskSpace::Percent(20))),
        ..GcPolicySection::default()
    };
    vec![
        GcPolicySection {
            filters: vec![
                "type==source.local".to_owned(),
                "type==exec.cachemount".to_owned(),
                "type==source.git.checkout".to_owned(),
            ],
            keep_duration: days(2),
            max_used_space: Some(DiskSpace::Bytes(512 << 20)),
            ..GcPolicySection::default()
        },
        GcPolicySection {
            keep_duration: days(60),
            ..limits.clone()
        },
        limits.clone(),
        GcPolicySection { all: true, ..limits },
    ]
}

impl std::str::FromStr for Address {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |expected| ConfigError::Value {
            key: "address".to_owned(),
            value: text.to_owned(),
            expected,
        };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(fail(
                    "a unix socket needs an absolute path, as in unix:///run/cairn/cairnd.sock",
                ));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        match text.strip_prefix("tcp://") {
            Some(host)
                if host
                    .rsplit_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
            {
                Ok(Self::Tcp(host.to_owned()))
            }
            Some(_) => Err(fail("a TCP address needs a port, as in tcp://127.0.0.1:1234")),
            None => Err(fail("expected unix:///path or tcp://host:port")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

#[cfg(test)]
mod tests;
