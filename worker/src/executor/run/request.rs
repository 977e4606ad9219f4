//! What is asked of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_solver::llb::{ExecOp, LinuxResources, Mount};
use cairn_solver::usage::Meter;

use super::error::ExecError;
use crate::executor::edits::{Edits, HostMount};
use crate::layer::{Describe, LayerList};
use crate::sys::root::clean;

/// What the client lends to a run. Whatever is not here is missing.
#[derive(Clone, Default)]
pub struct Grants {
    /// Secrets by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Listening sockets, at paths of the daemon's own, that lead to ssh agents, by the index of their mount: each has
    /// an owner and a mode of its own.
    pub ssh: BTreeMap<usize, PathBuf>,
}

/// One op to carry out.
#[derive(Clone)]
pub struct ExecRequest {
    /// What to run.
    pub op: ExecOp,
    /// Limits, if any.
    pub resources: LinuxResources,
    /// The vertex' inputs, all unpacked; `None` is scratch.
    pub inputs: Vec<Option<LayerList>>,
    /// What the client lends.
    pub grants: Grants,
    /// What the devices it gets change about its container.
    pub devices: Edits,
    /// Where spans of it are collected.
    pub collector: Option<HostMount>,
    /// Where to note what it uses of the machine, if somebody wants to know.
    pub meter: Option<Arc<Meter>>,
}

impl ExecRequest {
    /// The input of a mount.
    pub(super) fn input(&self, mount: &Mount) -> Result<Option<LayerList>, ExecError> {
        match mount.input {
            None => Ok(None),
            Some(index) => self
                .inputs
                .get(index)
                .cloned()
                .ok_or_else(|| ExecError::Invalid(format!("missing input {index}"))),
        }
    }

    /// Where a mount goes, as the process names it.
    pub(super) fn dest(&self, mount: &Mount) -> PathBuf {
        Path::new("/").join(clean(Path::new("/").join(&self.op.cwd).join(&mount.dest)))
    }

    pub(super) fn command(&self) -> String {
        self.op.args.join(" ")
    }

    pub(super) fn describe(&self, mount: &Mount) -> Describe {
        Describe {
            description: format!("mount {} from exec {}", mount.dest, self.command()),
            record_type: "regular".to_owned(),
        }
    }
}
