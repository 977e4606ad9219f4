//! Mounts that end with their guard.
//!
//! The daemon mounts in the namespace it was started in, below directories of its own that are made private first, so
//! that nothing propagates to other namespaces (where it would outlive the unmount). A guard unmounts when dropped;
//! what a killed daemon left is found in `/proc/self/mountinfo` by the next one.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, mount_remount,
    move_mount, open_tree, unmount,
};

use super::at;

/// A mount, undone when this is dropped.
#[derive(Debug)]
#[must_use = "the mount is undone when the guard is dropped"]
pub struct MountGuard {
    path: PathBuf,
    mounted: bool,
    /// Whether the mount point was made for this mount and goes with it.
    owns_point: bool,
}

impl MountGuard {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            mounted: true,
            owns_point: false,
        }
    }

    /// Also removes the mount point (an empty directory or file) once it is free.
    pub fn removing_mount_point(mut self) -> Self {
        self.owns_point = true;
        self
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts now, telling whether that worked.
    pub fn unmount(mut self) -> io::Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.mounted) {
            return Ok(());
        }
        unmount(&self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        if self.owns_point {
            let removed = if self.path.is_dir() {
                std::fs::remove_dir(&self.path)
            } else {
                std::fs::remove_file(&self.path)
            };
            removed?;
        }
        Ok(())
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(path = %self.path.display(), %error, "could not unmount");
        }
    }
}

/// What a mount forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// No writing.
    pub readonly: bool,
    /// Set-id bits have no effect.
    pub nosuid: bool,
    /// Devices cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

impl Restrictions {
    fn flags(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.readonly);
        flags.set(MountFlags::NOSUID, self.nosuid);
        flags.set(MountFlags::NODEV, self.nodev);
        flags.set(MountFlags::NOEXEC, self.noexec);
        flags
    }
}

/// Makes an open file or directory appear at `target`, a trusted path of the same type.
///
/// The source is pinned by its descriptor: what its path leads to meanwhile does not matter.
pub fn bind(source: impl AsFd, target: &Path, restrictions: Restrictions) -> io::Result<MountGuard> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree: OwnedFd = match open_tree(&source, "", flags) {
        Ok(tree) => tree,
        // A seccomp profile or kernel without the new calls.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            return bind_by_path(source, target, restrictions);
        }
        Err(error) => return Err(error.into()),
    };
    attach(&tree, target)?;
    restrict(target, restrictions)
}

fn bind_by_path(source: impl AsFd, target: &Path, restrictions: Restrictions) -> io::Result<MountGuard> {
    rustix::mount::mount_bind(at::proc_path(source.as_fd()), target)?;
    restrict(target, restrictions)
}

fn restrict(target: &Path, restrictions: Restrictions) -> io::Result<MountGuard> {
    let guard = MountGuard::new(target);
    // A bind mount of a shared mount joins its peer group.
    mount_change(target, MountPropagationFlags::PRIVATE)?;
    if restrictions != Restrictions::default() {
        mount_remount(target, MountFlags::BIND | restrictions.flags(), "")?;
    }
    Ok(guard)
}

/// Puts a detached mount at `target`.
pub(crate) fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// Mounts an empty file system in memory at `target`. `size` is its limit in bytes; 0 for the kernel's default.
pub fn tmpfs(target: &Path, size: u64, mode: u32, restrictions: Restrictions) -> io::Result<MountGuard> {
    let mut options = format!("mode={:o}", mode & 0o7777);
    if size > 0 {
        options.push_str(&format!(",size={size}"));
    }
    let options = CString::new(options)?;
    mount("tmpfs", target, "tmpfs", restrictions.flags(), options.as_c_str())?;
    let guard = MountGuard::new(target);
    mount_change(target, MountPropagationFlags::PRIVATE)?;
    Ok(guard)
}

/// Makes mounts below `dir` invisible to other mount namespaces, for as long as the guard lives.
pub fn private_dir(dir: &Path) -> io::Result<MountGuard> {
    rustix::mount::mount_bind(dir, dir)?;
    let guard = MountGuard::new(dir);
    mount_change(dir, MountPropagationFlags::PRIVATE)?;
    Ok(guard)
}

/// Mount points at and below `dir` (a canonical path), in the order they were mounted.
pub fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(mount_points(&table).filter(|point| point.starts_with(dir)).collect())
}

/// Unmounts everything at and below `dir`: what a killed daemon left. Returns how many there were.
pub fn unmount_below(dir: &Path) -> io::Result<usize> {
    let points = mounts_below(dir)?;
    for point in points.iter().rev() {
        unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(points.len())
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    table
        .split(|&b| b == b'\n')
        .filter_map(|line| line.split(|&b| b == b' ').nth(4))
        .map(unescape)
}

/// Undoes the octal escapes (`\040` for a blank) of mountinfo.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|d| first == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match digits {
            Some(d) => {
                let value = d.iter().fold(0u32, |value, c| value * 8 + u32::from(c - b'0'));
                path.push(value as u8);
                rest = &tail[3..];
            }
            None => {
                path.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let table = b"1 2 3:4 / /a\\040b\\134c rw - ext4 x rw\n5 6 7:8 / /d rw - tmpfs y rw\n";
        let points: Vec<PathBuf> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/a b\\c"), PathBuf::from("/d")]);
    }

    #[test]
    fn bind_by_descriptor_ends_with_its_guard() {
        if !crate::sys::is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("file"), "x").unwrap();
        let source = super::super::Root::open(&from).unwrap();
        let guard = bind(
            &source,
            &to,
            Restrictions {
                readonly: true,
                ..Default::default()
            },
        )
        .unwrap();
        assert_eq!(std::fs::read(to.join("file")).unwrap(), b"x");
        let error = std::fs::write(to.join("other"), "y").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        drop(source);
        drop(guard);
        assert!(!to.join("file").exists());
        assert!(mounts_below(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn leftovers_are_found_and_unmounted() {
        if !crate::sys::is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("with blank");
        std::fs::create_dir(&point).unwrap();
        std::mem::forget(tmpfs(&point, 4096, 0o755, Restrictions::default()).unwrap());
        assert_eq!(unmount_below(dir.path()).unwrap(), 1);
        assert_eq!(unmount_below(dir.path()).unwrap(), 0);
    }
}
