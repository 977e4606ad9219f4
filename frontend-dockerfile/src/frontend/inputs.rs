//! Reading what a build begins with: the Dockerfile and the ignore file.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use cairn_patterns::{IgnoreFileError, clean, ignorefile};
use cairn_solver::frontend::{Bridge, BridgeRef, FrontendError};
use cairn_solver::llb::{Builder, Differ, LocalSource, OpMetadata, SourceFile, SourceOp};
use cairn_solver::{Digest, SolveError, WorkerError};

use crate::error::DockerfileError;
use crate::location::Lines;
use crate::options::Options;
use crate::plan::{Base, Plan};

use super::HostKeys;
use super::context::{self, MainContext};

/// Largest Dockerfile.
const MAX_DOCKERFILE_BYTES: usize = 64 << 20;

/// What a build begins with.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) file: SourceFile,
    /// The step that loaded it.
    pub(super) vertex: Digest,
    /// What that step made.
    pub(super) source: Option<BridgeRef>,
    /// Content of the ignore file beside the Dockerfile.
    own_ignore: Option<Bytes>,
    /// The build context.
    pub(super) context: MainContext,
}

impl Inputs {
    pub(super) async fn read(
        bridge: &dyn Bridge,
        options: &Options,
        host_keys: &HostKeys,
    ) -> Result<Self, FrontendError> {
        let context = MainContext::find(bridge, options, host_keys).await?;
        let filename = context.filename.unwrap_or(options.filename.as_str());
        let path = in_root(filename);
        let (source, vertex) = Self::dockerfile_source(bridge, options, &context, filename).await?;
        let own_ignore = format!("{path}.dockerignore");
        let data = read(bridge, source.as_ref(), &path)
            .await
            .map_err(|error| match error {
                FrontendError::Solve(SolveError::Cancelled) => error,
                error => FrontendError::For {
                    what: "failed to read dockerfile".to_owned(),
                    source: Box::new(error),
                },
            })?;
        let data = match data {
            Some(data) => Some(data),
            None => match lower_case(&path) {
                Some(lower) => read(bridge, source.as_ref(), &lower).await?,
                None => None,
            },
        };
        let Some(data) = data else {
            let message = format!("failed to read dockerfile: open {filename}: no such file or directory");
            return Err(FrontendError::Option(message));
        };
        if data.len() > MAX_DOCKERFILE_BYTES {
            return Err(FrontendError::Option(format!(
                "failed to read dockerfile: {filename} is larger than {} MiB",
                MAX_DOCKERFILE_BYTES >> 20
            )));
        }
        let file = SourceFile {
            filename: filename.to_owned(),
            data,
            language: "Dockerfile".to_owned(),
            definition: source.as_ref().map(|source| source.definition.clone()),
        };
        let own_ignore = read(bridge, source.as_ref(), &own_ignore).await?;
        Ok(Self {
            file,
            vertex,
            source,
            own_ignore,
            context,
        })
    }

    /// The ignore rules of the build context. A file beside the Dockerfile wins over the one in the context, even if it
    /// is empty.
    pub(super) async fn ignore(&self, bridge: &dyn Bridge, options: &Options) -> Result<Vec<String>, FrontendError> {
        // There is nothing to leave out of what the client does not send.
        if self.context.files.is_some() {
            return Ok(Vec::new());
        }
        if let Some(own) = &self.own_ignore {
            return parse_ignore(&format!("{}.dockerignore", self.file.filename), own);
        }
        let local = Local {
            name: "context",
            hint: "context-.dockerignore".to_owned(),
            title: "[internal] load .dockerignore".to_owned(),
        };
        ignore_rules(bridge, options, local).await
    }

    async fn dockerfile_source(
        bridge: &dyn Bridge,
        options: &Options,
        context: &MainContext,
        filename: &str,
    ) -> Result<(Option<BridgeRef>, Digest), FrontendError> {
        if let Some(definition) = &context.dockerfile
            && !options.forces_local_dockerfile
        {
            let vertex = context::target(definition).unwrap_or_else(|| Digest::sha256(&[]));
            return Ok((bridge.solve((**definition).clone()).await?, vertex));
        }
        let local = options.dockerfile_local.as_str();
        let path = in_root(filename);
        let mut paths = vec![path.clone(), format!("{path}.dockerignore")];
        paths.extend(lower_case(&path));
        let title = format!("[internal] load build definition from {filename}");
        let local = Local {
            name: local,
            hint: local.to_owned(),
            title,
        };
        sync(bridge, options, &local, paths).await
    }

