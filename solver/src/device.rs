//! Devices of the host that steps ask for: which of them a name means, and whether the client may have them.
//!
//! Names are those of the Container Device Interface, `vendor.com/class=name`. Which devices there are is the worker's
//! to know ([`Worker::devices`](crate::Worker::devices)); a step is given the full names of those it gets before it is
//! identified, so that what it found, rather than what it asked for, is what enters its key.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::llb::CdiDevice;

/// Annotation that puts a device into a class of its own: `vendor.com/class=CLASS` means all that say so.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Annotation that lets every build have a device.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// Most devices that one step may ask for.
const MAX_ASKED: usize = 64;

/// A device that steps may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `vendor.com/class=name`.
    pub name: String,
    /// Whether every build may have it.
    pub is_auto_allowed: bool,
    /// What is said about it.
    pub annotations: BTreeMap<String, String>,
}

impl Device {
    /// A device with these annotations. `auto_allowed` are names of devices and kinds that every build may have.
    pub fn new(name: String, annotations: BTreeMap<String, String>, auto_allowed: &[String]) -> Self {
        let is_listed = auto_allowed
            .iter()
            .any(|allowed| *allowed == name || allowed == kind_of(&name));
        let is_annotated = annotations.get(AUTO_ALLOW).is_some_and(|value| is_true(value));
        Self {
            name,
            is_auto_allowed: is_listed || is_annotated,
            annotations,
        }
    }
}

/// Why a step does not get its devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// It is no name of a device.
    #[error("invalid device {0:?}{1}")]
    Invalid(String, String),
    /// There is no such device.
    #[error("required device {0:?} is not registered")]
    Missing(String),
    /// Steps of this daemon get no devices.
    #[error("CDI device {device:?} is required by step {step:?}, but CDI device support is disabled")]
    Disabled {
        /// What was asked for.
        device: String,
        /// By whom.
        step: String,
    },
    /// One step asks for more than any means.
    #[error("a step asks for {0} devices: it can have at most {MAX_ASKED}")]
    TooMany(usize),
    /// The client was not granted them.
    #[error("{}", not_allowed(.0))]
    NotAllowed(Vec<String>),
}

fn not_allowed(devices: &[String]) -> String {
    match devices {
        [device] => format!("device {device} is requested by the build but not allowed"),
        devices => format!(
            "devices {} are requested by the build but not allowed",
            devices.join(", ")
        ),
    }
}

/// The devices a client was granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceGrants {
    /// None but those that every build may have.
    #[default]
    None,
    /// Those that are named. What a step asks for under an alias is the device it stands for.
    Named {
        /// Names, as steps may ask for devices.
        devices: BTreeSet<String>,
        /// Devices by alias.
        aliases: BTreeMap<String, String>,
    },
    /// All.
    All,
}

impl DeviceGrants {
    /// Grants what an entitlement says after `device=`: fields of a line of comma-separated values.
    ///
    /// # Errors
    /// Which part of it makes no sense.
    pub fn grant(&mut self, fields: &[String]) -> Result<(), String> {
        let Some((device, options)) = fields.split_first() else {
            return Err("invalid device config \"\"".to_owned());
        };
        let mut alias = "";
        for option in options {
            match option.split_once('=') {
                Some(("alias", name)) => alias = name,
                Some((key, _)) => return Err(format!("unknown device config key {key:?}")),
                None => return Err(format!("invalid device config {option:?}")),
            }
        }
        if matches!(self, Self::None) {
            *self = Self::Named {
                devices: BTreeSet::new(),
                aliases: BTreeMap::new(),
            };
        }
        match self {
            Self::Named { devices, .. } if alias.is_empty() => drop(devices.insert(device.clone())),
            Self::Named { aliases, .. } => drop(aliases.insert(alias.to_owned(), device.clone())),
            Self::None | Self::All => {}
        }
        Ok(())
    }

    /// What this means of the devices that there are, sorted by name; `None` if steps get no devices at all.
    pub fn among<'a>(&'a self, known: Option<&'a [Device]>) -> Granted<'a> {
        let named = match (self, known) {
            (Self::Named { devices, .. }, Some(known)) => {
                // A grant of what is not there, or of no name, grants nothing.
                let found = devices.iter().filter_map(|name| find(name, true, known).ok());
                found.flatten().map(|device| device.name.as_str()).collect()
            }
            _ => HashSet::new(),
        };
        Granted {
            grants: self,
            known,
            named,
        }
    }
}

