//! Carrying out an [`ExecOp`]: from result lists and grants to a process, and from what it left to results.
//!
//! The rules for mounts are those of BuildKit's `ExecOp` (`solver/llbsolver/mounts`, `executor`).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_solver::WorkerError;
use cairn_solver::llb::{ExecOp, FileGrant, LinuxResources, Mount, MountKind, NetMode};
use tokio_util::sync::CancellationToken;

use super::process::{Executor, ExecutorError, LateMount, Network, OutputSink, ProcessIo, ProcessSpec};
use super::resolv::{DnsConfig, hosts, resolv_conf};
use super::rlimit::{RlimitError, limits};
use super::rootfs::{Place, Rootfs, RootfsError, StubRemoval};
use super::user::{User, UserError, lookup};
use crate::layer::{CacheDir, CacheRequest, Describe, LayerError, LayerList, LayerStore, Mounted, WritableLayer};
use crate::sys::mounts::{self, DetachedMount, MountGuard, Restrictions, clone_tree, detached_tmpfs};
use crate::sys::root::{clean, create_private_dirs};
use crate::sys::{Metadata, Root, at};

/// Host name of processes that ask for none.
const HOSTNAME: &str = "buildkitsandbox";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Memory for the private files of one run.
const PRIVATE_MAX: u64 = 64 << 20;

/// Why an [`ExecOp`] has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The process ended with a code that does not mean success.
    #[error("process {command:?} did not complete successfully: exit code: {code}{}", if *out_of_memory { ": cannot allocate memory" } else { "" })]
    Exit {
        /// Arguments joined by blanks.
        command: String,
        /// Exit code.
        code: u32,
        /// Whether it was killed for want of memory.
        out_of_memory: bool,
    },
    /// It was cancelled.
    #[error("context canceled")]
    Cancelled,
    /// A secret that is not optional is missing.
    #[error("secret {0}: not found")]
    NoSecret(String),
    /// An ssh agent that is not optional is missing.
    #[error("no SSH key {0:?} forwarded from the client")]
    NoSsh(String),
    /// The op contradicts itself or its inputs.
    #[error("{0}")]
    Invalid(String),
    /// The path mounted from a source is not there.
    #[error("failed to mount {selector:?} of the source at {dest:?}")]
    Selector {
        /// Path in the source.
        selector: String,
        /// Mount point.
        dest: String,
        /// Why.
        source: std::io::Error,
    },
    /// The working directory cannot be used.
    #[error("failed to create working directory {cwd:?}")]
    Cwd {
        /// Which.
        cwd: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something private to the run could not be provided.
    #[error("failed to {doing}")]
    Private {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The user cannot be found.
    #[error(transparent)]
    User(#[from] UserError),
    /// A resource limit makes no sense.
    #[error(transparent)]
    Rlimit(#[from] RlimitError),
    /// The root file system could not be put together.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A layer could not be used or finished.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The process could not be run.
    #[error(transparent)]
    Executor(ExecutorError),
}

impl From<ExecutorError> for ExecError {
    fn from(error: ExecutorError) -> Self {
        match error {
            ExecutorError::Cancelled => Self::Cancelled,
            other => Self::Executor(other),
        }
    }
}

impl From<ExecError> for WorkerError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Exit {
                command,
                code,
                out_of_memory,
            } => {
                let cause = out_of_memory.then(|| "cannot allocate memory".to_owned());
                Self::Exit { command, code, cause }
            }
            ExecError::Cancelled => Self::Cancelled,
            ExecError::NoSecret(_) | ExecError::NoSsh(_) => Self::NotFound(error.to_string()),
            ExecError::Invalid(_) | ExecError::User(_) | ExecError::Rlimit(_) | ExecError::Selector { .. } => {
                Self::Invalid(with_causes(&error))
            }
            _ => Self::Failed(with_causes(&error)),
        }
    }
}

/// The error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// What the client lends to a run. Whatever is not here is missing.
#[derive(Clone, Default)]
pub struct Grants {
    /// Secrets by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Listening sockets, at paths of the daemon's own, that lead to ssh agents, by id.
    pub ssh: BTreeMap<String, PathBuf>,
}

