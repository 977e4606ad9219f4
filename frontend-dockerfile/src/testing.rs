//! A fake of everything around the frontend, and graphs made readable.

pub(crate) mod cases;
mod dump;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_solver::frontend::{
    Bridge, BridgeRef, Frontend, FrontendError, FrontendRefs, FrontendRequest, FrontendResult,
};
use cairn_solver::llb::{Definition, FileActionKind, GitSource, Graph, NodeIndex, Op, SourceOp, decode};
use cairn_solver::progress::Warning;
use cairn_solver::worker::{FileStat, GitMeta, HttpMeta, ImageQuery, ResolvedImage, SourceMeta, WorkerInfo};
use cairn_solver::{Digest, Platform, SolveError, VertexError, WorkerError};

use crate::DockerfileFrontend;

pub(crate) use dump::dump;

/// A daemon with a client's files and some images, that builds nothing.
#[derive(Default)]
pub(crate) struct FakeBridge {
    session: Option<String>,
    /// Files by directory name and path.
    files: BTreeMap<(String, String), Bytes>,
    /// Configs by full reference.
    images: BTreeMap<String, String>,
    /// What policies put in the place of images.
    policies: BTreeMap<String, String>,
    /// Times of remote sources, by how [`place`] calls them, in seconds.
    times: BTreeMap<String, Option<i64>>,
    /// Whether ssh hosts do not tell their keys.
    silent_hosts: bool,
    /// Whether looking images up takes a while.
    slow_images: bool,
    /// What was begun before it was needed.
    pub(crate) begun: Mutex<Vec<Definition>>,
    /// Names under which images were looked up, and directories that were asked for.
    pub(crate) log: Mutex<Vec<String>>,
}

pub(crate) const ALPINE: &str = r#"{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z",
    "config":{"Env":["PATH=/usr/bin:/bin"],"Cmd":["/bin/sh"],"X-Unknown":1},
    "rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]},
    "history":[{"created_by":"base"}]}"#;

const SCANNER: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
    "config":{"Env":["PATH=/bin","A=b"],"User":"nobody","WorkingDir":"/work","Entrypoint":["/scan"],"Cmd":["all"]}}"#;

impl FakeBridge {
    pub(crate) fn new(dockerfile: &str) -> Self {
        Self::default()
            .file("dockerfile", "Dockerfile", dockerfile)
            .image("docker.io/library/alpine:latest", ALPINE)
            .image("quay.io/coreos/etcd:v3", ALPINE)
            .image("docker.io/docker/buildkit-syft-scanner:stable-1", SCANNER)
            .image(
                "docker.io/library/debian:latest",
                &ALPINE.replace("[\"/bin/sh\"]", "[\"bash\"]"),
            )
    }

    pub(crate) fn session(self, id: &str) -> Self {
        Self {
            session: Some(id.to_owned()),
            ..self
        }
    }

    pub(crate) fn file(mut self, local: &str, path: &str, content: &str) -> Self {
        self.files
            .insert((local.to_owned(), path.to_owned()), content.to_owned().into());
        self
    }

    pub(crate) fn image(mut self, reference: &str, config: &str) -> Self {
        self.images.insert(reference.to_owned(), config.to_owned());
        self
    }

    /// Lets a policy put something in the place of an image; both have schemes.
    pub(crate) fn policy(mut self, image: &str, instead: &str) -> Self {
        self.policies.insert(image.to_owned(), instead.to_owned());
        self
    }

    /// A file behind a URL, or one of a repository or archive; see [`place`].
    pub(crate) fn remote(self, place: &str, path: &str, content: &[u8]) -> Self {
        let mut bridge = self;
        bridge
            .files
            .insert((place.to_owned(), path.to_owned()), Bytes::copy_from_slice(content));
        bridge
    }

    /// When a remote source was changed, as far as is known.
    pub(crate) fn time(mut self, place: &str, seconds: Option<i64>) -> Self {
        self.times.insert(place.to_owned(), seconds);
        self
    }

    /// Keeps ssh hosts from telling their keys.
    pub(crate) fn silent_hosts(self) -> Self {
        Self {
            silent_hosts: true,
            ..self
        }
    }

