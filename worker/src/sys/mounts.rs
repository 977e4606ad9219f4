//! Mounts that end with their guard.
//!
//! The daemon mounts in the namespace it was started in, below directories of its own that are made private first, so
//! that nothing propagates to other namespaces (where it would outlive the unmount). A guard unmounts when dropped;
//! what a killed daemon left is found in `/proc/self/mountinfo` by the next one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
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

/// A mount that is nowhere yet. Gone when dropped unless attached.
#[derive(Debug)]
pub struct DetachedMount {
    fd: OwnedFd,
    /// Whether there are mounts below that it is about, too.
    is_recursive: bool,
}

/// Clones the mount that an open file or directory lies in, with that as its root. Pinned by the descriptor: what its
/// path leads to meanwhile does not matter. Needs Linux 5.12, as does all that is detached.
pub fn clone_tree(source: impl AsFd) -> io::Result<DetachedMount> {
    clone_mounts(source, false)
}

/// The same, with what is mounted below.
pub fn clone_tree_recursive(source: impl AsFd) -> io::Result<DetachedMount> {
    clone_mounts(source, true)
}

fn clone_mounts(source: impl AsFd, is_recursive: bool) -> io::Result<DetachedMount> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, is_recursive);
    let tree = DetachedMount {
        fd: open_tree(source, "", flags)?,
        is_recursive,
    };
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    tree.set_attributes(&private)?;
    Ok(tree)
}

/// Makes an empty file system in memory. `size` is its limit in bytes; 0 for the kernel's default.
pub fn detached_tmpfs(size: u64, mode: u32) -> io::Result<DetachedMount> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "tmpfs")?;
    fsconfig_set_string(&fs, "mode", format!("{:o}", mode & 0o7777))?;
    if size > 0 {
        fsconfig_set_string(&fs, "size", size.to_string())?;
    }
    fsconfig_create(&fs)?;
    Ok(DetachedMount {
        fd: fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?,
        is_recursive: false,
    })
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

impl DetachedMount {
    /// Gives the directory that is mounted these permissions.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        super::at::chmod_fd(&self.fd, mode)
    }

    /// Forbids more than is forbidden already.
    pub fn restrict(&self, restrictions: Restrictions) -> io::Result<()> {
        let mut set = MountAttrFlags::empty();
        set.set(MountAttrFlags::MOUNT_ATTR_RDONLY, restrictions.readonly);
        set.set(MountAttrFlags::MOUNT_ATTR_NOSUID, restrictions.nosuid);
        set.set(MountAttrFlags::MOUNT_ATTR_NODEV, restrictions.nodev);
        set.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, restrictions.noexec);
        if set.is_empty() {
            return Ok(());
        }
        self.set_attributes(&MountAttr {
            set: set.bits().into(),
            ..MountAttr::default()
        })
    }

    fn set_attributes(&self, attributes: &MountAttr) -> io::Result<()> {
        let recursive = if self.is_recursive { libc::AT_RECURSIVE } else { 0 };
        // SAFETY: the descriptor is open, the path is a live, terminated string, and `attributes` is a live structure
        // of the size given, laid out as the kernel documents; it is only read.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | recursive,
                std::ptr::from_ref(attributes),
                size_of::<MountAttr>(),
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Mounts it on `name` in `parent`: an existing directory or file of the same type, and no symbolic link.
    pub fn attach(self, parent: OwnedFd, name: &OsStr) -> io::Result<AttachedMount> {
        let target = at::open(&parent, name, rustix::fs::OFlags::PATH, 0)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.fd, "", target, "", flags)?;
        Ok(AttachedMount {
            parent,
            name: name.to_owned(),
            mounted: true,
        })
    }

    /// Mounts it on a trusted path.
    pub fn attach_path(self, target: &Path) -> io::Result<MountGuard> {
        attach(&self.fd, target)?;
        Ok(MountGuard::new(target))
    }
}

/// A mount inside an untrusted tree, undone when this is dropped. It is found by the directory it is in and its name
/// there, never by a path from above.
#[derive(Debug)]
#[must_use = "the mount is undone when this is dropped"]
pub struct AttachedMount {
    parent: OwnedFd,
    name: OsString,
    mounted: bool,
}

impl AttachedMount {
    /// Unmounts now.
    pub fn detach(mut self) -> io::Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.mounted) {
            return Ok(());
        }
        let mut path = OsString::from(at::proc_path(self.parent.as_fd()));
        path.push("/");
        path.push(&self.name);
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // The mount point was removed in another namespace, and the mount with it.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for AttachedMount {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(name = ?self.name, %error, "could not unmount");
        }
    }
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
        let tree = clone_tree(&source).unwrap();
        tree.restrict(Restrictions {
            readonly: true,
            ..Default::default()
        })
        .unwrap();
        let guard = tree.attach_path(&to).unwrap();
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
        std::mem::forget(detached_tmpfs(4096, 0o755).unwrap().attach_path(&point).unwrap());
        assert_eq!(unmount_below(dir.path()).unwrap(), 1);
        assert_eq!(unmount_below(dir.path()).unwrap(), 0);
    }
}
