//! Putting everything in place for a process, and taking it away again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cairn_solver::llb::{ExecOp, Mount, MountKind};

use super::Caches;
use super::environment::environment;
use super::error::{ExecError, RunFailure};
use super::plan::{OwnDir, What, plan};
use super::private_dir::PrivateDir;
use super::request::ExecRequest;
use super::sources::{Output, Sources};
use crate::executor::process::{ExitStatus, LateMount, Network, ProcessSpec};
use crate::executor::resolv::{DnsConfig, Loopback};
use crate::executor::rlimit::limits;
use crate::executor::rootfs::{Place, Rootfs};
use crate::executor::user::{User, lookup};
use crate::layer::{Describe, LayerList, LayerStore, Mounted, WritableLayer};
use crate::sys::root::clean;
use crate::sys::{Metadata, Root};

/// Host name of processes that ask for none.
const HOSTNAME: &str = "buildkitsandbox";

/// What of the runner a run is prepared with.
pub(super) struct Setting {
    pub(super) layers: LayerStore,
    pub(super) dir: PathBuf,
    pub(super) dns: DnsConfig,
    pub(super) loopback: Loopback,
}

/// Everything is mounted that a process sees. Dropping this undoes it, without results.
pub(super) struct Stage {
    // Undone in this order: what lies on top first.
    rootfs: Rootfs,
    root: Mounted,
    sources: Vec<Mounted>,
    outputs: BTreeMap<usize, Output>,
    /// Changes that become no output, by the index of their mount.
    throwaway: BTreeMap<usize, WritableLayer>,
    _caches: Caches,
    private: PrivateDir,
    late_mounts: Vec<LateMount>,
    /// Where in the root file system the mounts of the op are, by index.
    places: BTreeMap<usize, PathBuf>,
    is_readonly: bool,
    hostname: String,
    /// Whom the op names, as the root file system alone has it.
    user: User,
}

/// Everything is in place for the process. Dropping this undoes it, without results.
pub(super) struct Prepared {
    pub(super) process: ProcessSpec,
    stage: Stage,
}

impl Prepared {
    pub(super) fn finish(
        self,
        request: &ExecRequest,
        outcome: Result<ExitStatus, ExecError>,
    ) -> Result<Vec<LayerList>, RunFailure> {
        let undone = self.stage.undo();
        let (status, left) = match (outcome, undone) {
            (Ok(status), Ok(left)) => (status, left),
            (Ok(_), Err(error)) => return Err(error.into()),
            // The runtime says so of a process that it could not start: its surroundings are as good as any.
            (Err(error @ ExecError::Exit { .. }), Ok(left)) => return Err(left.after(error, request)),
            (Err(error), undone) => {
                if let Err(error) = undone {
                    tracing::warn!(%error, "could not clean up after a run");
                }
                return Err(error.into());
            }
        };
        let valid = &request.op.valid_exit_codes;
        let succeeded = match i32::try_from(status.code) {
            Ok(code) if valid.is_empty() => code == 0,
            Ok(code) => valid.contains(&code),
            Err(_) => false,
        };
        if !succeeded {
            let error = ExecError::Exit {
                command: request.command(),
                code: status.code,
                out_of_memory: status.out_of_memory,
            };
            return Err(left.after(error, request));
        }
        let mut lists = Vec::with_capacity(left.outputs.len());
        for (_, output) in left.outputs {
            lists.push(match output {
                Output::Input(list) => list,
                Output::Layer(mount, layer) => {
                    let described = request.describe(&request.op.mounts[mount]);
                    layer.commit(&described).map_err(ExecError::from)?
                }
            });
        }
        Ok(lists)
    }
}

pub(super) fn prepare(setting: &Setting, request: &ExecRequest, caches: Caches) -> Result<Prepared, ExecError> {
    let stage = Stage::new(setting, request, &[], caches)?;
    let process = stage.process(request, stage.user.clone())?;
    if stage.outputs.keys().copied().ne(0..stage.outputs.len()) {
        return Err(ExecError::Invalid(
            "the outputs of the mounts are not numbered one by one from 0".to_owned(),
        ));
    }
    Ok(Prepared { process, stage })
}

