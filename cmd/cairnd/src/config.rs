//! Configuration: a TOML file in buildkitd's layout, and the values it means.
//!
//! Reading it has no side effects. Keys of things this daemon does not do are refused where leaving them out would
//! change what builds do, and otherwise reported; see `docs/configuration.md`.

mod address;
mod flags;
mod gc;
mod units;
mod unsupported;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_solver::{Entitlement, Platform, device};
use cairn_worker::cdi::CdiConfig;
use cairn_worker::executor::DnsConfig;
use serde::Deserialize;

pub use address::{Address, default_address};
pub use flags::{StartUpError, configure};
pub(crate) use units::go_duration;
pub use units::{DiskSpace, UnitError};

pub use crate::history::Limits;

/// Default address of the daemon run by root.
pub const DEFAULT_ADDRESS: &str = "unix:///run/cairn/cairnd.sock";
/// Default state directory of the daemon run by root.
pub const DEFAULT_ROOT: &str = "/var/lib/cairn";
/// Default configuration file.
pub const DEFAULT_FILE: &str = "/etc/cairn/cairnd.toml";
/// Default directory of what operators add to statements about builds.
pub const DEFAULT_PROVENANCE_DIR: &str = "/etc/cairn/provenance.d";

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
    /// Network of steps; only `host` so far.
    #[serde(rename = "networkMode")]
    pub network_mode: Option<String>,
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

/// What the daemon is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// State directory.
    pub root: PathBuf,
    /// Addresses to listen on; empty when carried inside another program.
    pub addresses: Vec<Address>,
    /// Owner of unix sockets.
    pub socket_owner: (Option<u32>, Option<u32>),
    /// How TCP addresses are secured; not at all without.
    pub tls: Option<TlsFiles>,
    /// The log.
    pub log: LogConfig,
    /// Entitlements that clients may ask for.
    pub allowed_entitlements: Vec<Entitlement>,
    /// Additional worker labels.
    pub labels: BTreeMap<String, String>,
    /// Platforms that clients are told of; empty for what this machine can run.
    pub platforms: Vec<Platform>,
    /// Path or name of the OCI runtime; `None` looks for the known ones.
    pub runtime: Option<String>,
    /// Most steps at a time.
    pub max_parallelism: usize,
    /// Most steps of one build at a time; `None` for as many as of all.
    pub max_parallelism_per_build: Option<usize>,
    /// Name servers of steps.
    pub dns: DnsConfig,
    /// Policies for removing unused results; empty for none.
    pub gc: Vec<GcPolicySection>,
    /// What is remembered of builds.
    pub history: Limits,
    /// Devices of the host that steps may be given; `None` for none.
    pub cdi: Option<CdiConfig>,
    /// Directory of what is added to statements about builds.
    pub provenance_dir: PathBuf,
    /// Frontends that clients may use.
    pub frontends: FrontendRules,
    /// Registries, by host name as in image references.
    pub registries: BTreeMap<String, RegistrySection>,
    /// Things in the file that nobody reads, by path.
    pub ignored: Vec<String>,
}

/// What secures TCP addresses: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The daemon's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authority that certificates of clients must be signed by.
    pub ca: Option<PathBuf>,
}

/// How the daemon logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// JSON instead of text.
    pub json: bool,
}

/// Frontends that clients may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendRules {
    /// The built-in one.
    pub dockerfile: bool,
    /// Those in images.
    pub gateway: bool,
    /// Repositories, such as `docker.io/docker/dockerfile`, that frontends may come from; all if empty.
    pub repositories: Vec<String>,
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
    /// What the command line says is not of the right shape.
    #[error("options of the command line: {0}")]
    Options(String),
    /// A setting makes no sense.
    #[error("configuration: {key} is {value}: {expected}")]
    Value {
        /// The setting.
        key: String,
        /// Its value, as it would be written in the file.
        value: String,
        /// What would make sense.
        expected: &'static str,
    },
}

impl ConfigError {
    fn value(key: &str, value: impl Into<toml::Value>, expected: &'static str) -> Self {
        Self::Value {
            key: key.to_owned(),
            value: value.into().to_string(),
            expected,
        }
    }
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
    fn read_with(path: &Path, overrides: toml::Table) -> Result<Self, ConfigError> {
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

    fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        Self::deserialize(table).map_err(|error| ConfigError::Options(error.to_string()))
    }