/// One op to carry out.
#[derive(Clone)]
pub struct ExecRequest {
    /// What to run.
    pub op: ExecOp,
    /// Limits, if any.
    pub resources: LinuxResources,
    /// The vertex' inputs, all unpacked; `None` is scratch.
    pub inputs: Vec<Option<LayerList>>,
    /// What the client lends.
    pub grants: Grants,
}

impl ExecRequest {
    /// The input of a mount.
    fn input(&self, mount: &Mount) -> Result<Option<LayerList>, ExecError> {
        match mount.input {
            None => Ok(None),
            Some(index) => self
                .inputs
                .get(index)
                .cloned()
                .ok_or_else(|| ExecError::Invalid(format!("missing input {index}"))),
        }
    }

    /// Where a mount goes, as the process names it.
    fn dest(&self, mount: &Mount) -> PathBuf {
        Path::new("/").join(clean(Path::new("/").join(&self.op.cwd).join(&mount.dest)))
    }

    fn command(&self) -> String {
        self.op.args.join(" ")
    }

    fn describe(&self, mount: &Mount) -> Describe {
        Describe {
            description: format!("mount {} from exec {}", mount.dest, self.command()),
            record_type: "regular".to_owned(),
        }
    }
}

/// Carries out [`ExecOp`]s.
pub struct ExecRunner {
    layers: LayerStore,
    executor: Arc<dyn Executor>,
    /// A directory per run, for what is private to it.
    dir: PathBuf,
    dns: DnsConfig,
    /// What [`NetMode::Sandbox`] means here.
    sandbox_network: Network,
    _private: Option<MountGuard>,
}

impl ExecRunner {
    /// Runs with `executor` on layers of `layers`. `dir` is for private files of running processes; what an earlier
    /// daemon left in it is removed.
    pub fn new(
        layers: LayerStore,
        executor: Arc<dyn Executor>,
        dir: impl AsRef<Path>,
        dns: DnsConfig,
        sandbox_network: Network,
    ) -> Result<Self, ExecError> {
        let failed = |source| ExecError::Private {
            doing: "prepare the directory for runs",
            source,
        };
        create_private_dirs(dir.as_ref()).map_err(failed)?;
        let dir = dir.as_ref().canonicalize().map_err(failed)?;
        mounts::unmount_below(&dir).map_err(failed)?;
        let root = Root::open(&dir).map_err(failed)?;
        at::remove_children(&root).map_err(failed)?;
        let private = mounts::private_dir(&dir)
            .inspect_err(|error| tracing::warn!(%error, "mounts of runs are visible to other mount namespaces"))
            .ok();
        Ok(Self {
            layers,
            executor,
            dir,
            dns,
            sandbox_network,
            _private: private,
        })
    }

    /// Runs the process of an op and returns the op's outputs, in order; an empty list is scratch.
    ///
    /// # Cancel safety
    /// To be cancelled by `cancel`, which waits for the clean-up. Dropping the future leaves the clean-up of mounts to
    /// their guards, while the process may still be ending.
    pub async fn run(
        &self,
        request: ExecRequest,
        sink: Arc<dyn OutputSink>,
        cancel: &CancellationToken,
    ) -> Result<Vec<LayerList>, ExecError> {
        self.run_with_io(request, ProcessIo { stdin: None, sink }, cancel).await
    }

    /// [`ExecRunner::run`] for a process that is talked to, such as a frontend.
    pub async fn run_with_io(
        &self,
        request: ExecRequest,
        io: ProcessIo,
        cancel: &CancellationToken,
    ) -> Result<Vec<LayerList>, ExecError> {
        let caches = self.cache_dirs(&request, cancel).await?;
        let request = Arc::new(request);
        let setting = Setting {
            layers: self.layers.clone(),
            dir: self.dir.join(crate::layer::random_name()),
            dns: self.dns.clone(),
            network: match request.op.network {
                NetMode::Sandbox => self.sandbox_network,
                NetMode::Host => Network::Host,
                NetMode::None => Network::None,
            },
        };
        let asked = request.clone();
        let prepared = blocking(move || prepare(&setting, &asked, caches)).await?;
        let outcome = self
            .executor
            .run(&prepared.process, io, cancel)
            .await
            .map_err(ExecError::from);
        blocking(move || prepared.finish(&request, outcome)).await
    }

