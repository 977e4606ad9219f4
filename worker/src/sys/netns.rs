//! Network namespaces that are there without a process in them.

use std::io;
use std::path::Path;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::mounts::MountGuard;

/// What `statfs` says of a file that stands for a namespace.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Makes a network namespace and mounts it on `target`, an empty file: it is there until that is unmounted and nobody
/// is in it any more. Blocks the thread.
pub fn pin_new_network(target: &Path) -> io::Result<MountGuard> {
    let path = target.to_owned();
    // A thread is in a namespace as long as it lives, so this one is for nothing else.
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        // SAFETY: only what network this thread sees changes; its table of descriptors stays the one of all threads.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
        Ok(MountGuard::new(&path))
    })?;
    let made: rustix::io::Result<MountGuard> = thread
        .join()
        .map_err(|_| io::Error::other("the thread that makes a network namespace panicked"))?;
    Ok(made?)
}

/// Whether a namespace is mounted on `path`.
pub fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_network_is_another_one_and_ends_with_its_guard() {
        if !crate::sys::is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (path, own) = (dir.path().join("net"), std::fs::metadata("/proc/self/ns/net").unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(!is_pinned(&path));
        let guard = pin_new_network(&path).unwrap();
        assert!(is_pinned(&path));
        use std::os::unix::fs::MetadataExt;
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), own.ino());
        assert_eq!(std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), own.ino());
        drop(guard);
        assert!(!is_pinned(&path));
    }

    #[test]
    fn what_is_not_there_is_said() {
        if !crate::sys::is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let error = pin_new_network(&dir.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!is_pinned(&dir.path().join("missing")));
    }
}
