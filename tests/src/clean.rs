//! What should not be there any more: mounts and processes of a directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::wait_for_exit;

/// Mounts below a directory, and processes in containers made from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Mount points, in the order in which they were mounted.
    pub mounts: Vec<PathBuf>,
    /// Processes in other mount namespaces that see files of the directory.
    pub processes: Vec<u32>,
}

impl Leftovers {
    /// Looks for them.
    pub fn below(dir: &Path) -> Self {
        Self {
            mounts: mount_points("self")
                .into_iter()
                .filter(|point| point.starts_with(dir))
                .collect(),
            processes: contained_processes(dir),
        }
    }

    /// Removes them as far as possible.
    pub fn clear(&self) {
        for &pid in &self.processes {
            if let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _gone = kill_process(process, Signal::KILL);
                let _gone = wait_for_exit(pid, Duration::from_secs(5));
            }
        }
        for point in self.mounts.iter().rev() {
            let _unmounted = unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// The processes whose environment holds `NAME=value`.
pub fn processes_with_variable(variable: &str) -> Vec<u32> {
    let holds = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|&byte| byte == 0)
            .any(|entry| entry == variable.as_bytes())
    };
    processes().filter(holds).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn contained_processes(dir: &Path) -> Vec<u32> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = namespace("self");
    let dir = dir.to_string_lossy().into_owned();
    let is_contained = |pid: &u32| {
        let other = namespace(&pid.to_string());
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        // The source of a bind mount is told from the root of its file system, which need not be `/`.
        let seen = || table.lines().any(|line| line.contains(&dir));
        // A daemon may have a mount namespace of its own, but it still sees its directory where it is.
        let is_outside = || {
            table
                .lines()
                .any(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(&dir)))
        };
        other.is_some() && other != own && seen() && !is_outside()
    };
    processes().filter(is_contained).collect()
}

fn mount_points(pid: &str) -> Vec<PathBuf> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}
