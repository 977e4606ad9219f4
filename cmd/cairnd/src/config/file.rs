//! The configuration file: its sections, as written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::units::{self, DiskSpace};

/// The configuration file, as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigFile {
    /// State directory.
    pub root: Option<PathBuf>,
    /// More log output.
    pub debug: bool,
    /// Log whatever there is to log.
    pub trace: bool,
    /// Entitlements that clients may ask for.
    #[serde(rename = "insecure-entitlements")]
    pub insecure_entitlements: Vec<String>,
    /// Directory of what is added to statements about builds.
    #[serde(rename = "provenanceEnvDir")]
    pub provenance_env_dir: Option<PathBuf>,
    /// Logging.
    pub log: LogSection,
    /// The API's sockets.
    pub grpc: GrpcSection,
    /// Workers.
    pub worker: WorkerSection,
    /// Registries, by host name as in image references.
    pub registry: BTreeMap<String, RegistrySection>,
    /// Name servers of steps.
    pub dns: DnsSection,
    /// What is remembered of builds.
    pub history: HistorySection,
    /// Frontends, by name.
    pub frontend: FrontendSection,
    /// Devices of the host that steps may be given.
    pub cdi: CdiSection,
    /// Spans of steps and frontends.
    pub otel: OtelSection,
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
    /// How TCP addresses are secured.
    pub tls: TlsSection,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[grpc.tls]`: PEM files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TlsSection {
    /// The daemon's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Authority that certificates of clients must be signed by; clients need none without.
    pub ca: Option<PathBuf>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[dns]`; what is empty is the machine's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DnsSection {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
    /// Domains that names are looked up in.
    #[serde(rename = "searchDomains")]
    pub search_domains: Vec<String>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[cdi]`: devices, as the Container Device Interface describes them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CdiSection {
    /// Whether steps get none.
    pub disabled: bool,
    /// Directories of the files that describe them; empty for the usual ones.
    #[serde(rename = "specDirs")]
    pub spec_dirs: Vec<PathBuf>,
    /// Devices and kinds that every build may have.
    #[serde(rename = "autoAllowed")]
    pub auto_allowed: Vec<String>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[otel]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OtelSection {
    /// Where the socket is that steps and frontends send spans to.
    #[serde(rename = "socketPath")]
    pub socket_path: Option<PathBuf>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[history]`: records go when they are both older and more.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HistorySection {
    /// How long they stay at least.
    #[serde(rename = "maxAge", deserialize_with = "units::optional_duration")]
    pub max_age: Option<Duration>,
    /// How many stay at least; 0 remembers none.
    #[serde(rename = "maxEntries")]
    pub max_entries: Option<usize>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[frontend]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FrontendSection {
    /// The built-in one.
    #[serde(rename = "dockerfile.v0")]
    pub dockerfile: FrontendSettings,
    /// Those in images.
    #[serde(rename = "gateway.v0")]
    pub gateway: FrontendSettings,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[frontend."name"]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FrontendSettings {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// Repositories that frontends may come from; all if empty.
    #[serde(rename = "allowedRepositories")]
    pub allowed_repositories: Vec<String>,
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
    /// Most steps at a time; 0 means four per processor, but at least 16.
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: usize,
    /// Most steps of one build at a time; 0 means as many as of all.
    #[serde(rename = "max-parallelism-per-build")]
    pub max_parallelism_per_build: usize,
    /// Platforms that clients are told of; what this machine can run if empty.
    pub platforms: Vec<String>,
    /// Network of steps: `auto`, `bridge`, `cni`, `host` or `none`.
    #[serde(rename = "networkMode")]
    pub network_mode: String,
    /// What describes the network of mode `cni`.
    #[serde(rename = "cniConfigPath")]
    pub cni_config_path: PathBuf,
    /// Where plugins are that make networks.
    #[serde(rename = "cniBinaryPath")]
    pub cni_binary_path: PathBuf,
    /// Namespaces that are prepared.
    #[serde(rename = "cniPoolSize")]
    pub cni_pool_size: usize,
    /// Name of the bridge of mode `bridge`.
    #[serde(rename = "bridgeName")]
    pub bridge_name: String,
    /// Addresses of steps at that bridge.
    #[serde(rename = "bridgeSubnet")]
    pub bridge_subnet: String,
    /// Whether unused results are removed by policy.
    pub gc: Option<bool>,
    /// Disk space never given up.
    #[serde(rename = "reservedSpace")]
    pub reserved_space: Option<DiskSpace>,
    /// The same, as it used to be called.
    pub gckeepstorage: Option<DiskSpace>,
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
    /// The same, as it used to be called.
    #[serde(rename = "keepBytes")]
    pub keep_bytes: Option<DiskSpace>,
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
    /// Directories with `*.crt`, `*.cert` and `*.key`, as Docker's `certs.d`.
    pub tlsconfigdir: Vec<PathBuf>,
    /// Certificates to show to the registry.
    pub keypair: Vec<KeyPairSection>,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

/// `[[registry."host".keypair]]`: PEM files.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct KeyPairSection {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Keys nobody reads.
    #[serde(flatten)]
    pub unknown: toml::Table,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read or parsed; the message names file, line and column.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::read_with(path, toml::Table::new())
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

    /// Reads a file, and puts `overrides` over what it says: lists are replaced, tables joined.
    pub(super) fn read_with(path: &Path, overrides: toml::Table) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let fail = |error: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        };
        // By itself first, so that errors have their place.
        let file: Self = toml::from_str(&text).map_err(fail)?;
        if overrides.is_empty() {
            return Ok(file);
        }
        let mut table: toml::Table = toml::from_str(&text).map_err(fail)?;
        join(&mut table, overrides);
        Self::from_table(table)
    }

    pub(super) fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        Self::deserialize(table).map_err(|error| ConfigError::Options(error.to_string()))
    }

    /// Keys that nobody reads, with their values.
    pub(super) fn unknown(&self) -> Vec<(String, &toml::Value)> {
        let oci = &self.worker.oci;
        let mut tables = vec![
            (String::new(), &self.unknown),
            ("log.".to_owned(), &self.log.unknown),
            ("grpc.".to_owned(), &self.grpc.unknown),
            ("grpc.tls.".to_owned(), &self.grpc.tls.unknown),
            ("dns.".to_owned(), &self.dns.unknown),
            ("history.".to_owned(), &self.history.unknown),
            ("cdi.".to_owned(), &self.cdi.unknown),
            ("otel.".to_owned(), &self.otel.unknown),
            ("frontend.".to_owned(), &self.frontend.unknown),
            (
                "frontend.\"dockerfile.v0\".".to_owned(),
                &self.frontend.dockerfile.unknown,
            ),
            ("frontend.\"gateway.v0\".".to_owned(), &self.frontend.gateway.unknown),
            ("worker.".to_owned(), &self.worker.unknown),
            ("worker.oci.".to_owned(), &oci.unknown),
        ];
        let policies = oci.gcpolicy.iter();
        tables.extend(policies.map(|policy| ("worker.oci.gcpolicy.".to_owned(), &policy.unknown)));
        for (host, registry) in &self.registry {
            tables.push((format!("registry.{host:?}."), &registry.unknown));
            let pairs = registry.keypair.iter();
            tables.extend(pairs.map(|pair| (format!("registry.{host:?}.keypair."), &pair.unknown)));
        }
        let keys = tables.into_iter().flat_map(|(prefix, table)| {
            let keys = table.iter();
            keys.map(move |(key, value)| (format!("{prefix}{key}"), value))
        });
        keys.collect()
    }
}

/// Puts a table over another.
fn join(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => join(below, above),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}