impl Stage {
    /// Mounts what the op of a request asks for, and `own`.
    pub(super) fn new(
        setting: &Setting,
        request: &ExecRequest,
        own: &[OwnDir],
        caches: Caches,
    ) -> Result<Self, ExecError> {
        let private = PrivateDir::new(&setting.dir)?;
        let mut sources = Sources {
            layers: &setting.layers,
            request,
            caches: &caches,
            private: &private,
            mounted: Vec::new(),
            outputs: BTreeMap::new(),
            throwaway: BTreeMap::new(),
        };
        let (root_index, root_mount) = root_mount(&request.op)?;
        let root = sources.root(root_index, root_mount)?;
        let user = lookup(root.root(), &request.op.user)?;
        let mut rootfs = Rootfs::new(root.root())?;
        // Also where a mount will hide it: it is there for later steps, and a mount point looks like what it covers.
        make_cwd(root.root(), &request.op.cwd, |_| Some((user.uid, user.gid)))?;
        let hostname = if request.op.hostname.is_empty() {
            HOSTNAME
        } else {
            &request.op.hostname
        };
        let mut late_mounts = Vec::new();
        let mut places = BTreeMap::from([(root_index, PathBuf::new())]);
        for (number, planned) in plan(setting, request, own, root_index, hostname)
            .into_iter()
            .enumerate()
        {
            let removal = planned.removal(&request.op);
            let place = rootfs.place(&planned.dest)?;
            let covered = match &place {
                Place::Tree(real) => rootfs.root().lstat(real).ok().filter(Metadata::is_dir),
                Place::System(_) => None,
            };
            let Some(source) = sources.open(&planned, covered.as_ref())? else {
                continue;
            };
            match place {
                Place::Tree(real) => {
                    rootfs.add(&real, source.mount, source.is_dir, removal)?;
                    if let What::Asked(index, _) = planned.what {
                        places.insert(index, real);
                    }
                }
                Place::System(dest) => {
                    let path = private.stage(number, source.mount, source.is_dir)?;
                    late_mounts.push(LateMount {
                        dest,
                        source: path,
                        readonly: source.readonly,
                        has_devices: source.has_devices,
                        is_recursive: source.is_recursive,
                    });
                }
            }
        }
        let Sources {
            mounted,
            outputs,
            throwaway,
            ..
        } = sources;
        Ok(Self {
            rootfs,
            is_readonly: root_mount.readonly,
            root,
            sources: mounted,
            outputs,
            throwaway,
            _caches: caches,
            private,
            late_mounts,
            places,
            hostname: hostname.to_owned(),
            user,
        })
    }

    /// A process that sees this, but for its network. Makes its working directory.
    pub(super) fn process(&self, request: &ExecRequest, user: User) -> Result<ProcessSpec, ExecError> {
        let cwd = make_cwd(self.rootfs.root(), &request.op.cwd, |made| {
            // What is missing in a mount is root's.
            let is_mounted = |place: &PathBuf| !place.as_os_str().is_empty() && made.starts_with(place);
            (!self.places.values().any(is_mounted)).then_some((user.uid, user.gid))
        })?;
        Ok(ProcessSpec {
            rootfs: self.root.path().to_owned(),
            rootfs_readonly: self.is_readonly,
            late_mounts: self.late_mounts.clone(),
            devices: request.devices.clone(),
            args: request.op.args.clone(),
            env: environment(request, &user)?,
            cwd,
            user,
            hostname: self.hostname.clone(),
            rlimits: limits(&request.op.ulimits)?,
            network: Network::None,
            security: request.op.security,
            cgroup_parent: request.op.cgroup_parent.clone(),
            resources: request.resources.clone(),
            terminal: false,
        })
    }