    /// Gets the cache directories of an op, by mount.
    async fn cache_dirs(&self, request: &ExecRequest, cancel: &CancellationToken) -> Result<Caches, ExecError> {
        let mut wanted = Vec::new();
        for (index, mount) in request.op.mounts.iter().enumerate() {
            if let MountKind::Cache { id, sharing } = &mount.kind {
                let seed = request.input(mount)?;
                let description = format!("cached mount {} from exec {}", mount.dest, request.command());
                wanted.push((
                    index,
                    CacheRequest {
                        id: id.clone(),
                        seed,
                        sharing: *sharing,
                        description,
                    },
                ));
            }
        }
        // In one order for all, so that two ops that lock the same two directories do not wait for each other.
        wanted.sort_by_key(|(_, wanted)| wanted.key());
        let mut caches = Caches::new();
        let mut last: Option<(CacheRequest, Arc<CacheDir>)> = None;
        for (index, wanted) in wanted {
            // Twice in one op is one directory, which would else wait for itself.
            let cache = match &last {
                Some((known, cache)) if known.key() == wanted.key() => cache.clone(),
                _ => tokio::select! {
                    cache = self.layers.cache_dir(&wanted) => Arc::new(cache?),
                    () = cancel.cancelled() => return Err(ExecError::Cancelled),
                },
            };
            caches.insert(index, cache.clone());
            last = Some((wanted, cache));
        }
        Ok(caches)
    }
}

/// Cache directories by the index of their mount.
type Caches = BTreeMap<usize, Arc<CacheDir>>;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecError> + Send + 'static,
) -> Result<T, ExecError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ExecError::Private {
            doing: "prepare or finish a run",
            source: std::io::Error::other(error),
        }),
    }
}

/// What of the runner a run is prepared with.
struct Setting {
    layers: LayerStore,
    dir: PathBuf,
    dns: DnsConfig,
    network: Network,
}

/// Everything is in place for the process. Dropping this undoes it, without results.
struct Prepared {
    process: ProcessSpec,
    // Undone in this order: what lies on top first.
    rootfs: Rootfs,
    root: Mounted,
    sources: Vec<Mounted>,
    outputs: BTreeMap<usize, Output>,
    _throwaway: Vec<WritableLayer>,
    _caches: Caches,
    private: PrivateDir,
}

/// What becomes an output.
enum Output {
    /// The changes to a mount; by the mount's index.
    Layer(usize, WritableLayer),
    /// What went in.
    Input(LayerList),
}

impl Prepared {
    fn finish(
        self,
        request: &ExecRequest,
        outcome: Result<super::process::ExitStatus, ExecError>,
    ) -> Result<Vec<LayerList>, ExecError> {
        let undone = self.rootfs.finish().map_err(ExecError::from).and_then(|()| {
            for mounted in self.sources {
                mounted.unmount()?;
            }
            Ok(self.root.unmount()?)
        });
        drop(self.private);
        let status = match (outcome, undone) {
            (Ok(status), Ok(())) => status,
            (Ok(_), Err(error)) => return Err(error),
            (Err(error), undone) => {
                if let Err(error) = undone {
                    tracing::warn!(%error, "could not clean up after a run");
                }
                return Err(error);
            }
        };
        let valid = &request.op.valid_exit_codes;
        let succeeded = match i32::try_from(status.code) {
            Ok(code) if valid.is_empty() => code == 0,
            Ok(code) => valid.contains(&code),
            Err(_) => false,
        };
        if !succeeded {
            return Err(ExecError::Exit {
                command: request.command(),
                code: status.code,
                out_of_memory: status.out_of_memory,
            });
        }
        let mut lists = Vec::with_capacity(self.outputs.len());
        for (_, output) in self.outputs {
            lists.push(match output {
                Output::Input(list) => list,
                Output::Layer(mount, layer) => layer.commit(&request.describe(&request.op.mounts[mount]))?,
            });
        }
        Ok(lists)
    }
}

