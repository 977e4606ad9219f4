//! Options of the command line, in buildkitd's words: each sets a key of the configuration file.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

use super::{Config, ConfigError, ConfigFile, DEFAULT_FILE};

/// The form of an option's value.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Number,
    /// `true` when there is no value.
    Bool,
    /// Can be given again, and with commas.
    List,
    /// `name=value`, likewise.
    Labels,
    /// `true`, `false` or `auto`, which leaves the key as it is.
    Auto,
    /// A group's name or number.
    Group,
    /// Megabytes: reserved, free, maximum.
    Space,
}

/// An option: name, form, key, help. Without help, it is one of those that are refused if they ask for anything.
type Entry = (&'static str, Form, &'static str, &'static str);

const ENTRIES: &[Entry] = &[
    (
        "addr",
        Form::List,
        "grpc.address",
        "Address to listen on: unix:///path, tcp://host:port or fd:// (sockets of systemd); can be repeated \
         [default: unix:///run/cairn/cairnd.sock]",
    ),
    ("root", Form::Text, "root", "State directory [default: /var/lib/cairn]"),
    ("debug", Form::Bool, "debug", "Log more"),
    ("trace", Form::Bool, "trace", "Log whatever there is to log"),
    ("log-format", Form::Text, "log.format", "Form of the log: text or json"),
    (
        "log-level",
        Form::Text,
        "log.level",
        "Least level that is logged: error, warn, info, debug or trace",
    ),
    (
        "group",
        Form::Group,
        "grpc.gid",
        "Group of unix sockets, by name or number",
    ),
    ("tlscert", Form::Text, "grpc.tls.cert", "Certificate for TCP addresses"),
    ("tlskey", Form::Text, "grpc.tls.key", "Key of the certificate"),
    (
        "tlscacert",
        Form::Text,
        "grpc.tls.ca",
        "Authority that certificates of clients must be signed by",
    ),
    (
        "allow-insecure-entitlement",
        Form::List,
        "insecure-entitlements",
        "Entitlement that clients may ask for: network.host, security.insecure or device; can be repeated",
    ),
    ("cdi-disabled", Form::Bool, "cdi.disabled", "Steps get no devices"),
    (
        "cdi-spec-dir",
        Form::List,
        "cdi.specDirs",
        "Directory where devices are described; can be repeated",
    ),
    (
        "otel-socket-path",
        Form::Text,
        "otel.socketPath",
        "Where the socket is that steps send spans to [default: otel-grpc.sock in the state directory]",
    ),
    (
        "oci-worker-labels",
        Form::Labels,
        "worker.oci.labels",
        "Additional labels of the worker, as name=value",
    ),
    (
        "oci-worker-platform",
        Form::List,
        "worker.oci.platforms",
        "Platforms that clients are told of; the first is the default",
    ),
    (
        "oci-worker-net",
        Form::Text,
        "worker.oci.networkMode",
        "Network of steps: auto, bridge, cni, host or none",
    ),
    (
        "oci-cni-config-path",
        Form::Text,
        "worker.oci.cniConfigPath",
        "What describes the network of steps [default: /etc/buildkit/cni.json]",
    ),
    (
        "oci-cni-binary-dir",
        Form::Text,
        "worker.oci.cniBinaryPath",
        "Where the plugins are that set up networks [default: /opt/cni/bin]",
    ),
    (
        "oci-cni-pool-size",
        Form::Number,
        "worker.oci.cniPoolSize",
        "Network namespaces to have ready for steps",
    ),
    (
        "oci-worker-binary",
        Form::Text,
        "worker.oci.binary",
        "OCI runtime, by path or name",
    ),
    (
        "oci-max-parallelism",
        Form::Number,
        "worker.oci.max-parallelism",
        "Most steps at a time",
    ),
    (
        "oci-worker-gc",
        Form::Bool,
        "worker.oci.gc",
        "Whether unused results are removed by policy",
    ),
    (
        "oci-worker-gc-keepstorage",
        Form::Space,
        "worker.oci",
        "Disk space for results in MB, as Reserved[,Free[,Maximum]]",
    ),
    ("oci-worker", Form::Auto, "worker.oci.enabled", ""),
    ("oci-worker-snapshotter", Form::Text, "worker.oci.snapshotter", ""),
    (
        "oci-worker-proxy-snapshotter-path",
        Form::Text,
        "worker.oci.proxySnapshotterPath",
        "",
    ),
    ("oci-worker-rootless", Form::Bool, "worker.oci.rootless", ""),
    (
        "oci-worker-no-process-sandbox",
        Form::Bool,
        "worker.oci.noProcessSandbox",
        "",
    ),
    (
        "oci-worker-apparmor-profile",
        Form::Text,
        "worker.oci.apparmor-profile",
        "",
    ),
    ("oci-worker-selinux", Form::Bool, "worker.oci.selinux", ""),
    ("rootless", Form::Bool, "worker.oci.rootless", ""),
    ("debugaddr", Form::Text, "grpc.debugAddress", ""),
    ("proxy-network", Form::Bool, "proxyNetwork", ""),
    ("save-cache-debug", Form::Bool, "save-cache-debug", ""),
    ("containerd-worker", Form::Auto, "worker.containerd.enabled", ""),
    ("containerd-worker-addr", Form::Text, "worker.containerd.address", ""),
    ("containerd-worker-labels", Form::Labels, "worker.containerd.labels", ""),
    (
        "containerd-worker-platform",
        Form::List,
        "worker.containerd.platforms",
        "",
    ),
    ("containerd-worker-net", Form::Text, "worker.containerd.networkMode", ""),
    (
        "containerd-worker-snapshotter",
        Form::Text,
        "worker.containerd.snapshotter",
        "",
    ),
    (
        "containerd-worker-namespace",
        Form::Text,
        "worker.containerd.namespace",
        "",
    ),
    (
        "containerd-worker-apparmor-profile",
        Form::Text,
        "worker.containerd.apparmor-profile",
        "",
    ),
    ("containerd-worker-selinux", Form::Bool, "worker.containerd.selinux", ""),
    (
        "containerd-worker-rootless",
        Form::Bool,
        "worker.containerd.rootless",
        "",
    ),
    ("containerd-worker-gc", Form::Bool, "worker.containerd.gc", ""),
    (
        "containerd-worker-gc-keepstorage",
        Form::Text,
        "worker.containerd.gckeepstorage",
        "",
    ),
    (
        "containerd-cni-config-path",
        Form::Text,
        "worker.containerd.cniConfigPath",
        "",
    ),
    (
        "containerd-cni-binary-dir",
        Form::Text,
        "worker.containerd.cniBinaryPath",
        "",
    ),
    (
        "containerd-cni-pool-size",
        Form::Number,
        "worker.containerd.cniPoolSize",
        "",
    ),
    (
        "containerd-max-parallelism",
        Form::Number,
        "worker.containerd.max-parallelism",
        "",
    ),
];

/// Variables that stand for options that are not given.
const VARIABLES: [(&str, &str); 2] = [
    ("log-level", "BUILDKITD_LOG_LEVEL"),
    ("debugaddr", "BUILDKITD_DEBUGADDR"),
];

/// The configuration of a daemon started with these arguments: the file with what the command line says over it.
///
/// # Errors
/// [`StartUpError::Usage`], which is also the help or the version that was asked for, or whatever is wrong with the
/// configuration.
pub fn configure<I, T>(arguments: I) -> Result<Config, StartUpError>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    let overrides = overrides(&matches)?;
    let path = matches.get_one::<PathBuf>("config");
    let read = ConfigFile::read_with(
        path.map_or(Path::new(DEFAULT_FILE), PathBuf::as_path),
        overrides.clone(),
    );
    let file = match read {
        Err(ConfigError::Read { source, .. }) if path.is_none() && source.kind() == std::io::ErrorKind::NotFound => {
            ConfigFile::from_table(overrides)?
        }
        outcome => outcome?,
    };
    Ok(Config::from_file(file)?)
}

