//! What is changed about a container that gets some devices.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::spec::{ContainerEdits, DeviceNode, Hook, Mount};
use crate::executor::{self, Edits, HostMount, NodeKind};
use crate::sys::mounts::Restrictions;
use crate::sys::root::clean;

/// Permissions of device nodes whose description has none.
const NODE_MODE: u32 = 0o666;

/// Why a step cannot have a device.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// It is not there, or no longer.
    #[error(transparent)]
    Find(#[from] cairn_solver::DeviceError),
    /// It needs something that is not done here.
    #[error("device {device}: {what} not supported")]
    Unsupported {
        /// Which device.
        device: String,
        /// What it needs.
        what: String,
    },
    /// The host's device that it is about is not there, or another one.
    #[error("device {device}: failed to look at {}", path.display())]
    Host {
        /// Which device.
        device: String,
        /// The host's.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Whose edits are being collected.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The device.
    pub(super) device: &'a str,
}

impl Origin<'_> {
    fn unsupported(self, what: impl Into<String>) -> CdiError {
        CdiError::Unsupported {
            device: self.device.to_owned(),
            what: what.into(),
        }
    }

    /// Adds what `wanted` says to `edits`.
    pub(super) fn collect(self, wanted: &ContainerEdits, edits: &mut Edits) -> Result<(), CdiError> {
        if wanted.intel_rdt.is_some() {
            return Err(self.unsupported("limits by Intel RDT are"));
        }
        if !wanted.net_devices.is_empty() {
            return Err(self.unsupported("network devices are"));
        }
        edits.env.extend(wanted.env.iter().cloned());
        for node in &wanted.device_nodes {
            edits.nodes.push(self.node(node)?);
        }
        for mount in &wanted.mounts {
            edits.mounts.push(self.mount(mount)?);
        }
        edits.hooks.extend(wanted.hooks.iter().map(hook));
        // The administrator's group is not given away by leaving a number out.
        edits
            .groups
            .extend(wanted.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }

    fn node(self, node: &DeviceNode) -> Result<executor::DeviceNode, CdiError> {
        let path = Path::new("/").join(clean(Path::new(&node.path)));
        if !path.starts_with("/dev") || path == Path::new("/dev") {
            return Err(self.unsupported(format!("a device node at {} is", path.display())));
        }
        let said = match node.kind.as_str() {
            "b" => Some(NodeKind::Block),
            "c" | "u" => Some(NodeKind::Character),
            "p" => Some(NodeKind::Pipe),
            _ => None,
        };
        let (kind, major, minor) = match said {
            Some(NodeKind::Pipe) => (NodeKind::Pipe, 0, 0),
            Some(kind) if node.major != 0 => (kind, node.major, node.minor),
            _ => {
                let (kind, major, minor) = self.host_node(node)?;
                match said {
                    Some(said) if said != kind => return Err(self.host(node, "it is a device of another type")),
                    // Numbers may be said without a type.
                    _ if node.major != 0 => (kind, node.major, node.minor),
                    _ => (kind, major, minor),
                }
            }
        };
        Ok(executor::DeviceNode {
            path,
            kind,
            major,
            minor,
            mode: node.file_mode.unwrap_or(NODE_MODE) & 0o777,
            uid: node.uid,
            gid: node.gid,
            access: match node.permissions.as_str() {
                "" => "rwm".to_owned(),
                "none" => String::new(),
                permissions => permissions.to_owned(),
            },
        })
    }

    /// What the host's device is.
    fn host_node(self, node: &DeviceNode) -> Result<(NodeKind, u32, u32), CdiError> {
        let path = host_path(node);
        let stat = rustix::fs::stat(path).map_err(|error| self.host(node, error))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => NodeKind::Block,
            FileType::CharacterDevice => NodeKind::Character,
            FileType::Fifo => return Ok((NodeKind::Pipe, 0, 0)),
            _ => return Err(self.host(node, "it is no device")),
        };
        Ok((kind, rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
    }

    fn host(self, node: &DeviceNode, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CdiError {
        CdiError::Host {
            device: self.device.to_owned(),
            path: PathBuf::from(host_path(node)),
            source: io::Error::other(why),
        }
    }

    fn mount(self, mount: &Mount) -> Result<HostMount, CdiError> {
        if !matches!(mount.kind.as_str(), "" | "bind" | "none") {
            return Err(self.unsupported(format!("a mount of type {:?} is", mount.kind)));
        }
        let dest = Path::new("/").join(clean(Path::new(&mount.container_path)));
        if dest == Path::new("/") {
            return Err(self.unsupported("a mount over everything is"));
        }
        let mut made = HostMount {
            source: PathBuf::from(&mount.host_path),
            dest,
            restrictions: Restrictions::default(),
            is_recursive: false,
        };
        let restrictions = &mut made.restrictions;
        for option in &mount.options {
            match option.as_str() {
                "bind" => made.is_recursive = false,
                "rbind" => made.is_recursive = true,
                "ro" => restrictions.readonly = true,
                "rw" => restrictions.readonly = false,
                "nosuid" => restrictions.nosuid = true,
                "suid" => restrictions.nosuid = false,
                "nodev" => restrictions.nodev = true,
                "dev" => restrictions.nodev = false,
                "noexec" => restrictions.noexec = true,
                "exec" => restrictions.noexec = false,
                // As mounts of steps always are.
                "private" | "rprivate" | "relatime" => {}
                other => return Err(self.unsupported(format!("mount option {other:?} is"))),
            }
        }
        Ok(made)
    }
}

fn host_path(node: &DeviceNode) -> &str {
    if node.host_path.is_empty() {
        &node.path
    } else {
        &node.host_path
    }
}

fn hook(hook: &Hook) -> executor::Hook {
    executor::Hook {
        stage: hook.hook_name,
        path: PathBuf::from(&hook.path),
        args: hook.args.clone(),
        env: hook.env.clone(),
        timeout: hook.timeout,
    }
}

#[cfg(test)]
mod tests;