fn prepare(setting: &Setting, request: &ExecRequest, caches: Caches) -> Result<Prepared, ExecError> {
    let private = PrivateDir::new(&setting.dir)?;
    let mut sources = Sources {
        layers: &setting.layers,
        request,
        caches: &caches,
        private: &private,
        mounted: Vec::new(),
        outputs: BTreeMap::new(),
        throwaway: Vec::new(),
    };
    let (root_index, root_mount) = root_mount(&request.op)?;
    let root = sources.root(root_index, root_mount)?;
    let user = lookup(root.root(), &request.op.user)?;
    let mut rootfs = Rootfs::new(root.root())?;
    let hostname = if request.op.hostname.is_empty() {
        HOSTNAME
    } else {
        &request.op.hostname
    };
    let mut late_mounts = Vec::new();
    for (number, planned) in plan(setting, request, root_index, hostname).into_iter().enumerate() {
        let removal = planned.removal(&request.op);
        let Some(source) = sources.open(&planned)? else {
            continue;
        };
        match rootfs.place(&planned.dest)? {
            Place::Tree(real) => rootfs.add(&real, source.mount, source.is_dir, removal)?,
            Place::System(dest) => {
                let path = private.stage(number, source.mount, source.is_dir)?;
                late_mounts.push(LateMount {
                    dest,
                    source: path,
                    readonly: source.readonly,
                });
            }
        }
    }
    let cwd = make_cwd(rootfs.root(), &request.op.cwd, &user)?;
    let process = ProcessSpec {
        rootfs: root.path().to_owned(),
        rootfs_readonly: root_mount.readonly,
        late_mounts,
        args: request.op.args.clone(),
        env: environment(request, &user)?,
        cwd,
        user,
        hostname: hostname.to_owned(),
        rlimits: limits(&request.op.ulimits)?,
        network: setting.network,
        security: request.op.security,
        cgroup_parent: request.op.cgroup_parent.clone(),
        resources: request.resources.clone(),
    };
    let Sources {
        mounted,
        outputs,
        throwaway,
        ..
    } = sources;
    if outputs.keys().copied().ne(0..outputs.len()) {
        return Err(ExecError::Invalid(
            "the outputs of the mounts are not numbered one by one from 0".to_owned(),
        ));
    }
    Ok(Prepared {
        process,
        rootfs,
        root,
        sources: mounted,
        outputs,
        _throwaway: throwaway,
        _caches: caches,
        private,
    })
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

/// Something to mount, and where.
struct Planned<'a> {
    dest: PathBuf,
    what: What<'a>,
}

enum What<'a> {
    /// By index, a mount of the op.
    Asked(usize, &'a Mount),
    /// A file of the daemon's.
    Own { name: &'static str, text: String },
}

impl Planned<'_> {
    fn removal(&self, op: &ExecOp) -> StubRemoval {
        match self.what {
            What::Own { .. } => StubRemoval::WithParents,
            What::Asked(..) if op.remove_mount_stubs_recursive => StubRemoval::WithParents,
            What::Asked(..) => StubRemoval::Last,
        }
    }
}

/// All mounts but the root, parents first; those of the op over those of the daemon.
fn plan<'a>(setting: &Setting, request: &'a ExecRequest, root: usize, hostname: &str) -> Vec<Planned<'a>> {
    let own = |dest: &str, name, text| Planned {
        dest: PathBuf::from(dest),
        what: What::Own { name, text },
    };
    let mut planned = vec![
        own("/etc/hosts", "hosts", hosts(hostname, &request.op.extra_hosts)),
        own(
            "/etc/resolv.conf",
            "resolv.conf",
            resolv_conf(&setting.dns, setting.network),
        ),
    ];
    let asked = request.op.mounts.iter().enumerate().filter(|(index, _)| *index != root);
    planned.extend(asked.map(|(index, mount)| Planned {
        dest: request.dest(mount),
        what: What::Asked(index, mount),
    }));
    planned.sort_by(|a, b| a.dest.cmp(&b.dest));
    planned
}

/// Something ready to be mounted.
struct Source {
    mount: DetachedMount,
    is_dir: bool,
    readonly: bool,
}

/// Turns mounts of an op into things that can be mounted, keeping what they need.
struct Sources<'a> {
    layers: &'a LayerStore,
    request: &'a ExecRequest,
    caches: &'a Caches,
    private: &'a PrivateDir,
    mounted: Vec<Mounted>,
    outputs: BTreeMap<usize, Output>,
    throwaway: Vec<WritableLayer>,
}

