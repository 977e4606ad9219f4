//! What mounts show.

use std::collections::BTreeMap;
use std::path::Path;

use cairn_solver::llb::{FileGrant, Mount, MountKind};
use rustix::fs::OFlags;

use super::Caches;
use super::error::{ExecError, private};
use super::plan::{Planned, What};
use super::private_dir::PrivateDir;
use super::request::ExecRequest;
use crate::executor::edits::HostMount;
use crate::layer::{LayerList, LayerStore, Mounted, WritableLayer};
use crate::sys::mounts::{DetachedMount, Restrictions, clone_tree, clone_tree_recursive, detached_tmpfs};
use crate::sys::{Metadata, Root, at};

/// What becomes an output.
pub(super) enum Output {
    /// The changes to a mount; by the mount's index.
    Layer(usize, WritableLayer),
    /// What went in.
    Input(LayerList),
}

/// Something ready to be mounted.
pub(super) struct Source {
    pub(super) mount: DetachedMount,
    pub(super) is_dir: bool,
    pub(super) readonly: bool,
    /// Whether devices can be opened there.
    pub(super) has_devices: bool,
    pub(super) is_recursive: bool,
}

/// Turns mounts of an op into things that can be mounted, keeping what they need.
pub(super) struct Sources<'a> {
    pub(super) layers: &'a LayerStore,
    pub(super) request: &'a ExecRequest,
    pub(super) caches: &'a Caches,
    pub(super) private: &'a PrivateDir,
    pub(super) mounted: Vec<Mounted>,
    pub(super) outputs: BTreeMap<usize, Output>,
    pub(super) throwaway: BTreeMap<usize, WritableLayer>,
}

impl Sources<'_> {
    /// The root is always a writable child, so that mount points can be made in it; without output it is thrown away.
    pub(super) fn root(&mut self, index: usize, mount: &Mount) -> Result<Mounted, ExecError> {
        let input = self.request.input(mount)?;
        self.writable(index, mount, input)
    }

    fn writable(&mut self, index: usize, mount: &Mount, input: Option<LayerList>) -> Result<Mounted, ExecError> {
        let layer = self.layers.prepare(&input.unwrap_or_else(|| self.layers.scratch()))?;
        let mounted = layer.mount()?;
        match mount.output {
            Some(output) => self.output(output, Output::Layer(index, layer))?,
            None => drop(self.throwaway.insert(index, layer)),
        }
        Ok(mounted)
    }

    fn output(&mut self, number: usize, output: Output) -> Result<(), ExecError> {
        match self.outputs.insert(number, output) {
            None => Ok(()),
            Some(_) => Err(ExecError::Invalid(format!("duplicate output {number}"))),
        }
    }

    /// Opens what is planned; `None` for something optional that is missing. `covered` is the directory that it will
    /// cover, if there is one.
    pub(super) fn open(
        &mut self,
        planned: &Planned<'_>,
        covered: Option<&Metadata>,
    ) -> Result<Option<Source>, ExecError> {
        match &planned.what {
            What::Own { name, text } => {
                let file = self.private.file(name, text.as_bytes(), 0o644, (0, 0))?;
                let restrictions = Restrictions {
                    readonly: true,
                    nosuid: true,
                    nodev: true,
                    noexec: true,
                };
                Ok(Some(pinned(&file, restrictions)?))
            }
            What::OwnDir(number, dir) => {
                let handle = self.private.dir(&format!("dir{number}"), &dir.files)?;
                let restrictions = Restrictions {
                    readonly: true,
                    nosuid: true,
                    nodev: true,
                    noexec: true,
                };
                Ok(Some(pinned(&handle, restrictions)?))
            }
            What::Asked(index, mount) => self.open_asked(*index, mount, covered),
            What::Host(mount) => host(mount).map(Some),
        }
    }

    fn open_asked(
        &mut self,
        index: usize,
        mount: &Mount,
        covered: Option<&Metadata>,
    ) -> Result<Option<Source>, ExecError> {
        let restrictions = Restrictions {
            readonly: mount.readonly,
            ..Restrictions::default()
        };
        match &mount.kind {
            MountKind::Bind => self.bind(index, mount, restrictions).map(Some),
            MountKind::Cache { .. } => self.cache(index, mount, restrictions).map(Some),
            MountKind::Tmpfs { size } => {
                if mount.output.is_some() {
                    return Err(ExecError::Invalid(format!(
                        "the mount at {} has no content to output",
                        mount.dest
                    )));
                }
                let tmpfs = detached_tmpfs(*size, 0o1777).map_err(private("create a file system in memory"))?;
                if let Some(covered) = covered {
                    // Not as an option of the mount, which processes see.
                    tmpfs
                        .set_mode(covered.permissions())
                        .map_err(private("create a file system in memory"))?;
                }
                let restrictions = Restrictions {
                    nosuid: true,
                    ..restrictions
                };
                tmpfs
                    .restrict(restrictions)
                    .map_err(private("create a file system in memory"))?;
                Ok(Some(Source {
                    mount: tmpfs,
                    is_dir: true,
                    readonly: mount.readonly,
                    has_devices: false,
                    is_recursive: false,
                }))
            }
            MountKind::Secret(grant) => self.secret(index, grant),
            MountKind::Ssh(grant) => self.ssh(index, grant),
        }
    }

    fn bind(&mut self, index: usize, mount: &Mount, restrictions: Restrictions) -> Result<Source, ExecError> {
        let input = self.request.input(mount)?;
        let mounted = match (mount.readonly, mount.output, &input) {
            (true, Some(output), Some(list)) => {
                self.output(output, Output::Input(list.clone()))?;
                self.layers.mount_readonly(list)?
            }
            (true, None, _) => self
                .layers
                .mount_readonly(&input.unwrap_or_else(|| self.layers.scratch()))?,
            _ => self.writable(index, mount, input)?,
        };
        let source = select(mounted.root(), mount, restrictions);
        self.mounted.push(mounted);
        source
    }

    fn cache(&mut self, index: usize, mount: &Mount, restrictions: Restrictions) -> Result<Source, ExecError> {
        if let Some(output) = mount.output {
            let unchanged = self.request.input(mount)?;
            let unchanged = unchanged.ok_or_else(|| {
                ExecError::Invalid(format!("the cache mount at {} has no input to output", mount.dest))
            })?;
            self.output(output, Output::Input(unchanged))?;
        }
        let cache = self
            .caches
            .get(&index)
            .ok_or_else(|| ExecError::Invalid(format!("no cache at {}", mount.dest)))?;
        select(cache.root(), mount, restrictions)
    }

    fn secret(&self, index: usize, grant: &FileGrant) -> Result<Option<Source>, ExecError> {
        let Some(value) = self.request.grants.secrets.get(&grant.id) else {
            return if grant.optional {
                Ok(None)
            } else {
                Err(ExecError::NoSecret(grant.id.clone()))
            };
        };
        let mode = grant.mode & 0o777;
        let file = self
            .private
            .file(&format!("secret{index}"), value, mode, (grant.uid, grant.gid))?;
        let noexec = mode & 0o111 == 0;
        Ok(Some(pinned(
            &file,
            Restrictions {
                readonly: true,
                nosuid: true,
                nodev: true,
                noexec,
            },
        )?))
    }

    fn ssh(&self, index: usize, grant: &FileGrant) -> Result<Option<Source>, ExecError> {
        let Some(path) = self.request.grants.ssh.get(&index) else {
            return if grant.optional {
                Ok(None)
            } else {
                Err(ExecError::no_ssh(&grant.id, ""))
            };
        };
        let failed = || private("lend the ssh agent's socket");
        let dir = path.parent().unwrap_or(Path::new("/"));
        let socket = Root::open(dir)
            .and_then(|dir| dir.resolve_no_follow(path.file_name().unwrap_or_default()))
            .map_err(failed())?;
        at::chown_fd(&socket, grant.uid, grant.gid).map_err(failed())?;
        at::chmod_fd(&socket, grant.mode & 0o777).map_err(failed())?;
        Ok(Some(pinned(
            &socket,
            Restrictions {
                nosuid: true,
                nodev: true,
                noexec: true,
                readonly: false,
            },
        )?))
    }
}

