//! What a killed daemon left of networks.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;

use super::bridge::OwnBridge;
use super::error::CniError;
use super::namespace::Namespace;
use crate::causes::with_causes;
use crate::sys::mounts::unmount_below;
use crate::sys::process::ProcessHandle;

/// How long a plugin may take: nobody is served before.
const PLUGIN_LIMIT: Duration = Duration::from_secs(10);
/// How long everything may take. What is left after that is the operator's to clean up.
const LIMIT: Duration = Duration::from_secs(60);
/// How many namespaces are taken down at a time.
const AT_ONCE: usize = 8;
/// How long a killed process may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Takes down all networks that are written down in `dir`, and removes it. The processes in them have ended.
pub(crate) async fn clear(dir: &Path) -> Result<(), CniError> {
    if !dir.exists() {
        return Ok(());
    }
    let dir = dir.canonicalize().map_err(CniError::io("resolve", dir))?;
    let (path, named) = (dir.clone(), dir.clone());
    let failed = move |error| CniError::io("clear", &named)(io::Error::other(error));
    let listed = tokio::task::spawn_blocking(move || {
        // One that is still at work would do what is undone here.
        kill_plugins_for(&path).map_err(CniError::io("kill plugins for", &path))?;
        namespaces(&path).map_err(CniError::io("list", &path))
    });
    let left = listed.await.map_err(failed.clone())??;
    if !left.is_empty() {
        tracing::info!(namespaces = left.len(), "taking down networks of an earlier daemon");
    }
    let taken_down = futures_util::stream::iter(left).for_each_concurrent(AT_ONCE, |dir| async move {
        let left = match Namespace::read(&dir, PLUGIN_LIMIT) {
            Ok(namespace) => namespace.leave().await,
            Err(error) => Err(error),
        };
        if let Err(error) = left {
            let error = with_causes(&error);
            tracing::warn!(namespace = %dir.display(), error, "could not take down a network of an earlier daemon");
        }
    });
    if tokio::time::timeout(LIMIT, taken_down).await.is_err() {
        tracing::warn!("networks of an earlier daemon are left: their plugins take too long");
    }
    let removed = tokio::task::spawn_blocking(move || {
        unmount_below(&dir).map_err(CniError::io("unmount what is below", &dir))?;
        if let Some(bridge) = OwnBridge::find(&dir) {
            bridge.remove();
        }
        std::fs::remove_dir_all(&dir).map_err(CniError::io("remove", &dir))
    });
    removed.await.map_err(failed)?
}

fn namespaces(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Kills every process that was told, in its environment, of a namespace in `dir`.
fn kill_plugins_for(dir: &Path) -> io::Result<()> {
    let told = [b"CNI_NETNS=".as_slice(), dir.as_os_str().as_bytes(), b"/"].concat();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Opened before it is looked at, so that it is the one that was looked at.
        let Some(handle) = ProcessHandle::open(pid)? else {
            continue;
        };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if environment.split(|&b| b == 0).any(|entry| entry.starts_with(&told)) {
            handle.kill()?;
            handle.wait_ended(END_LIMIT)?;
        }
    }
    Ok(())
}
