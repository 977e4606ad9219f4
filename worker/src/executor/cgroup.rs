//! Control groups: whether there are any to be had, and what the kernel counted in them.

use std::path::{Path, PathBuf};

/// Where the kernel's groups are.
const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The groups of one daemon.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// Name of the group that all of them are in.
    parent: PathBuf,
    /// Directories that are the top of a hierarchy: one with v2, several with v1 or both.
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    /// Groups below one named after the daemon's state; the reason if none can be made.
    pub(super) fn detect(state: &Path) -> Result<Self, String> {
        Self::detect_below(Path::new(MOUNT_POINT), state)
    }

    fn detect_below(mount_point: &Path, state: &Path) -> Result<Self, String> {
        let hierarchies = hierarchies(mount_point)?;
        let name = format!(
            "cairn-{}",
            &blake3::hash(state.as_os_str().as_encoded_bytes()).to_hex()[..12]
        );
        for top in &hierarchies {
            let probe = top.join(format!("{name}-probe-{}", std::process::id()));
            std::fs::create_dir(&probe)
                .and_then(|()| std::fs::remove_dir(&probe))
                .map_err(|error| format!("cannot make a group below {}: {error}", top.display()))?;
        }
        Ok(Self {
            parent: PathBuf::from("/").join(name),
            hierarchies,
        })
    }

    /// The group of a run: below `asked`, if given, else below the daemon's own.
    pub(super) fn path(&self, asked: &str, run: &str) -> PathBuf {
        let asked = crate::sys::root::clean(asked);
        if asked.as_os_str().is_empty() {
            self.parent.join(run)
        } else {
            Path::new("/").join(asked).join(run)
        }
    }

    /// Whether the kernel killed a process of the group for want of memory.
    pub(super) fn out_of_memory(&self, group: &Path) -> bool {
        let group = group.strip_prefix("/").unwrap_or(group);
        self.hierarchies.iter().any(|top| {
            let dir = top.join(group);
            ["memory.events", "memory.oom_control"]
                .iter()
                .filter_map(|file| std::fs::read_to_string(dir.join(file)).ok())
                .any(|text| killed_some(&text))
        })
    }

    /// The directories of a group, as far as there are any.
    pub(super) fn dirs(&self, group: &Path) -> Vec<PathBuf> {
        let group = group.strip_prefix("/").unwrap_or(group);
        self.hierarchies.iter().map(|top| top.join(group)).collect()
    }

    /// Removes a group that has no processes any more, where it still exists.
    pub(super) fn remove(&self, group: &Path) {
        let group = group.strip_prefix("/").unwrap_or(group);
        for top in &self.hierarchies {
            remove_empty(&top.join(group));
        }
    }

    /// Runs that an earlier daemon's groups are left of are gone: removes them.
    pub(super) fn remove_leftovers(&self) {
        let name = self.parent.strip_prefix("/").unwrap_or(&self.parent);
        for top in &self.hierarchies {
            let parent = top.join(name);
            for child in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove_empty(&child.path());
                }
            }
            remove_empty(&parent);
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.remove_leftovers();
    }
}

/// Removes a group if it is one and has neither processes nor groups in it.
fn remove_empty(dir: &Path) {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::debug!(group = %dir.display(), %error, "left a control group");
        }
        _ => {}
    }
}

fn killed_some(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim() != "0")
}

fn hierarchies(mount_point: &Path) -> Result<Vec<PathBuf>, String> {
    if mount_point.join("cgroup.controllers").exists() {
        return Ok(vec![mount_point.to_owned()]);
    }
    let entries =
        std::fs::read_dir(mount_point).map_err(|error| format!("cannot list {}: {error}", mount_point.display()))?;
    let mut tops = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        // Symbolic links (`cpu` to `cpu,cpuacct`) lead to hierarchies that are listed themselves.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && path.join("cgroup.procs").exists() {
            tops.push(path);
        }
    }
    if tops.is_empty() {
        return Err(format!("no control groups are mounted at {}", mount_point.display()));
    }
    Ok(tops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_from_either_version() {
        assert!(killed_some("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"));
        assert!(killed_some("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"));
        assert!(!killed_some("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"));
    }

    #[test]
    fn without_groups_the_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let reason = Cgroups::detect_below(dir.path(), Path::new("/x")).unwrap_err();
        assert!(reason.contains("no control groups"), "{reason}");
    }

    #[test]
    fn an_asked_parent_cannot_lead_out() {
        let groups = Cgroups {
            parent: PathBuf::from("/cairn"),
            hierarchies: Vec::new(),
        };
        assert_eq!(groups.path("", "r"), Path::new("/cairn/r"));
        assert_eq!(groups.path("/a/../../b", "r"), Path::new("/b/r"));
    }
}
