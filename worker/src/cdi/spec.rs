//! One file that describes devices.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use cairn_solver::device::check_kind;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::executor::HookStage;

/// Versions of the format, as `cdiVersion` names them.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// Most devices of one file.
const MAX_DEVICES: usize = 1024;
/// Most entries of each kind in one set of edits.
const MAX_ENTRIES: usize = 1024;
/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpecError {
    /// It is not of the format.
    #[error("failed to parse it: {0}")]
    Syntax(String),
    /// What it says makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// A file, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    cdi_version: String,
    /// `vendor.com/class`.
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<DeviceSpec>,
    /// For whoever gets any of the devices.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container_edits: ContainerEdits,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceSpec {
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container_edits: ContainerEdits,
}

/// What is changed about a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerEdits {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) device_nodes: Vec<DeviceNode>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) net_devices: Vec<IgnoredAny>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) hooks: Vec<Hook>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host_path: String,
    #[serde(default, deserialize_with = "or_default", rename = "type")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) major: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Vec<String>,
    #[serde(default, deserialize_with = "or_default", rename = "type")]
    pub(super) kind: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: HookStage,
    pub(super) path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
    /// Seconds.
    pub(super) timeout: Option<u32>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Json,
    Yaml,
}

impl Syntax {
    /// That of the file called `name`; `None` if it is none that describes devices.
    pub(super) fn of(name: &Path) -> Option<Self> {
        match name.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

impl Spec {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`SpecError`] says what is wrong with it.
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, SpecError> {
        let spec: Self = match syntax {
            Syntax::Json => serde_json::from_str(text).map_err(|error| SpecError::Syntax(error.to_string()))?,
            Syntax::Yaml => {
                // Modes are written as 0660 by most.
                let options = serde_saphyr::options! { legacy_octal_numbers: true };
                serde_saphyr::from_str_with_options(text, options)
                    .map_err(|error| SpecError::Syntax(error.to_string()))?
            }
        };
        spec.check().map_err(SpecError::Invalid)?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let least = self.least_version();
        match place(&self.cdi_version) {
            None => return Err(format!("invalid version {:?}", self.cdi_version)),
            version if version < place(least) => {
                return Err(format!(
                    "it needs version {least} of the format, not {}",
                    self.cdi_version
                ));
            }
            Some(_) => {}
        }
        check_kind(&self.kind).map_err(|why| format!("invalid kind {:?}{why}", self.kind))?;
        check_annotations(&self.annotations)?;
        check_count("devices", self.devices.len(), MAX_DEVICES)?;
        if self.devices.is_empty() {
            return Err("no devices".to_owned());
        }
        self.container_edits.check()?;
        let mut names = std::collections::HashSet::new();
        for device in &self.devices {
            check_name(&device.name)?;
            let of_device = |why| format!("device {:?}: {why}", device.name);
            if !names.insert(&device.name) {
                return Err(of_device("there are two of this name".to_owned()));
            }
            if device.container_edits == ContainerEdits::default() {
                return Err(of_device("nothing is changed for it".to_owned()));
            }
            check_annotations(&device.annotations).map_err(of_device)?;
            device.container_edits.check().map_err(of_device)?;
        }
        Ok(())
    }

    /// The first version of the format that has all of this.
    fn least_version(&self) -> &'static str {
        let edits = || {
            let of_devices = self.devices.iter().map(|device| &device.container_edits);
            of_devices.chain([&self.container_edits])
        };
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        if edits().any(|edits| !edits.net_devices.is_empty()) {
            "1.1.0"
        } else if edits().any(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty()) {
            "0.7.0"
        } else if class.contains('.')
            || !self.annotations.is_empty()
            || self.devices.iter().any(|device| !device.annotations.is_empty())
        {
            "0.6.0"
        } else if self
            .devices
            .iter()
            .any(|device| !device.name.starts_with(|c: char| c.is_ascii_alphabetic()))
            || edits().any(|edits| edits.device_nodes.iter().any(|node| !node.host_path.is_empty()))
        {
            "0.5.0"
        } else if edits().any(|edits| edits.mounts.iter().any(|mount| !mount.kind.is_empty())) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        check_count("variables", self.env.len(), MAX_ENTRIES)?;
        check_count("device nodes", self.device_nodes.len(), MAX_ENTRIES)?;
        check_count("network devices", self.net_devices.len(), MAX_ENTRIES)?;
        check_count("hooks", self.hooks.len(), MAX_ENTRIES)?;
        check_count("mounts", self.mounts.len(), MAX_ENTRIES)?;
        check_count("groups", self.additional_gids.len(), MAX_ENTRIES)?;
        check_env(&self.env)?;
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        self.mounts.iter().try_for_each(|mount| {
            check_path("host path of a mount", &mount.host_path)?;
            check_path("container path of a mount", &mount.container_path)
        })?;
        self.hooks.iter().try_for_each(Hook::check)
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        check_path("path of a device node", &self.path)?;
        if !self.host_path.is_empty() {
            check_path("host path of a device node", &self.host_path)?;
        }
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(format!("device node {}: invalid type {:?}", self.path, self.kind));
        }
        let is_access = |permissions: &str| permissions.len() <= 3 && permissions.chars().all(|c| "rwm".contains(c));
        if self.permissions != "none" && !is_access(&self.permissions) {
            return Err(format!(
                "device node {}: invalid permissions {:?}",
                self.path, self.permissions
            ));
        }
        Ok(())
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        check_path("path of a hook", &self.path)?;
        check_count("arguments of a hook", self.args.len(), MAX_ENTRIES)?;
        check_count("variables of a hook", self.env.len(), MAX_ENTRIES)?;
        if self.args.iter().any(|argument| argument.contains('\0')) {
            return Err(format!("hook {}: an argument has a null character", self.path));
        }
        if self.timeout == Some(0) {
            return Err(format!("hook {}: it is given no time", self.path));
        }
        check_env(&self.env)
    }
}

