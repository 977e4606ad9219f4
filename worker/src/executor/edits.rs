//! What devices change about a container, decided down to the last number.

use std::path::PathBuf;

use crate::sys::mounts::Restrictions;

/// What the devices that a process gets change about its container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables; they replace those of the same name.
    pub env: Vec<String>,
    /// Files below `/dev` that stand for devices.
    pub nodes: Vec<DeviceNode>,
    /// Files and directories of the host that it sees.
    pub mounts: Vec<HostMount>,
    /// Groups that its processes are in besides their own.
    pub groups: Vec<u32>,
    /// Programs of the host that the runtime calls.
    pub hooks: Vec<Hook>,
}

/// A file that stands for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where, absolute and clean, below `/dev`.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
    /// Which driver; 0 for a pipe.
    pub major: u32,
    /// Which of its devices; 0 for a pipe.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner; `None` for who the process runs as.
    pub uid: Option<u32>,
    /// Group; `None` for that of the process.
    pub gid: Option<u32>,
    /// What its control group allows: letters of `rwm`.
    pub access: String,
}

/// What a device node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A pipe with a name.
    Pipe,
}

/// Something of the host that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    /// What, a trusted path of the host.
    pub source: PathBuf,
    /// Where, absolute.
    pub dest: PathBuf,
    /// What is forbidden there.
    pub restrictions: Restrictions,
    /// Whether what is mounted below is seen as well.
    pub is_recursive: bool,
}

/// A program of the host that the runtime calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub stage: HookStage,
    /// Which.
    pub path: PathBuf,
    /// Its arguments, the name it is called by first; empty for its path.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    /// Seconds it may take.
    pub timeout: Option<u32>,
}

/// When a hook is called, as the OCI runtime specification names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookStage {
    /// `prestart`, which came before `createRuntime`.
    Prestart,
    /// `createRuntime`.
    CreateRuntime,
    /// `createContainer`.
    CreateContainer,
    /// `startContainer`.
    StartContainer,
    /// `poststart`.
    Poststart,
    /// `poststop`.
    Poststop,
}
