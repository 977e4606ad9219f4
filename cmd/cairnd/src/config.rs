//! Configuration: a TOML file in buildkitd's layout, and the values it means.
//!
//! Reading it has no side effects. Keys of things this daemon does not do are refused where leaving them out would
//! change what builds do, and otherwise reported; see `docs/configuration.md`.

mod address;
mod file;
mod flags;
mod gc;
mod network;
mod units;
mod unsupported;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cairn_solver::{Entitlement, Platform, device};
use cairn_worker::cdi::CdiConfig;
use cairn_worker::cni::NetworkConfig;
use cairn_worker::executor::DnsConfig;

pub use address::{Address, default_address};
pub use file::{
    CdiSection, ConfigFile, DnsSection, FrontendSection, FrontendSettings, GcPolicySection, GrpcSection,
    HistorySection, KeyPairSection, LogSection, OciSection, OtelSection, RegistrySection, TlsSection, WorkerSection,
};
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
    /// Network of steps that do not ask for one.
    pub network: NetworkConfig,
    /// Policies for removing unused results; empty for none.
    pub gc: Vec<GcPolicySection>,
    /// What is remembered of builds.
    pub history: Limits,
    /// Devices of the host that steps may be given; `None` for none.
    pub cdi: Option<CdiConfig>,
    /// Where the socket is that steps and frontends send spans to; `None` for one in the state directory.
    pub trace_socket: Option<PathBuf>,
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
        let network = network::of(&oci)?;
        let defaults = Limits::default();
        Ok(Self {
            root: absolute_root(file.root.unwrap_or_else(default_root))?,
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
            network,
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
            trace_socket: absolute("otel.socketPath", file.otel.socket_path)?,
            provenance_dir: absolute("provenanceEnvDir", file.provenance_env_dir)?
                .unwrap_or_else(|| PathBuf::from(DEFAULT_PROVENANCE_DIR)),
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

/// The path in setting `key`, if there is one.
fn absolute(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    match path.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) if !path.is_absolute() => {
            let expected = "expected an absolute path";
            Err(ConfigError::value(key, path.display().to_string(), expected))
        }
        path => Ok(path),
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
        _ if file.trace => "trace",
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

/// Programs that the daemon starts run elsewhere, where a relative path would mean something else.
fn absolute_root(root: PathBuf) -> Result<PathBuf, ConfigError> {
    let invalid = |_| {
        ConfigError::value(
            "root",
            root.to_string_lossy().into_owned(),
            "expected the path of a directory",
        )
    };
    std::path::absolute(&root).map_err(invalid)
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
