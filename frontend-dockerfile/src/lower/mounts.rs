//! Mounts of `RUN`.

use cairn_solver::llb::{
    CacheSharing, ContentCache, FileAction, FileActionKind, FileGrant, FileOp, Mount, MountKind, Op, OpMetadata,
    SecretEnv,
};
use cairn_solver::llb::{Chown, UserSpec};

use crate::error::DockerfileError;
use crate::gofmt;
use crate::instruction::{CacheMode, MountSpec, Run, parse_mount};
use crate::location::Lines;
use crate::plan::Step;

use super::arena::{Inputs, NodeId};
use super::run::PIPES;
use super::state::StageState;
use super::{Lowering, path};

/// Of the mode of a cache's directory counts what it permits.
const PERMISSIONS: u32 = 0o777;

/// The mounts of a process.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    pub(super) inputs: Vec<NodeId>,
    pub(super) secret_env: Vec<SecretEnv>,
    /// Where the first ssh agent is.
    pub(super) ssh_socket: Option<String>,
}

impl Mounts {
    pub(super) fn secret_names(&self) -> Vec<&str> {
        self.secret_env.iter().map(|secret| secret.name.as_str()).collect()
    }
}

/// A mount whose input has no index yet.
struct Pending {
    mount: Mount,
    input: Option<NodeId>,
}

impl Lowering<'_> {
    pub(super) fn mounts(
        &mut self,
        state: &StageState,
        step: &Step,
        run: &Run,
        stage: usize,
        script: Option<NodeId>,
    ) -> Result<Mounts, DockerfileError> {
        let lines = step.instruction.lines;
        let mut found = Mounts::default();
        let mut files: Vec<Pending> = Vec::new();
        let (mut secrets, mut sockets): (Vec<Mount>, Vec<Mount>) = Default::default();
        let mut agents = 0;
        let mut specs = Vec::with_capacity(run.mounts.len());
        for flag in &run.mounts {
            let expand = |value: &str| self.expand(state, value, lines).map_err(|error| error.message);
            specs.push(parse_mount(flag, expand).map_err(|message| DockerfileError::at(lines, message))?);
        }
        for (spec, from) in specs.into_iter().zip(&step.mounts) {
            match spec.kind {
                "secret" => {
                    self.note_grant(stage, &spec, &secret_id(&spec), lines);
                    secrets.extend(secret(&spec, &mut found.secret_env));
                }
                "ssh" => {
                    self.note_grant(stage, &spec, &spec.id, lines);
                    let mount = ssh(&spec, agents);
                    agents += 1;
                    found.ssh_socket.get_or_insert_with(|| mount.dest.clone());
                    sockets.push(mount);
                }
                _ => files.push(self.files(state, &spec, *from, stage, lines)?),
            }
        }
        if self.around.options.run.shm_size > 0 {
            let kind = MountKind::Tmpfs {
                size: self.around.options.run.shm_size,
            };
            files.push(Pending {
                mount: mount("/dev/shm".to_owned(), kind),
                input: None,
            });
        }
        if let Some(script) = script {
            let mount = Mount {
                readonly: true,
                selector: "/".to_owned(),
                ..mount(PIPES.to_owned(), MountKind::Bind)
            };
            files.push(Pending {
                mount,
                input: Some(script),
            });
        }
        files.sort_by(|a, b| a.mount.dest.cmp(&b.mount.dest));
        let root = Pending {
            mount: Mount {
                output: Some(0),
                ..mount("/".to_owned(), MountKind::Bind)
            },
            input: state.root,
        };
        let mut inputs = Inputs::default();
        for Pending { mut mount, input } in std::iter::once(root).chain(files) {
            mount.input = input.map(|node| inputs.index(node));
            found.mounts.push(mount);
        }
        found.inputs = inputs.into_nodes();
        found.mounts.extend(secrets);
        found.mounts.extend(sockets);
        Ok(found)
    }

    /// A bind, cache or tmpfs mount.
    fn files(
        &mut self,
        state: &StageState,
        spec: &MountSpec,
        from: Option<usize>,
        stage: usize,
        lines: Lines,
    ) -> Result<Pending, DockerfileError> {
        let mut target = path::absolute(&state.cwd, &spec.target);
        if target == "/" {
            return Err(DockerfileError::at(lines, "invalid mount target \"/\""));
        }
        // What is absolute stays as it is written.
        if spec.target.starts_with('/') {
            target.clone_from(&spec.target);
        }
        let mut input = self.mount_root(spec, from, stage, lines)?;
        let source = path::source(&spec.source);
        let mut selector = if source == "/" { String::new() } else { source.clone() };
        let kind = match spec.kind {
            "tmpfs" => {
                input = None;
                selector.clear();
                MountKind::Tmpfs { size: spec.size }
            }
            "cache" => {
                if selector.is_empty() && (spec.mode.is_some() || spec.uid.is_some() || spec.gid.is_some()) {
                    input = Some(self.cache_directory(spec, input));
                    selector = "/cache".to_owned();
                }
                let id = if spec.id.is_empty() {
                    cairn_patterns::clean(&spec.target)
                } else {
                    spec.id.clone()
                };
                let namespace = self
                    .around
                    .options
                    .build_args
                    .get("BUILDKIT_CACHE_MOUNT_NS")
                    .map(String::as_str)
                    .unwrap_or_default();
                MountKind::Cache {
                    id: format!("{namespace}/{id}"),
                    sharing: sharing(spec.sharing),
                }
            }
            _ => MountKind::Bind,
        };
        if spec.kind == "bind"
            && let Some(input) = input
        {
            self.arena.use_path(input, &source);
        }
        let readonly = spec.readonly.unwrap_or(spec.kind == "bind");
        Ok(Pending {
            mount: Mount {
                selector,
                readonly,
                ..mount(target, kind)
            },
            input,
        })
    }

    fn mount_root(
        &mut self,
        spec: &MountSpec,
        from: Option<usize>,
        stage: usize,
        lines: Lines,
    ) -> Result<Option<NodeId>, DockerfileError> {
        let Some(from) = from else {
            return Ok(if spec.kind == "bind" { self.context() } else { None });
        };
        if let Some(root) = self.roots[from] {
            return Ok(root);
        }
        let name = spec.from.as_deref().unwrap_or(&self.plan.stages[stage].label);
        let message = format!(
            "cannot mount from stage {} to {}, stage needs to be defined before current command",
            gofmt::quote(name),
            gofmt::quote(&spec.target)
        );
        Err(DockerfileError::at(lines, message))
    }

    /// The directory that a cache begins as, when it is to have an owner or mode of its own.
    fn cache_directory(&mut self, spec: &MountSpec, input: Option<NodeId>) -> NodeId {
        let owner = Chown {
            user: Some(UserSpec::Id(spec.uid.unwrap_or(0))),
            group: Some(UserSpec::Id(spec.gid.unwrap_or(0))),
        };
        let kind = FileActionKind::Mkdir {
            path: "/cache".to_owned(),
            mode: spec.mode.unwrap_or(0o755) & PERMISSIONS,
            make_parents: false,
            owner: Some(owner),
            timestamp: None,
        };
        let action = FileAction {
            input: input.map(|_| cairn_solver::llb::ActionInput::Vertex(0)),
            secondary: None,
            output: Some(0),
            kind,
        };
        let metadata = OpMetadata::named("[internal] setting cache mount permissions");
        self.arena.add(
            Op::File(FileOp { actions: vec![action] }),
            input.into_iter().collect(),
            None,
            metadata,
            None,
        )
    }
}