fn check_count(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most {
        return Err(format!("{count} {what}: there can be at most {most}"));
    }
    Ok(())
}

fn check_env(env: &[String]) -> Result<(), String> {
    let is_variable = |entry: &&String| entry.find('=').is_some_and(|place| place > 0) && !entry.contains('\0');
    match env.iter().find(|entry| !is_variable(entry)) {
        Some(entry) => Err(format!("invalid environment variable {entry:?}")),
        None => Ok(()),
    }
}

/// Absolute, and without steps upwards.
fn check_path(what: &str, path: &str) -> Result<(), String> {
    let is_up = |component| matches!(component, Component::ParentDir);
    if !path.starts_with('/') || path.contains('\0') || Path::new(path).components().any(is_up) {
        return Err(format!("the {what} must be absolute and without \"..\": {path:?}"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    let is_inner = |c: char| is_edge(c) || matches!(c, '_' | '-' | '.' | ':');
    if name.starts_with(is_edge) && name.ends_with(is_edge) && name.chars().all(is_inner) {
        return Ok(());
    }
    Err(format!("invalid device name {name:?}"))
}

/// Names as Kubernetes has them: `name`, or `example.com/name`.
fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), String> {
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    let is_inner = |c: char| is_edge(c) || matches!(c, '_' | '-' | '.');
    let is_name = |name: &str| {
        name.len() <= 253 && name.starts_with(is_edge) && name.ends_with(is_edge) && name.chars().all(is_inner)
    };
    let is_key = |key: &str| match key.split_once('/') {
        Some((prefix, name)) => is_name(prefix) && is_name(name),
        None => is_name(key),
    };
    match annotations.keys().find(|key| !is_key(key)) {
        Some(key) => Err(format!("invalid annotation {key:?}")),
        None => Ok(()),
    }
}

/// A value, or that of nothing where there is a null.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