/// What a client was granted of the devices that there are.
pub struct Granted<'a> {
    grants: &'a DeviceGrants,
    known: Option<&'a [Device]>,
    named: HashSet<&'a str>,
}

impl Granted<'_> {
    /// What a step may have of what it asks for: full names, each once. `step` is for the error.
    ///
    /// # Errors
    /// [`DeviceError`] if something is missing that the step cannot be without, or not granted.
    pub fn settle(&self, asked: &[CdiDevice], step: &str) -> Result<Vec<CdiDevice>, DeviceError> {
        let Some(known) = self.known else {
            return match asked.iter().find(|asked| !asked.optional) {
                None => Ok(Vec::new()),
                Some(required) => Err(DeviceError::Disabled {
                    device: required.name.clone(),
                    step: step.to_owned(),
                }),
            };
        };
        if asked.len() > MAX_ASKED {
            return Err(DeviceError::TooMany(asked.len()));
        }
        let mut settled: BTreeMap<&str, bool> = BTreeMap::new();
        let mut forbidden = BTreeSet::new();
        for asked in asked {
            let alias = match self.grants {
                DeviceGrants::Named { aliases, .. } => aliases.get(&asked.name),
                DeviceGrants::None | DeviceGrants::All => None,
            };
            for device in find(alias.unwrap_or(&asked.name), asked.optional, known)? {
                if alias.is_none() && !self.allows(device) {
                    forbidden.insert(device.name.clone());
                } else {
                    *settled.entry(&device.name).or_insert(true) &= asked.optional;
                }
            }
        }
        if !forbidden.is_empty() {
            return Err(DeviceError::NotAllowed(forbidden.into_iter().collect()));
        }
        let settled = settled.into_iter().map(|(name, optional)| CdiDevice {
            name: name.to_owned(),
            optional,
        });
        Ok(settled.collect())
    }

    fn allows(&self, device: &Device) -> bool {
        device.is_auto_allowed
            || match self.grants {
                DeviceGrants::All => true,
                DeviceGrants::None | DeviceGrants::Named { .. } => self.named.contains(device.name.as_str()),
            }
    }
}

/// The devices that a name means: itself, the first of a kind, all of a kind (`=*`), or those of a class. `known` is
/// sorted by name.
///
/// # Errors
/// [`DeviceError::Invalid`], or [`DeviceError::Missing`] unless it is optional.
pub fn find<'a>(name: &str, optional: bool, known: &'a [Device]) -> Result<Vec<&'a Device>, DeviceError> {
    let (kind, which) = name.split_once('=').unwrap_or((name, ""));
    check_kind(kind).map_err(|why| DeviceError::Invalid(name.to_owned(), why))?;
    let mut of_kind = known.iter().filter(|device| kind_of(&device.name) == kind);
    let found: Vec<&Device> = match which {
        "" => of_kind.next().into_iter().collect(),
        "*" => of_kind.collect(),
        which => match known.binary_search_by(|device| device.name.as_str().cmp(name)) {
            Ok(place) => vec![&known[place]],
            Err(_) => of_kind
                .filter(|device| device.annotations.get(CLASS).is_some_and(|class| class == which))
                .collect(),
        },
    };
    if !found.is_empty() {
        return Ok(found);
    }
    if !optional {
        return Err(DeviceError::Missing(name.to_owned()));
    }
    tracing::warn!(device = name, "an optional device is not registered");
    Ok(found)
}

/// Checks `vendor.com/class`.
///
/// # Errors
/// What is wrong with it, to be put behind it: empty if it is not of this form at all.
pub fn check_kind(kind: &str) -> Result<(), String> {
    let Some((vendor, class)) = kind
        .split_once('/')
        .filter(|(vendor, class)| !vendor.is_empty() && !class.is_empty())
    else {
        return Err(String::new());
    };
    for (what, part) in [("vendor", vendor), ("class", class)] {
        let is_edge = |c: char| c.is_ascii_alphanumeric();
        let is_inner = |c: char| is_edge(c) || matches!(c, '_' | '-' | '.');
        let is_name = part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.ends_with(is_edge)
            && part.chars().all(is_inner);
        if !is_name {
            return Err(format!(": invalid {what} {part:?}"));
        }
    }
    Ok(())
}

fn kind_of(name: &str) -> &str {
    name.split_once('=').map_or(name, |(kind, _)| kind)
}

/// A truth value, as Go reads it.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests;
