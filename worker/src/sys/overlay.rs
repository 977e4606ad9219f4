//! Many layer directories as one file system.
//!
//! Three ways, from the newest kernel interface to the oldest: layers by descriptor (Linux 6.13), layers one by one as
//! strings naming `/proc/self/fd/N` (6.5), and `mount(2)` with names relative to `/proc/self/fd`, whose options are one
//! page. All take the layers as descriptors, so neither the length of a path nor a renamed directory matters. The first
//! that works is remembered.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
};

use super::at;
use super::mounts::{self, MountGuard};

/// Most directories the kernel takes in one overlay.
pub const MAX_LAYERS: usize = 500;

/// Options that must not depend on how the kernel was built: uppers become layers of their own, so nothing in them may
/// refer to the layers below by anything but its path.
const PORTABLE: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

/// What is laid over one another.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// Directories that are only read, bottom first; at least one, and at least two without `upper`.
    pub lowers: &'a [BorrowedFd<'a>],
    /// Where changes go; without it the mount is read-only.
    pub upper: Option<Upper<'a>>,
}

/// Where an overlay keeps its changes.
#[derive(Debug)]
pub struct Upper<'a> {
    /// Directory that becomes the layer.
    pub dir: BorrowedFd<'a>,
    /// Empty directory on the same file system; a fresh one for every mount.
    pub work: BorrowedFd<'a>,
}

/// How the layers are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Descriptors = 0,
    Strings = 1,
    OnePage = 2,
}

impl Method {
    fn next(self) -> Option<Self> {
        match self {
            Self::Descriptors => Some(Self::Strings),
            Self::Strings => Some(Self::OnePage),
            Self::OnePage => None,
        }
    }

    fn first_known() -> Self {
        match FIRST.load(Ordering::Relaxed) {
            0 => Self::Descriptors,
            1 => Self::Strings,
            _ => Self::OnePage,
        }
    }
}

/// The newest method not known to be missing in this kernel.
static FIRST: AtomicU8 = AtomicU8::new(Method::Descriptors as u8);

impl Overlay<'_> {
    /// Mounts at `target`, a trusted directory.
    ///
    /// Writable overlays are `volatile`: nothing is synced on copy-up or unmount. Durability is the business of whoever
    /// keeps the upper directory.
    ///
    /// # Errors
    /// `InvalidInput` for more than [`MAX_LAYERS`] directories or too few.
    pub fn mount(&self, target: &Path) -> io::Result<MountGuard> {
        let needed = if self.upper.is_some() { 1 } else { 2 };
        if self.lowers.len() < needed || self.lowers.len() > MAX_LAYERS {
            let message = format!("cannot lay {} directories over one another", self.lowers.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut method = Method::first_known();
        loop {
            match (self.mount_by(method, target), method.next()) {
                (Ok(guard), _) => {
                    FIRST.fetch_max(method as u8, Ordering::Relaxed);
                    return Ok(guard);
                }
                (Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM), Some(older)) => method = older,
                (Err(error), _) => return Err(error.into()),
            }
        }
    }

    fn mount_by(&self, method: Method, target: &Path) -> Result<MountGuard, Errno> {
        match method {
            Method::Descriptors => self.mount_configured(target, |fs, key, dir| fsconfig_set_fd(fs, key, dir.as_fd())),
            Method::Strings => {
                self.mount_configured(target, |fs, key, dir| fsconfig_set_string(fs, key, at::proc_path(dir)))
            }
            Method::OnePage => self.mount_one_page(target),
        }
    }

    fn mount_configured(
        &self,
        target: &Path,
        set: impl Fn(&OwnedFd, &str, BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<MountGuard, Errno> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "source", "overlay")?;
        for lower in self.lowers.iter().rev() {
            set(&fs, "lowerdir+", *lower)?;
        }
        if let Some(upper) = &self.upper {
            set(&fs, "upperdir", upper.dir)?;
            set(&fs, "workdir", upper.work)?;
            fsconfig_set_flag(&fs, "volatile")?;
        }
        for (key, value) in PORTABLE {
            fsconfig_set_string(&fs, key, value)?;
        }
        fsconfig_create(&fs)?;
        let attributes = if self.upper.is_some() {
            MountAttrFlags::empty()
        } else {
            MountAttrFlags::MOUNT_ATTR_RDONLY
        };
        let tree = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        mounts::attach(&tree, target).map_err(errno)?;
        finish(target)
    }

    fn mount_one_page(&self, target: &Path) -> Result<MountGuard, Errno> {
        let lowers: Vec<String> = self
            .lowers
            .iter()
            .rev()
            .map(|lower| lower.as_raw_fd().to_string())
            .collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some(upper) = &self.upper {
            options.push_str(&format!(
                ",upperdir={},workdir={},volatile",
                upper.dir.as_raw_fd(),
                upper.work.as_raw_fd()
            ));
        }
        for (key, value) in PORTABLE {
            options.push_str(&format!(",{key}={value}"));
        }
        // The kernel cuts off what does not fit into a page without telling.
        if options.len() >= 4096 {
            return Err(Errno::TOOBIG);
        }
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        let flags = if self.upper.is_some() {
            MountFlags::empty()
        } else {
            MountFlags::RDONLY
        };
        in_descriptor_table(|| mount("overlay", target, "overlay", flags, options.as_c_str()))?;
        finish(target)
    }
}

fn finish(target: &Path) -> Result<MountGuard, Errno> {
    let guard = MountGuard::new(target);
    mount_change(target, MountPropagationFlags::PRIVATE)?;
    Ok(guard)
}

/// Runs `call` with `/proc/self/fd` as its working directory, on a thread whose working directory is its own.
fn in_descriptor_table(call: impl FnOnce() -> Result<(), Errno> + Send) -> Result<(), Errno> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: only CLONE_FS is unshared (working directory, root, umask), and only of this thread, which runs
            // nothing but `call`; the table of descriptors stays shared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
            rustix::process::chdir("/proc/self/fd")?;
            call()
        });
        worker.join().unwrap_or(Err(Errno::IO))
    })
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
