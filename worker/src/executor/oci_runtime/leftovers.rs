//! What a killed daemon left running.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::{Inner, is_below};
use crate::executor::process::ExecutorError;
use crate::sys::process::ProcessHandle;

/// How long a killed process may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

impl Inner {
    /// Kills runtime programs that work on a bundle of ours, and then the containers they started.
    ///
    /// In this order: a program that is still making a container would go on making it, and what it made and did not
    /// record yet ends with it, since it waits for the program on a pipe.
    pub(super) async fn remove_leftovers(&self) -> Result<(), ExecutorError> {
        let runs = self.runs.clone();
        let killed = tokio::task::spawn_blocking(move || kill_users_of(&runs))
            .await
            .map_err(|error| {
                ExecutorError::io("look for processes of an earlier daemon")(std::io::Error::other(error))
            })?;
        let killed = killed.map_err(ExecutorError::io("kill processes of an earlier daemon"))?;
        let mut containers = 0;
        for id in names(&self.state)? {
            self.delete(&id).await;
            containers += 1;
        }
        if killed + containers > 0 {
            tracing::info!(
                programs = killed,
                containers,
                "ended what an earlier daemon left running"
            );
        }
        for name in names(&self.runs)? {
            let path = self.runs.join(name);
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(ExecutorError::io(format!("remove {}", path.display())))?;
        }
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove_leftovers();
        }
        Ok(())
    }
}

fn names(dir: &Path) -> Result<Vec<String>, ExecutorError> {
    let failed = || ExecutorError::io(format!("list {}", dir.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed())? {
        if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Kills every process that has a path below `runs` among its arguments, and waits for its end.
fn kill_users_of(runs: &Path) -> std::io::Result<usize> {
    let mut handles = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Opened before it is looked at, so that it is the one that was looked at.
        let Some(handle) = ProcessHandle::open(pid)? else {
            continue;
        };
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        if line
            .split(|&b| b == 0)
            .any(|argument| is_below(OsStr::from_bytes(argument), runs))
        {
            handles.push(handle);
        }
    }
    for handle in &handles {
        handle.kill()?;
    }
    for handle in &handles {
        if !handle.wait_ended(END_LIMIT)? {
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "a killed process does not end",
            ));
        }
    }
    Ok(handles.len())
}
