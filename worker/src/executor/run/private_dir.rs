//! Files that only one run may see.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::{ExecError, private};
use crate::sys::mounts::{DetachedMount, MountGuard, detached_tmpfs};
use crate::sys::root::create_private_dirs;
use crate::sys::{Root, at};

/// Memory for the private files of one run.
const PRIVATE_MAX: u64 = 64 << 20;

/// Files of one run that nobody else may see: in memory, gone with the run.
pub(super) struct PrivateDir {
    root: Root,
    path: PathBuf,
    _guard: MountGuard,
    staged: parking_lot::Mutex<Vec<MountGuard>>,
}

impl PrivateDir {
    pub(super) fn new(dir: &Path) -> Result<Self, ExecError> {
        let failed = || private("prepare private files of a run");
        create_private_dirs(dir).map_err(failed())?;
        let made = detached_tmpfs(PRIVATE_MAX, 0o700).and_then(|tmpfs| tmpfs.attach_path(dir));
        let guard = match made {
            Ok(guard) => guard.removing_mount_point(),
            Err(error) => {
                std::fs::remove_dir(dir).map_err(failed())?;
                return Err(failed()(error));
            }
        };
        let root = Root::open(dir).map_err(failed())?;
        Ok(Self {
            root,
            path: dir.to_owned(),
            _guard: guard,
            staged: parking_lot::Mutex::default(),
        })
    }

    /// Makes a file with exactly this mode and owner; returns a handle on it.
    pub(super) fn file(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<std::fs::File, ExecError> {
        use rustix::fs::OFlags;
        let made = self
            .root
            .open_file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600)
            .and_then(|mut file| {
                file.write_all(content)?;
                at::chown_fd(&file, owner.0, owner.1)?;
                at::chmod_fd(&file, mode)?;
                Ok(file)
            });
        made.map_err(private("write private files of a run"))
    }

    /// Makes a directory with files that only the administrator can read; returns a handle on it.
    pub(super) fn dir(&self, name: &str, files: &[(String, Vec<u8>)]) -> Result<std::os::fd::OwnedFd, ExecError> {
        self.root
            .create_dir(name, 0o755)
            .map_err(private("make a private directory of a run"))?;
        for (file, content) in files {
            self.file(&format!("{name}/{file}"), content, 0o400, (0, 0))?;
        }
        self.root
            .open_dir_fd(name)
            .map_err(private("open a private directory of a run"))
    }

    /// Mounts something where a runtime can find it by path.
    pub(super) fn stage(&self, number: usize, mount: DetachedMount, is_dir: bool) -> Result<PathBuf, ExecError> {
        let failed = || private("stage a mount");
        let path = self.path.join(format!("mount{number}"));
        let made = if is_dir {
            std::fs::create_dir(&path)
        } else {
            std::fs::File::create_new(&path).map(drop)
        };
        made.map_err(failed())?;
        self.staged.lock().push(mount.attach_path(&path).map_err(failed())?);
        Ok(path)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // Before the file system that they are in.
        self.staged.lock().clear();
    }
}