/// Why a daemon does not even begin.
#[derive(Debug, thiserror::Error)]
pub enum StartUpError {
    /// The arguments make no sense, or ask for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Configuration file, in buildkitd's layout [default: /etc/cairn/cairnd.toml, if it exists]");
    let version = Arg::new("version")
        .short('v')
        .short_alias('V')
        .long("version")
        .action(ArgAction::Version)
        .help("Print the version");
    let entries = ENTRIES.iter().map(|&(name, form, _, help)| {
        let arg = Arg::new(name).long(name).action(ArgAction::Append).value_name("VALUE");
        let arg = match form {
            // As in `--debug` and `--debug=false`.
            Form::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg,
        };
        if help.is_empty() {
            arg.hide(true)
        } else {
            arg.help(help)
        }
    });
    Command::new("cairnd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Builds container images for clients of the BuildKit API")
        .disable_version_flag(true)
        .arg(config)
        .args(entries)
        .arg(version)
}

fn overrides(matches: &ArgMatches) -> Result<Table, ConfigError> {
    let mut table = Table::new();
    for &(name, form, key, _) in ENTRIES {
        let given = matches.get_many::<String>(name).unwrap_or_default();
        let mut given: Vec<String> = given.cloned().collect();
        if let Some((_, variable)) = VARIABLES.iter().find(|(option, _)| given.is_empty() && *option == name) {
            given.extend(std::env::var(variable).ok().filter(|value| !value.is_empty()));
        }
        // Of an option that can be given once, the last counts.
        let Some(last) = given.last() else { continue };
        match form {
            Form::Text => set(&mut table, key, Value::from(last.as_str())),
            Form::List => set(&mut table, key, list(&given)),
            Form::Number => set(&mut table, key, Value::Integer(parse(name, last, "expected a number")?)),
            Form::Bool => set(&mut table, key, Value::Boolean(boolean(name, last)?)),
            Form::Auto if last == "auto" => {}
            Form::Auto => set(&mut table, key, Value::Boolean(boolean(name, last)?)),
            Form::Group => set(&mut table, key, Value::Integer(group(last)?)),
            Form::Labels => {
                for label in given.iter().flat_map(|text| text.split(',')) {
                    let (label, value) = label
                        .split_once('=')
                        .ok_or_else(|| ConfigError::value(&format!("--{name}"), label, "expected name=value"))?;
                    set_path(&mut table, key.split('.').chain([label]), Value::from(value));
                }
            }
            Form::Space => {
                let keys = ["reservedSpace", "minFreeSpace", "maxUsedSpace"];
                for (part, amount) in keys.iter().zip(last.split(',')) {
                    let megabytes: i64 = parse(name, amount, "expected Reserved[,Free[,Maximum]] in MB")?;
                    let bytes = megabytes.saturating_mul(1_000_000);
                    set(&mut table, &format!("{key}.{part}"), Value::Integer(bytes));
                }
            }
        }
    }
    Ok(table)
}