    /// Has others go on while an image is looked up; for a runtime with a clock.
    pub(crate) fn slow_images(self) -> Self {
        Self {
            slow_images: true,
            ..self
        }
    }

    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Bridge for FakeBridge {
    fn session_id(&self) -> &str {
        self.session.as_deref().unwrap_or("session")
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        vec![WorkerInfo {
            platforms: vec![Platform::new("linux", "amd64", "")],
            ..WorkerInfo::default()
        }]
    }

    async fn solve(&self, definition: Definition) -> Result<Option<BridgeRef>, SolveError> {
        let graph = decode(&definition)?;
        Ok(graph.map(|_| BridgeRef {
            id: "ref".to_owned(),
            definition: Arc::new(definition),
        }))
    }

    async fn begin(&self, definition: Definition) {
        self.begun.lock().unwrap().push(definition);
    }

    async fn read_file(
        &self,
        reference: &BridgeRef,
        path: &Path,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, SolveError> {
        let path = path.to_str().expect("files of tests have text for names");
        let graph = decode(&reference.definition)?.expect("not scratch");
        let target = graph.target().vertex;
        if let Op::Source(SourceOp::Local(local)) = &graph.vertex(target).op {
            assert!(
                local.follow_paths.iter().any(|asked| asked == path),
                "{path} was not asked for"
            );
        }
        self.note(format!("{} {path}", graph.vertex(target).name()));
        let found = self.files.get(&(place(&graph, target), path.to_owned()));
        let found = found.ok_or_else(|| WorkerError::NotFound(format!("open {path}: no such file or directory")))?;
        let start = range.map_or(0, |(start, _)| usize::try_from(start).unwrap());
        let length = range.map_or(found.len(), |(_, length)| usize::try_from(length).unwrap());
        Ok(found.slice(start.min(found.len())..found.len().min(start + length)))
    }

    async fn read_dir(
        &self,
        reference: &BridgeRef,
        path: &Path,
        _: Option<&[u8]>,
    ) -> Result<Vec<FileStat>, SolveError> {
        let graph = decode(&reference.definition)?.expect("not scratch");
        let place = place(&graph, graph.target().vertex);
        let directory = path.to_str().expect("files of tests have text for names");
        let directory = directory.trim_start_matches('/');
        let mut entries = BTreeMap::new();
        for (_, path) in self.files.keys().filter(|(known, _)| *known == place) {
            let Some(rest) = path.strip_prefix(directory) else {
                continue;
            };
            let (name, mode) = rest
                .split_once('/')
                .map_or((rest, 0o100_644), |(name, _)| (name, 0o040_755));
            let seconds = self.times.get(path).copied().flatten().unwrap_or_default();
            let stat = FileStat {
                path: name.into(),
                mode,
                mtime_ns: seconds * 1_000_000_000,
                ..FileStat::default()
            };
            entries.insert(name.to_owned(), stat);
        }
        Ok(entries.into_values().collect())
    }

    async fn stat_file(&self, _: &BridgeRef, _: &Path) -> Result<FileStat, SolveError> {
        panic!("no file is described");
    }

    async fn resolve_image(&self, query: ImageQuery, log_name: &str) -> Result<ResolvedImage, SolveError> {
        self.note(log_name.to_owned());
        if self.slow_images {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let image = format!("docker-image://{}", query.reference);
        let reference = match self.policies.get(&image) {
            None => query.reference.clone(),
            Some(instead) => match instead.strip_prefix("docker-image://") {
                Some(reference) => reference.to_owned(),
                None => {
                    let instead = instead.clone();
                    return Err(SolveError::NotAnImage { image, instead });
                }
            },
        };
        match self.images.get(&reference) {
            Some(config) => Ok(ResolvedImage {
                digest: Digest::sha256(reference.as_bytes()),
                reference,
                config: config.clone().into(),
            }),
            // A look-up is a step, and fails like one.
            None => Err(SolveError::Vertex(Arc::new(VertexError {
                vertex: Digest::sha256(query.reference.as_bytes()),
                name: log_name.to_owned(),
                source: WorkerError::NotFound(format!("{}: not found", query.reference)),
                places: Vec::new(),
                failed: None,
            }))),
        }
    }

    async fn source_meta(&self, source: SourceOp, log_name: &str) -> Result<SourceMeta, SolveError> {
        self.note(log_name.to_owned());
        let name = Op::Source(source.clone()).name();
        let Some(&time) = self.times.get(&name) else {
            return Err(WorkerError::NotFound(name).into());
        };
        Ok(match source {
            SourceOp::Git(_) => SourceMeta::Git(GitMeta {
                committed_at: time,
                ..GitMeta::default()
            }),
            _ => SourceMeta::Http(HttpMeta {
                checksum: Digest::sha256(name.as_bytes()),
                filename: "file".into(),
                last_modified: time,
            }),
        })
    }

    async fn host_keys(&self, source: &GitSource) -> String {
        let host = source.repository.split('/').next().unwrap_or_default();
        self.note(format!("keys of {host}"));
        if self.silent_hosts {
            String::new()
        } else {
            format!("{host} ssh-ed25519 KEY")
        }
    }

    async fn solve_frontend(self: Arc<Self>, name: &str, _: FrontendRequest) -> Result<FrontendResult, FrontendError> {
        Err(FrontendError::Option(format!("invalid frontend: {name}")))
    }

    fn warn(&self, _: Option<Digest>, warning: Warning) {
        self.note(format!("W {}", String::from_utf8_lossy(&warning.short)));
    }
}

/// What the files of a vertex are kept under: the name of a client's directory, the identifier of a repository, a URL;
/// then ` unpacked` for an archive, and the path for a directory of one of these.
fn place(graph: &Graph, index: NodeIndex) -> String {
    let vertex = graph.vertex(index);
    match &vertex.op {
        Op::Source(SourceOp::Local(local)) => local.name.clone(),
        Op::Source(_) => vertex.op.name(),
        Op::File(file) => {
            let FileActionKind::Copy(copy) = &file.actions[0].kind else {
                panic!("only copies are looked into")
            };
            let from = place(graph, vertex.inputs[0].vertex);
            if copy.attempt_unpack {
                format!("{from} unpacked")
            } else {
                format!("{from} {}", copy.src)
            }
        }
        _ => panic!("nothing is run"),
    }
}

/// Runs the frontend.
pub(crate) async fn solve(bridge: &Arc<FakeBridge>, options: &[(&str, &str)]) -> Result<FrontendResult, FrontendError> {
    let options = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let request = FrontendRequest {
        options,
        ..FrontendRequest::default()
    };
    request_of(bridge, request).await
}

/// Runs the frontend.
pub(crate) async fn request_of(
    bridge: &Arc<FakeBridge>,
    request: FrontendRequest,
) -> Result<FrontendResult, FrontendError> {
    let bridge = Arc::clone(bridge) as Arc<dyn Bridge>;
    DockerfileFrontend.solve(bridge, request).await
}

/// Runs the frontend to completion.
pub(crate) fn build(bridge: FakeBridge, options: &[(&str, &str)]) -> Result<FrontendResult, FrontendError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(solve(&Arc::new(bridge), options))
}

/// The statements that go with a result, and what makes them.
fn statements(result: &FrontendResult) -> String {
    let all = result.attestations.iter();
    let all = all.flat_map(|(platform, statements)| statements.iter().map(move |statement| (platform, statement)));
    all.map(|(platform, statement)| {
        let notes: Vec<String> = statement
            .metadata
            .iter()
            .map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value)))
            .collect();
        let source = statement.source.as_ref().expect("there is something that makes them");
        format!(
            "== {:?} {} of {platform} {}\n{}",
            statement.kind,
            statement.predicate_type,
            notes.join(" "),
            dump(&source.definition)
        )
    })
    .collect()
}

