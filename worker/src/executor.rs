//! Running processes in containers.
//!
//! | module | part |
//! |---|---|
//! | `run` | carrying out an `ExecOp`: mounts, grants, outputs |
//! | `rootfs` | putting together what a process sees |
//! | [`user`], `rlimit`, `resolv` | who it is, what it may use, whom it can find |
//! | `process` | the finished description of a process, and the seam to whatever runs it |
//! | [`spec`] | the one place that decides on confinement, as an OCI runtime specification |
//! | `edits` | what devices change about a container |
//! | `terminal` | terminals for processes that are talked to |
//! | `oci_runtime` | running it with runc or crun |
//!
//! Invariants: whatever runs is described by a [`ProcessSpec`] and confined by [`spec`]; paths in images and caches are
//! only resolved through [`crate::sys::Root`]; a run leaves nothing behind, however it or the daemon ends.

mod cgroup;
mod edits;
mod oci_runtime;
mod process;
mod resolv;
mod rlimit;
mod rootfs;
mod run;
pub mod spec;
mod terminal;
pub mod user;

pub use edits::{DeviceNode, Edits, Hook, HookStage, HostMount, NodeKind};
pub use oci_runtime::{OciRuntime, RuntimeKind};
pub use process::{
    ContainerId, Executor, ExecutorError, ExitStatus, LateMount, Network, OutputSink, OutputStream, ProcessControl,
    ProcessIo, ProcessOutput, ProcessSpec,
};
pub use resolv::DnsConfig;
pub use rlimit::{Rlimit, RlimitError, raise_file_limit};
pub use rootfs::RootfsError;
pub(crate) use run::Networks;
pub use run::{Container, Ending, ExecError, ExecRequest, ExecRunner, Grants, OwnDir, RunFailure};
pub use terminal::{Terminal, TerminalOutput, TerminalSize};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use user::lookup as lookup_user;
pub use user::{User, UserError};