/// The part of a source that a mount selects, pinned.
fn select(root: &Root, mount: &Mount, restrictions: Restrictions) -> Result<Source, ExecError> {
    let failed = |source| ExecError::Selector {
        selector: mount.selector.clone(),
        dest: mount.dest.clone(),
        source,
    };
    let handle = root.resolve(&mount.selector).map_err(failed)?;
    let metadata = Metadata::of(&handle).map_err(failed)?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "neither a directory nor a file",
        )));
    }
    pinned(&handle, restrictions)
}

/// Something of the host, whose paths are trusted.
fn host(wanted: &HostMount) -> Result<Source, ExecError> {
    let made = || {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&wanted.source, flags, rustix::fs::Mode::empty())?;
        let is_dir = Metadata::of(&handle)?.is_dir();
        let mount = if wanted.is_recursive {
            clone_tree_recursive(&handle)?
        } else {
            clone_tree(&handle)?
        };
        mount.restrict(wanted.restrictions)?;
        Ok(Source {
            mount,
            is_dir,
            readonly: wanted.restrictions.readonly,
            has_devices: !wanted.restrictions.nodev,
            is_recursive: wanted.is_recursive,
        })
    };
    made().map_err(|source| ExecError::Host {
        source_path: wanted.source.clone(),
        dest: wanted.dest.clone(),
        source,
    })
}

fn pinned(handle: impl std::os::fd::AsFd, restrictions: Restrictions) -> Result<Source, ExecError> {
    let failed = || private("pin the source of a mount");
    let is_dir = Metadata::of(&handle).map_err(failed())?.is_dir();
    let mount = clone_tree(&handle).map_err(failed())?;
    mount.restrict(restrictions).map_err(failed())?;
    Ok(Source {
        mount,
        is_dir,
        readonly: restrictions.readonly,
        has_devices: false,
        is_recursive: false,
    })
}