impl Sources<'_> {
    /// The root is always a writable child, so that mount points can be made in it; without output it is thrown away.
    fn root(&mut self, index: usize, mount: &Mount) -> Result<Mounted, ExecError> {
        let input = self.request.input(mount)?;
        self.writable(index, mount, input)
    }

    fn writable(&mut self, index: usize, mount: &Mount, input: Option<LayerList>) -> Result<Mounted, ExecError> {
        let layer = self.layers.prepare(&input.unwrap_or_else(|| self.layers.scratch()))?;
        let mounted = layer.mount()?;
        match mount.output {
            Some(output) => self.output(output, Output::Layer(index, layer))?,
            None => self.throwaway.push(layer),
        }
        Ok(mounted)
    }

    fn output(&mut self, number: usize, output: Output) -> Result<(), ExecError> {
        match self.outputs.insert(number, output) {
            None => Ok(()),
            Some(_) => Err(ExecError::Invalid(format!("duplicate output {number}"))),
        }
    }

    /// Opens what is planned; `None` for something optional that is missing.
    fn open(&mut self, planned: &Planned<'_>) -> Result<Option<Source>, ExecError> {
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
            What::Asked(index, mount) => self.open_asked(*index, mount),
        }
    }

    fn open_asked(&mut self, index: usize, mount: &Mount) -> Result<Option<Source>, ExecError> {
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
                }))
            }
            MountKind::Secret(grant) => self.secret(index, grant),
            MountKind::Ssh(grant) => self.ssh(grant),
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

    fn ssh(&self, grant: &FileGrant) -> Result<Option<Source>, ExecError> {
        let Some(path) = self.request.grants.ssh.get(&grant.id) else {
            return if grant.optional {
                Ok(None)
            } else {
                Err(ExecError::NoSsh(grant.id.clone()))
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

fn pinned(handle: impl std::os::fd::AsFd, restrictions: Restrictions) -> Result<Source, ExecError> {
    let failed = || private("pin the source of a mount");
    let is_dir = Metadata::of(&handle).map_err(failed())?.is_dir();
    let mount = clone_tree(&handle).map_err(failed())?;
    mount.restrict(restrictions).map_err(failed())?;
    Ok(Source {
        mount,
        is_dir,
        readonly: restrictions.readonly,
    })
}

fn private(doing: &'static str) -> impl FnOnce(std::io::Error) -> ExecError {
    move |source| ExecError::Private { doing, source }
}

/// Makes the working directory, owned by the user. Returns its path.
fn make_cwd(root: &Root, cwd: &str, user: &User) -> Result<String, ExecError> {
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
            root.chown(&made, user.uid, user.gid).map_err(failed)?;
        }
    }
    Path::new("/")
        .join(clean(cwd))
        .into_os_string()
        .into_string()
        .map_err(|_| ExecError::Invalid(format!("the working directory {cwd:?} is not UTF-8")))
}

fn environment(request: &ExecRequest, user: &User) -> Result<Vec<String>, ExecError> {
    let op = &request.op;
    let mut env = op.env.clone();
    let proxies = [
        ("http_proxy", &op.proxy.http),
        ("https_proxy", &op.proxy.https),
        ("ftp_proxy", &op.proxy.ftp),
        ("no_proxy", &op.proxy.no),
        ("all_proxy", &op.proxy.all),
    ];
    for (name, value) in proxies.into_iter().filter(|(_, value)| !value.is_empty()) {
        env.push(format!("{}={value}", name.to_uppercase()));
        env.push(format!("{name}={value}"));
    }
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    for secret in &op.secret_env {
        let value = match request.grants.secrets.get(&secret.id) {
            Some(value) => std::str::from_utf8(value).map_err(|_| {
                ExecError::Invalid(format!(
                    "secret {} is not text: it cannot be in {}",
                    secret.id, secret.name
                ))
            })?,
            None if secret.optional => "",
            None => return Err(ExecError::NoSecret(secret.id.clone())),
        };
        env.push(format!("{}={value}", secret.name));
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    Ok(env)
}

/// Files of one run that nobody else may see: in memory, gone with the run.
struct PrivateDir {
    root: Root,
    path: PathBuf,
    _guard: MountGuard,
    staged: parking_lot::Mutex<Vec<MountGuard>>,
}

impl PrivateDir {
    fn new(dir: &Path) -> Result<Self, ExecError> {
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
    fn file(&self, name: &str, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<std::fs::File, ExecError> {
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

    /// Mounts something where a runtime can find it by path.
    fn stage(&self, number: usize, mount: DetachedMount, is_dir: bool) -> Result<PathBuf, ExecError> {
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

#[cfg(test)]
mod tests;
