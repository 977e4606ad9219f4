//! Keys of buildkitd's configuration that ask for something this daemon does not do.
//!
//! A key that would change what builds do is refused unless its value asks for nothing; one that would not is merely
//! named, as are keys that nobody knows.

use super::ConfigError;

/// A value that asks for nothing.
#[derive(Clone, Copy)]
enum Harmless {
    /// This truth value.
    Bool(bool),
    /// Nothing: an empty text or list, 0, or `false`.
    Empty,
    /// Empty, or one of these texts.
    Text(&'static [&'static str]),
    /// Whatever it is, builds are the same without.
    Any,
}

/// What is not supported, by key; a key stands for everything below it too.
const KEYS: &[(&str, Harmless, &str)] = &[
    (
        "proxyNetwork",
        Harmless::Bool(false),
        "proxied networking is not supported",
    ),
    ("grpc.debugAddress", Harmless::Empty, "there is no debug address"),
    ("grpc.securityDescriptor", Harmless::Empty, "this is for Windows"),
    (
        "worker.oci.snapshotter",
        Harmless::Text(&["auto", "overlayfs"]),
        "the only snapshotter is \"overlayfs\"",
    ),
    (
        "worker.oci.rootless",
        Harmless::Bool(false),
        "rootless mode is not supported",
    ),
    (
        "worker.oci.noProcessSandbox",
        Harmless::Bool(false),
        "steps always have a process namespace of their own",
    ),
    (
        "worker.oci.selinux",
        Harmless::Bool(false),
        "SELinux labels are not supported",
    ),
    (
        "worker.oci.apparmor-profile",
        Harmless::Empty,
        "AppArmor profiles are not supported",
    ),
    (
        "worker.oci.proxySnapshotterPath",
        Harmless::Empty,
        "other snapshotters are not supported",
    ),
    (
        "worker.oci.stargzSnapshotter",
        Harmless::Empty,
        "other snapshotters are not supported",
    ),
    (
        "worker.oci.defaultCgroupParent",
        Harmless::Empty,
        "a cgroup of one's own choice is not supported",
    ),
    (
        "worker.oci.userRemapUnsupported",
        Harmless::Empty,
        "user namespaces are not supported",
    ),
    (
        "worker.containerd.enabled",
        Harmless::Bool(false),
        "the containerd worker is not supported",
    ),
    ("worker.containerd", Harmless::Any, ""),
    ("system.platformsCacheMaxAge", Harmless::Any, ""),
    (
        "system.maxRegistryConcurrency",
        Harmless::Empty,
        "this limit is not supported",
    ),
    (
        "cache.gha",
        Harmless::Empty,
        "the cache of GitHub Actions is not supported",
    ),
    (
        "save-cache-debug",
        Harmless::Bool(false),
        "records for debugging the cache are not supported",
    ),
];

/// What to say about keys that nobody reads: refuses, or returns the paths of those that have no effect.
///
/// # Errors
/// [`ConfigError::Value`] for the first key that asks for something that is not done.
pub(super) fn judge(unknown: &[(String, &toml::Value)]) -> Result<Vec<String>, ConfigError> {
    let mut ignored = Vec::new();
    for (path, value) in unknown {
        judge_one(path, value, &mut ignored)?;
    }
    Ok(ignored)
}

fn judge_one(path: &str, value: &toml::Value, ignored: &mut Vec<String>) -> Result<(), ConfigError> {
    let rule = KEYS.iter().find(|(key, ..)| {
        let below = path.strip_prefix(key);
        below.is_some_and(|below| below.is_empty() || below.starts_with('.'))
    });
    let has_rules_below = || {
        let below = KEYS.iter().filter_map(|(key, ..)| key.strip_prefix(path));
        below.into_iter().any(|below| below.starts_with('.'))
    };
    if let toml::Value::Table(table) = value
        && (rule.is_some() || has_rules_below())
    {
        return table
            .iter()
            .try_for_each(|(key, value)| judge_one(&format!("{path}.{key}"), value, ignored));
    }
    match rule {
        Some((_, Harmless::Any, _)) | None => ignored.push(path.to_owned()),
        Some((_, harmless, _)) if harmless.allows(value) => {}
        Some((.., reason)) => return Err(ConfigError::value(path, value.clone(), reason)),
    }
    Ok(())
}

impl Harmless {
    fn allows(self, value: &toml::Value) -> bool {
        let is_empty = match value {
            toml::Value::String(text) => text.is_empty(),
            toml::Value::Integer(number) => *number == 0,
            toml::Value::Boolean(wanted) => !wanted,
            toml::Value::Array(list) => list.is_empty(),
            _ => false,
        };
        match self {
            Self::Any => true,
            Self::Empty => is_empty,
            Self::Bool(harmless) => value.as_bool() == Some(harmless),
            Self::Text(harmless) => is_empty || value.as_str().is_some_and(|text| harmless.contains(&text)),
        }
    }
}