    /// Keys that nobody reads, with their values.
    fn unknown(&self) -> Vec<(String, &toml::Value)> {
        let oci = &self.worker.oci;
        let mut tables = vec![
            (String::new(), &self.unknown),
            ("log.".to_owned(), &self.log.unknown),
            ("grpc.".to_owned(), &self.grpc.unknown),
            ("grpc.tls.".to_owned(), &self.grpc.tls.unknown),
            ("dns.".to_owned(), &self.dns.unknown),
            ("history.".to_owned(), &self.history.unknown),
            ("cdi.".to_owned(), &self.cdi.unknown),
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

impl Config {
    /// What a file means, with defaults for what it leaves out.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for settings that make no sense, or ask for what is not supported.
    pub fn from_file(file: ConfigFile) -> Result<Self, ConfigError> {
        let ignored = unsupported::judge(&file.unknown())?;
        let log = log(&file)?;
        let dns = dns(&file.dns)?;
        let frontends = frontends(&file.frontend)?;
        let cdi = cdi(file.cdi)?;
        let oci = file.worker.oci;
        if oci.enabled == Some(false) {
            let expected = "there is no other worker to use";
            return Err(ConfigError::value("worker.oci.enabled", false, expected));
        }
        if let Some(mode) = oci.network_mode.as_deref()
            && !matches!(mode, "host" | "auto" | "")
        {
            let expected = "only \"host\" and \"auto\" are supported";
            return Err(ConfigError::value("worker.oci.networkMode", mode, expected));
        }
        let defaults = Limits::default();
        Ok(Self {
            root: file.root.unwrap_or_else(default_root),
            addresses: all(&file.grpc.address, |text| text.parse())?,
            socket_owner: (file.grpc.uid, file.grpc.gid),
            tls: tls(file.grpc.tls)?,
            log,
            allowed_entitlements: all(&file.insecure_entitlements, |name| {
                entitlement("insecure-entitlements", name)
            })?,
            labels: oci.labels,
            platforms: all(&oci.platforms, platform)?,
            runtime: oci.binary,
            max_parallelism: match oci.max_parallelism {
                0 => default_parallelism(),
                most => most,
            },
            max_parallelism_per_build: Some(oci.max_parallelism_per_build).filter(|&most| most > 0),
            dns,
            gc: if oci.gc == Some(false) {
                Vec::new()
            } else if oci.gcpolicy.is_empty() {
                let reserved = oci.reserved_space.or(oci.gckeepstorage);
                gc::default_policies(reserved, oci.max_used_space, oci.min_free_space)
            } else {
                let policies = oci.gcpolicy.into_iter().map(|policy| GcPolicySection {
                    reserved_space: policy.reserved_space.or(policy.keep_bytes),
                    ..policy
                });
                policies.collect()
            },
            history: Limits {
                max_age: file.history.max_age.unwrap_or(defaults.max_age),
                max_entries: file.history.max_entries.unwrap_or(defaults.max_entries),
            },
            cdi,
            provenance_dir: provenance_dir(file.provenance_env_dir)?,
            frontends,
            registries: file.registry,
            ignored,
        })
    }
}

fn all<T>(texts: &[String], read: impl Fn(&str) -> Result<T, ConfigError>) -> Result<Vec<T>, ConfigError> {
    texts.iter().map(|text| read(text)).collect()
}

/// The entitlement called `name` in setting `key`.
fn entitlement(key: &str, name: &str) -> Result<Entitlement, ConfigError> {
    let expected = "known are \"network.host\", \"security.insecure\" and \"device\"";
    Entitlement::from_name(name).ok_or_else(|| ConfigError::value(key, name, expected))
}

/// Where operators put what they add to statements.
fn provenance_dir(dir: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    match dir.filter(|dir| !dir.as_os_str().is_empty()) {
        None => Ok(PathBuf::from(DEFAULT_PROVENANCE_DIR)),
        Some(dir) if dir.is_absolute() => Ok(dir),
        Some(dir) => Err(ConfigError::value(
            "provenanceEnvDir",
            dir.display().to_string(),
            "expected an absolute path",
        )),
    }
}

/// Where devices are described.
fn cdi(section: CdiSection) -> Result<Option<CdiConfig>, ConfigError> {
    if section.disabled {
        return Ok(None);
    }
    if let Some(relative) = section.spec_dirs.iter().find(|dir| !dir.is_absolute()) {
        return Err(ConfigError::value(
            "cdi.specDirs",
            relative.display().to_string(),
            "expected an absolute path",
        ));
    }
    for name in &section.auto_allowed {
        let kind = name.split_once('=').map_or(name.as_str(), |(kind, _)| kind);
        if device::check_kind(kind).is_err() {
            let expected = "expected vendor.com/class or vendor.com/class=name";
            return Err(ConfigError::value("cdi.autoAllowed", name.as_str(), expected));
        }
    }
    Ok(Some(CdiConfig {
        dirs: if section.spec_dirs.is_empty() {
            cairn_worker::cdi::DEFAULT_DIRS.map(PathBuf::from).to_vec()
        } else {
            section.spec_dirs
        },
        auto_allowed: section.auto_allowed,
    }))
}

fn platform(text: &str) -> Result<Platform, ConfigError> {
    let fail = |_| ConfigError::value("worker.oci.platforms", text, "expected os/arch[/variant]");
    text.parse().map_err(fail)
}

fn log(file: &ConfigFile) -> Result<LogConfig, ConfigError> {
    let json = match file.log.format.as_deref() {
        None | Some("" | "text") => false,
        Some("json") => true,
        Some(other) => return Err(ConfigError::value("log.format", other, "expected text or json")),
    };
    let level = match file.log.level.as_deref() {
        _ if file.debug => "debug",
        None | Some("") => "info",
        Some(level @ ("error" | "warn" | "info" | "debug" | "trace")) => level,
        // Other names that buildkitd knows.
        Some("warning") => "warn",
        Some("fatal" | "panic") => "error",
        Some(other) => {
            let expected = "expected error, warn, info, debug or trace";
            return Err(ConfigError::value("log.level", other, expected));
        }
    };
    Ok(LogConfig {
        level: level.to_owned(),
        json,
    })
}

fn tls(section: TlsSection) -> Result<Option<TlsFiles>, ConfigError> {
    // An empty path is one that is not given.
    let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let show = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
    match (given(section.cert), given(section.key), given(section.ca)) {
        (None, None, None) => Ok(None),
        (Some(cert), Some(key), ca) => Ok(Some(TlsFiles { cert, key, ca })),
        (cert @ Some(_), None, _) => {
            let expected = "a certificate needs its key: grpc.tls.key";
            Err(ConfigError::value("grpc.tls.cert", show(cert), expected))
        }
        (None, key @ Some(_), _) => {
            let expected = "a key needs its certificate: grpc.tls.cert";
            Err(ConfigError::value("grpc.tls.key", show(key), expected))
        }
        (None, None, ca) => {
            let expected = "to ask clients for certificates, the daemon needs its own: grpc.tls.cert and grpc.tls.key";
            Err(ConfigError::value("grpc.tls.ca", show(ca), expected))
        }
    }
}

fn dns(section: &DnsSection) -> Result<DnsConfig, ConfigError> {
    let word = |key: &'static str| {
        move |text: &str| {
            let is_word = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
            let expected = "expected one word";
            is_word
                .then(|| text.to_owned())
                .ok_or_else(|| ConfigError::value(key, text, expected))
        }
    };
    let address = |text: &str| {
        let fail = |_| ConfigError::value("dns.nameservers", text, "expected an IP address");
        text.parse::<IpAddr>().map_err(fail)
    };
    Ok(DnsConfig {
        servers: all(&section.nameservers, address)?,
        options: all(&section.options, word("dns.options"))?,
        search: all(&section.search_domains, word("dns.searchDomains"))?,
    })
}

fn frontends(section: &FrontendSection) -> Result<FrontendRules, ConfigError> {
    if let Some(repository) = section.dockerfile.allowed_repositories.first() {
        let key = "frontend.\"dockerfile.v0\".allowedRepositories";
        return Err(ConfigError::value(
            key,
            repository.as_str(),
            "this frontend is built in",
        ));
    }
    let repository = |text: &str| {
        let key = "frontend.\"gateway.v0\".allowedRepositories";
        let fail = || ConfigError::value(key, text, "expected a repository, such as docker.io/docker/dockerfile");
        repository(text).ok_or_else(fail)
    };
    Ok(FrontendRules {
        dockerfile: section.dockerfile.enabled.unwrap_or(true),
        gateway: section.gateway.enabled.unwrap_or(true),
        repositories: all(&section.gateway.allowed_repositories, repository)?,
    })
}

/// The full name of the repository of an image.
fn repository(image: &str) -> Option<String> {
    let reference: cairn_worker::registry::Reference = image.parse().ok()?;
    Some(format!("{}/{}", reference.registry(), reference.repository()))
}

impl FrontendRules {
    /// Whether frontends may come from that image.
    pub(crate) fn allow(&self, image: &str) -> bool {
        self.repositories.is_empty() || repository(image).is_some_and(|name| self.repositories.contains(&name))
    }
}

fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from(DEFAULT_ROOT);
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    home.join(".local/share/cairn")
}

/// Steps wait for networks and disks more than for processors, and some wait for one another.
fn default_parallelism() -> usize {
    const LEAST: usize = 16;
    const PER_PROCESSOR: usize = 4;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors * PER_PROCESSOR).max(LEAST)
}

#[cfg(test)]
mod tests;