    /// The ignore rules of each client directory that a named context of `plan` stands for.
    pub(super) async fn context_ignores(
        bridge: &dyn Bridge,
        options: &Options,
        plan: &Plan,
    ) -> Result<BTreeMap<String, Vec<String>>, FrontendError> {
        let mut ignores = BTreeMap::new();
        for stage in plan.stages.iter().filter(|stage| stage.reachable) {
            let Base::Local { context, local } = &stage.base else {
                continue;
            };
            if ignores.contains_key(local) {
                continue;
            }
            let source = Local {
                name: local,
                hint: format!("{local}-.dockerignore"),
                title: format!("[context {context}] load .dockerignore"),
            };
            ignores.insert(local.clone(), ignore_rules(bridge, options, source).await?);
        }
        Ok(ignores)
    }
}

/// A directory of the client, of which some files are read.
struct Local<'a> {
    name: &'a str,
    hint: String,
    title: String,
}

/// The rules in a directory's `.dockerignore`.
async fn ignore_rules(bridge: &dyn Bridge, options: &Options, local: Local<'_>) -> Result<Vec<String>, FrontendError> {
    const NAME: &str = ".dockerignore";
    let (source, _) = sync(bridge, options, &local, vec![NAME.to_owned()]).await?;
    match read(bridge, source.as_ref(), NAME).await? {
        Some(bytes) => parse_ignore(NAME, &bytes),
        None => Ok(Vec::new()),
    }
}

fn parse_ignore(name: &str, bytes: &Bytes) -> Result<Vec<String>, FrontendError> {
    ignorefile::parse(bytes).map_err(|error| {
        let message = match &error {
            // Where this is is said by the place.
            IgnoreFileError::Pattern { source, .. } => source.to_string(),
            _ => format!("failed to parse {name}: {error}"),
        };
        let file = SourceFile {
            filename: name.to_owned(),
            data: bytes.clone(),
            language: String::new(),
            definition: None,
        };
        let locations = error
            .line()
            .map(|line| Lines::one(u32::try_from(line).unwrap_or(u32::MAX)));
        super::located(
            &file,
            DockerfileError {
                message,
                locations: locations.into_iter().collect(),
            },
        )
    })
}

/// Asks the client for some files of a directory.
async fn sync(
    bridge: &dyn Bridge,
    options: &Options,
    local: &Local<'_>,
    paths: Vec<String>,
) -> Result<(Option<BridgeRef>, Digest), FrontendError> {
    let session = options
        .local_sessions
        .get(local.name)
        .map_or(bridge.session_id(), String::as_str);
    let source = LocalSource {
        name: local.name.to_owned(),
        session: Some(session.to_owned()),
        follow_paths: paths,
        shared_key_hint: local.hint.clone(),
        differ: Differ::None,
        ..LocalSource::default()
    };
    let mut builder = Builder::new();
    let output = builder.source(SourceOp::Local(source), None, OpMetadata::named(&*local.title));
    Ok((bridge.solve(builder.finish(output)).await?, output.vertex()))
}

/// Reads a file; `None` if it is not there.
async fn read(bridge: &dyn Bridge, source: Option<&BridgeRef>, path: &str) -> Result<Option<Bytes>, FrontendError> {
    let Some(source) = source else { return Ok(None) };
    match bridge.read_file(source, Path::new(path), None).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(SolveError::NotFound(_) | SolveError::Worker(WorkerError::NotFound(_))) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file name as a path relative to the root of the directory it is in.
fn in_root(filename: &str) -> String {
    clean(&format!("/{filename}")).trim_start_matches('/').to_owned()
}

/// `dockerfile` beside `Dockerfile`.
fn lower_case(filename: &str) -> Option<String> {
    let directory = filename.strip_suffix("Dockerfile")?;
    (directory.is_empty() || directory.ends_with('/')).then(|| format!("{directory}dockerfile"))
}