fn mount(dest: String, kind: MountKind) -> Mount {
    Mount {
        dest,
        input: None,
        selector: String::new(),
        readonly: false,
        output: None,
        kind,
        content_cache: ContentCache::Default,
    }
}

/// The last name of a path.
fn base(path: &str) -> String {
    path.rsplit('/')
        .find(|name| !name.is_empty())
        .unwrap_or_default()
        .to_owned()
}

fn secret_id(spec: &MountSpec) -> String {
    if spec.id.is_empty() {
        base(&spec.target)
    } else {
        spec.id.clone()
    }
}

/// A secret: a file, a variable, or both.
fn secret(spec: &MountSpec, env: &mut Vec<SecretEnv>) -> Option<Mount> {
    let id = secret_id(spec);
    let optional = !spec.required;
    if let Some(name) = &spec.env {
        env.push(SecretEnv {
            id: id.clone(),
            name: name.clone(),
            optional,
        });
        if spec.target.is_empty() {
            return None;
        }
    }
    let dest = if spec.target.is_empty() {
        format!("/run/secrets/{}", base(&id))
    } else {
        spec.target.clone()
    };
    Some(mount(dest, MountKind::Secret(grant(spec, id, 0o400))))
}

fn ssh(spec: &MountSpec, number: usize) -> Mount {
    let dest = if spec.target.is_empty() {
        format!("/run/buildkit/ssh_agent.{number}")
    } else {
        spec.target.clone()
    };
    mount(dest, MountKind::Ssh(grant(spec, spec.id.clone(), 0o600)))
}

fn grant(spec: &MountSpec, id: String, mode: u32) -> FileGrant {
    FileGrant {
        id,
        uid: spec.uid.unwrap_or(0),
        gid: spec.gid.unwrap_or(0),
        mode: spec.mode.unwrap_or(mode),
        optional: !spec.required,
    }
}

fn sharing(mode: Option<CacheMode>) -> CacheSharing {
    match mode {
        None | Some(CacheMode::Shared) => CacheSharing::Shared,
        Some(CacheMode::Private) => CacheSharing::Private,
        Some(CacheMode::Locked) => CacheSharing::Locked,
    }
}