fn list(given: &[String]) -> Value {
    let parts = given.iter().flat_map(|text| text.split(','));
    Value::Array(parts.filter(|part| !part.is_empty()).map(Value::from).collect())
}

fn parse<T: std::str::FromStr>(name: &str, text: &str, expected: &'static str) -> Result<T, ConfigError> {
    let fail = |_| ConfigError::value(&format!("--{name}"), text, expected);
    text.trim().parse().map_err(fail)
}

/// Truth values as buildkitd reads them.
fn boolean(name: &str, text: &str) -> Result<bool, ConfigError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ConfigError::value(&format!("--{name}"), text, "expected true or false")),
    }
}

/// The number of a group in the machine's list.
fn group(name: &str) -> Result<i64, ConfigError> {
    if let Ok(number) = name.parse::<u32>() {
        return Ok(number.into());
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse::<u32>().ok())?
    });
    found
        .map(i64::from)
        .ok_or_else(|| ConfigError::value("--group", name, "there is no such group in /etc/group"))
}

fn set(table: &mut Table, key: &str, value: Value) {
    set_path(table, key.split('.'), value);
}

fn set_path<'a>(table: &mut Table, path: impl IntoIterator<Item = &'a str>, value: Value) {
    let mut path = path.into_iter().peekable();
    let mut table = table;
    while let Some(part) = path.next() {
        if path.peek().is_none() {
            table.insert(part.to_owned(), value);
            return;
        }
        let next = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { return };
        table = next;
    }
}

#[cfg(test)]
mod tests;
