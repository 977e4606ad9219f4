//! What is mounted for a process, and in which order.

use std::path::PathBuf;

use cairn_solver::llb::{ExecOp, Mount};

use super::prepare::Setting;
use super::request::ExecRequest;
use crate::executor::edits::HostMount;
use crate::executor::resolv::{hosts, resolv_conf};
use crate::executor::rootfs::StubRemoval;

/// Something to mount, and where.
pub(super) struct Planned<'a> {
    pub(super) dest: PathBuf,
    pub(super) what: What<'a>,
}

pub(super) enum What<'a> {
    /// By index, a mount of the op.
    Asked(usize, &'a Mount),
    /// A file of the daemon's.
    Own { name: &'static str, text: String },
    /// Something of the host: what a device needs, or the collector of spans.
    Host(&'a HostMount),
    /// Files of the daemon's; by position among such.
    OwnDir(usize, &'a OwnDir),
}

/// A read-only directory of the daemon's own making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnDir {
    /// Where it is mounted, absolute.
    pub dest: PathBuf,
    /// Names and contents of files that only the administrator can read.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Planned<'_> {
    fn is_file_of_daemon(&self) -> bool {
        matches!(self.what, What::Own { .. })
    }

    pub(super) fn removal(&self, op: &ExecOp) -> StubRemoval {
        match self.what {
            What::Own { .. } | What::OwnDir(..) | What::Host(_) => StubRemoval::WithParents,
            What::Asked(..) if op.remove_mount_stubs_recursive => StubRemoval::WithParents,
            What::Asked(..) => StubRemoval::Last,
        }
    }
}

/// All mounts but the root, parents first; those of the op over those of the daemon, those of the host over all.
///
/// The daemon's files come before everything: an op that mounts something at `/etc` sees just that, and it may be
/// read-only.
pub(super) fn plan<'a>(
    setting: &Setting,
    request: &'a ExecRequest,
    dirs: &'a [OwnDir],
    root: usize,
    hostname: &str,
) -> Vec<Planned<'a>> {
    let own = |dest: &str, name, text| Planned {
        dest: PathBuf::from(dest),
        what: What::Own { name, text },
    };
    let mut planned = vec![
        own("/etc/hosts", "hosts", hosts(hostname, &request.op.extra_hosts)),
        own(
            "/etc/resolv.conf",
            "resolv.conf",
            resolv_conf(&setting.dns, setting.loopback),
        ),
    ];
    planned.extend(dirs.iter().enumerate().map(|(number, dir)| Planned {
        dest: dir.dest.clone(),
        what: What::OwnDir(number, dir),
    }));
    let asked = request.op.mounts.iter().enumerate().filter(|(index, _)| *index != root);
    planned.extend(asked.map(|(index, mount)| Planned {
        dest: request.dest(mount),
        what: What::Asked(index, mount),
    }));
    // Last, as they take the place of what else is mounted there.
    let of_host = request.collector.iter().chain(&request.devices.mounts);
    planned.extend(of_host.map(|mount| Planned {
        dest: mount.dest.clone(),
        what: What::Host(mount),
    }));
    planned.sort_by(|a, b| (!a.is_file_of_daemon(), &a.dest).cmp(&(!b.is_file_of_daemon(), &b.dest)));
    planned
}