    /// Whom the processes of a container may name: everybody that they see.
    pub(super) fn user(&self, name: &str) -> Result<User, ExecError> {
        Ok(lookup(self.rootfs.root(), name)?)
    }

    /// What is mounted for a mount of the op; `None` if only the container sees it, or it is no directory.
    pub(super) fn mounted(&self, index: usize) -> Option<Root> {
        self.rootfs.root().sub_root(self.places.get(&index)?).ok()
    }

    /// Unmounts everything; what was changed is left.
    pub(super) fn undo(self) -> Result<Left, ExecError> {
        self.rootfs.finish()?;
        for mounted in self.sources {
            mounted.unmount()?;
        }
        self.root.unmount()?;
        drop(self.private);
        Ok(Left {
            outputs: self.outputs,
            throwaway: self.throwaway,
        })
    }
}

/// What a process has left, not mounted any more.
pub(super) struct Left {
    /// By the numbers of the outputs.
    outputs: BTreeMap<usize, Output>,
    /// By the index of the mount.
    throwaway: BTreeMap<usize, WritableLayer>,
}

impl Left {
    /// A failure after which all that is left can be looked into.
    fn after(self, error: ExecError, request: &ExecRequest) -> RunFailure {
        match self.states(request) {
            Ok(left) => RunFailure {
                error,
                left: Some(left),
            },
            Err(cause) => {
                tracing::warn!(error = %cause, "what a failed process left cannot be looked into");
                error.into()
            }
        }
    }

    /// What each mount showed in the end.
    fn states(self, request: &ExecRequest) -> Result<Vec<Option<LayerList>>, ExecError> {
        let inputs = request.op.mounts.iter().map(|mount| request.input(mount));
        let mut states = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = self.outputs.into_values().filter_map(|output| match output {
            Output::Layer(mount, layer) => Some((mount, layer)),
            Output::Input(_) => None,
        });
        for (index, layer) in outputs.chain(self.throwaway) {
            let mount = &request.op.mounts[index];
            let described = Describe {
                description: format!("left of mount {} from failed exec {}", mount.dest, request.command()),
                ..request.describe(mount)
            };
            states[index] = Some(layer.commit(&described)?);
        }
        Ok(states)
    }
}

fn root_mount(op: &ExecOp) -> Result<(usize, &Mount), ExecError> {
    let root = op.mounts.iter().enumerate().find(|(_, mount)| mount.dest == "/");
    let (index, mount) = root.ok_or_else(|| ExecError::Invalid("no mount at /".to_owned()))?;
    if mount.kind != MountKind::Bind {
        return Err(ExecError::Invalid("the mount at / must be a bind mount".to_owned()));
    }
    if !clean(&mount.selector).as_os_str().is_empty() {
        return Err(ExecError::Invalid(
            "the mount at / cannot select a part of its source".to_owned(),
        ));
    }
    Ok((index, mount))
}

/// Makes the working directory; what is missing of it belongs to its `owner`, or else to root. Returns its path.
fn make_cwd(root: &Root, cwd: &str, owner: impl Fn(&Path) -> Option<(u32, u32)>) -> Result<String, ExecError> {
    let failed = |source| ExecError::Cwd {
        cwd: cwd.to_owned(),
        source,
    };
    let real = Path::new("/").join(root.real_path(cwd).map_err(failed)?);
    if real.starts_with("/proc") {
        // Through it lead ways to descriptors of whoever starts the process.
        return Err(ExecError::Invalid(format!(
            "the working directory {cwd:?} leads to /proc"
        )));
    }
    if !real.starts_with("/dev") && !real.starts_with("/sys") {
        for made in root.create_dir_all(cwd, 0o755).map_err(failed)? {
            if let Some((uid, gid)) = owner(&made) {
                root.chown(&made, uid, gid).map_err(failed)?;
            }
        }
    }
    Path::new("/")
        .join(clean(cwd))
        .into_os_string()
        .into_string()
        .map_err(|_| ExecError::Invalid(format!("the working directory {cwd:?} is not UTF-8")))
}