/// The graph and config of a build of one platform, or its error, as text.
pub(crate) fn render(result: &Result<FrontendResult, FrontendError>) -> String {
    match result {
        Ok(result) => {
            let graph = match &result.refs {
                FrontendRefs::Single(None) => "scratch\n".to_owned(),
                FrontendRefs::Single(Some(reference)) => dump(&reference.definition),
                FrontendRefs::Platforms(refs) => refs
                    .iter()
                    .map(|(platform, reference)| {
                        let graph = reference
                            .as_ref()
                            .map_or("scratch\n".to_owned(), |reference| dump(&reference.definition));
                        format!("== {platform}\n{graph}")
                    })
                    .collect(),
            };
            let metadata: String = result
                .metadata
                .iter()
                .map(
                    |(key, value)| match serde_json::from_slice::<serde_json::Value>(value) {
                        Ok(json) => format!("{key}: {json:#}\n"),
                        Err(_) => format!("{key}: {}\n", String::from_utf8_lossy(value)),
                    },
                )
                .collect();
            format!("{graph}{}--\n{metadata}", statements(result))
        }
        Err(FrontendError::Input {
            message,
            file,
            locations,
        }) => {
            let lines: Vec<String> = locations
                .iter()
                .map(|location| {
                    location
                        .ranges
                        .iter()
                        .map(|range| range.start_line.to_string())
                        .collect::<Vec<_>>()
                        .join(",")
                })
                .collect();
            format!("error: {message}\nat {}: {}\n", file.filename, lines.join("; "))
        }
        Err(error) => format!("error: {error}\n"),
    }
}
