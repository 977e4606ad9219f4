//! A worker in memory that does what a test tells it, and a small way to write graphs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Barrier;

use crate::engine::{Build, BuildOptions, Engine};
use crate::index::MemoryIndex;
use crate::llb::{
    Builder, ContentCache, Definition, ExecOp, GitSource, ImageSource, LocalSource, Mount, MountKind, Op, OpMetadata,
    Output, SourceOp, VertexDigest,
};
use crate::progress::{Event, VertexState};
use crate::usage::Usage;
use crate::worker::{
    CallContext, Comparison, ContentSelector, Execution, FileStat, ImageQuery, Ref, ResolvedImage, ResolvedSource,
    ResultId, SourceMeta, Worker, WorkerError, WorkerInfo,
};
use crate::{Device, Digest, Platform, SolveError};

type Hook = Arc<dyn Fn(CallContext) -> BoxFuture<'static, Result<String, WorkerError>> + Send + Sync>;

/// Results are texts. What an op makes is a hash of its name and of what its inputs are, unless a test says otherwise.
#[derive(Default)]
pub(in crate::engine) struct Script {
    hooks: Mutex<HashMap<String, Hook>>,
    pins: Mutex<HashMap<String, String>>,
    parts: Mutex<HashMap<String, BTreeMap<String, String>>>,
    /// What comparing results comes to.
    pub(in crate::engine) comparison: Mutex<Option<Comparison>>,
    missing_paths: Mutex<Vec<String>>,
    /// Devices that there are.
    pub(super) devices: Mutex<Option<Arc<[Device]>>>,
    files: Mutex<HashMap<String, Bytes>>,
    /// Whether resolving a source makes its result, as receiving a directory does.
    pub(super) makes_on_resolve: AtomicBool,
    store: Mutex<HashMap<ResultId, String>>,
    runs: Mutex<BTreeMap<String, usize>>,
    runs_by_vertex: Mutex<HashMap<VertexDigest, usize>>,
    made: AtomicUsize,
    pub(super) digests: AtomicUsize,
    pub(super) opens: AtomicUsize,
    /// Results whose files are elsewhere.
    elsewhere: Mutex<HashSet<ResultId>>,
    /// Whether files that are elsewhere cannot be had.
    pub(super) is_cut_off: AtomicBool,
    pub(super) fetches: AtomicUsize,
}

/// What an op makes by default.
pub(super) fn value(name: &str, inputs: &[String]) -> String {
    match name.split_once("const ") {
        Some((_, constant)) => constant.to_owned(),
        None => hex::encode(&blake3::hash(format!("{name} {inputs:?}").as_bytes()).as_bytes()[..8]),
    }
}

impl Script {
    /// Runs `hook` in place of what the op of that name does.
    pub(in crate::engine) fn on<F>(&self, name: &str, hook: impl Fn(CallContext) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<String, WorkerError>> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |context| Box::pin(hook(context)));
        self.hooks.lock().insert(name.to_owned(), hook);
    }

    /// Has ops wait for each other: none of these ends before all of them run.
    pub(in crate::engine) fn meet(&self, names: &[&str]) {
        let all = Arc::new(Barrier::new(names.len()));
        for name in names {
            let all = all.clone();
            self.on(name, move |_| {
                let all = all.clone();
                async move {
                    all.wait().await;
                    Ok(String::new())
                }
            });
        }
    }

    pub(in crate::engine) fn off(&self, name: &str) {
        self.hooks.lock().remove(name);
    }

    /// Lets a source resolve to something else.
    pub(in crate::engine) fn pin(&self, name: &str, pin: &str) {
        self.pins.lock().insert(name.to_owned(), pin.to_owned());
    }

    /// Lets a source say more about what it resolved to.
    pub(in crate::engine) fn part(&self, name: &str, part: &str, value: &str) {
        let mut parts = self.parts.lock();
        let parts = parts.entry(name.to_owned()).or_default();
        parts.insert(part.to_owned(), value.to_owned());
    }

    pub(super) fn lose_path(&self, path: &str) {
        self.missing_paths.lock().push(path.to_owned());
    }

    /// Lets the file of results that are `value` hold something else.
    pub(super) fn file(&self, value: &str, bytes: impl Into<Bytes>) {
        self.files.lock().insert(value.to_owned(), bytes.into());
    }

    pub(super) fn runs(&self, name: &str) -> usize {
        self.runs.lock().get(name).copied().unwrap_or_default()
    }

    pub(super) fn total_runs(&self) -> usize {
        self.runs.lock().values().sum()
    }

    pub(super) fn max_runs_of_a_vertex(&self) -> usize {
        self.runs_by_vertex.lock().values().copied().max().unwrap_or_default()
    }

    pub(super) fn forget_runs(&self) {
        self.runs.lock().clear();
        self.runs_by_vertex.lock().clear();
    }

    /// Drops results, as pruning does.
    pub(in crate::engine) fn prune(&self, mut lost: impl FnMut(&str) -> bool) {
        self.store.lock().retain(|_, value| !lost(value));
    }

    pub(super) fn read(&self, result: Option<&Ref>) -> String {
        result.map_or_else(String::new, |result| self.store.lock()[result.id()].clone())
    }

    /// Makes a result known whose files are elsewhere.
    pub(super) fn put_elsewhere(&self, value: String) -> Ref {
        let result = self.put(value);
        self.elsewhere.lock().insert(result.id().clone());
        result
    }

    fn put(&self, value: String) -> Ref {
        let id = ResultId::new(format!("r{}", self.made.fetch_add(1, Ordering::SeqCst)));
        self.store.lock().insert(id.clone(), value);
        Ref::new(id, Arc::new(()))
    }
}

#[async_trait]
impl Worker for Script {
    fn info(&self) -> WorkerInfo {
        WorkerInfo {
            id: "script".to_owned(),
            platforms: vec![Platform::new("linux", "amd64", "")],
            ..WorkerInfo::default()
        }
    }

    fn devices(&self) -> Result<Option<Arc<[Device]>>, WorkerError> {
        Ok(self.devices.lock().clone())
    }

    fn accepts(&self, filter: &[String]) -> Result<bool, WorkerError> {
        Ok(filter.iter().any(|filter| filter == "id==script"))
    }

    async fn resolve_source(
        &self,
        source: &SourceOp,
        _: Option<&Platform>,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let name = Op::Source(source.clone()).name();
        let hook = self.hooks.lock().get(&format!("resolve {name}")).cloned();
        let pin = match hook {
            Some(hook) => hook(context.clone()).await?,
            None => self.pins.lock().get(&name).cloned().unwrap_or_else(|| name.clone()),
        };
        let is_made = self.makes_on_resolve.load(Ordering::SeqCst);
        Ok(ResolvedSource {
            result: is_made.then(|| self.put(pin.clone())),
            pin,
            parts: self.parts.lock().get(&name).cloned().unwrap_or_default(),
        })
    }

    async fn execute(&self, execution: Execution, context: &CallContext) -> Result<Vec<Option<Ref>>, WorkerError> {
        let name = execution.vertex.name();
        *self.runs.lock().entry(name.clone()).or_default() += 1;
        *self.runs_by_vertex.lock().entry(execution.vertex.digest).or_default() += 1;
        if let Some(meter) = &execution.meter {
            meter.note(Usage::default());
        }
        let hook = self.hooks.lock().get(&name).cloned();
        let made = match (hook, execution.resolved) {
            (Some(hook), _) => hook(context.clone()).await?,
            (None, Some(resolved)) => resolved.pin,
            (None, None) => {
                let inputs: Vec<String> = execution.inputs.iter().map(|input| self.read(input.as_ref())).collect();
                value(&name, &inputs)
            }
        };
        let outputs = execution.vertex.output_count();
        Ok((0..outputs).map(|_| Some(self.put(made.clone()))).collect())
    }

    async fn digest(
        &self,
        input: Option<&Ref>,
        selector: &ContentSelector,
        _: &CallContext,
    ) -> Result<Digest, WorkerError> {
        self.digests.fetch_add(1, Ordering::SeqCst);
        if self.missing_paths.lock().contains(&selector.path) {
            return Err(WorkerError::NotFound(format!("{:?}: not found", selector.path)));
        }
        Ok(Digest::sha256(self.read(input).as_bytes()))
    }

    async fn open(&self, id: &ResultId) -> Result<Option<Ref>, WorkerError> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        let known = self.store.lock().contains_key(id);
        Ok(known.then(|| Ref::new(id.clone(), Arc::new(()))))
    }

    fn is_remote(&self, result: &Ref) -> Result<bool, WorkerError> {
        Ok(self.elsewhere.lock().contains(result.id()))
    }

    async fn fetch(&self, result: &Ref, _: &CallContext) -> Result<(), WorkerError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        if self.is_cut_off.load(Ordering::SeqCst) {
            return Err(WorkerError::Failed("nobody answers".to_owned()));
        }
        self.elsewhere.lock().remove(result.id());
        Ok(())
    }

    async fn compare(
        &self,
        _: Option<&ResultId>,
        _: Option<&ResultId>,
        _: &ContentSelector,
        _: usize,
    ) -> Result<Option<Comparison>, WorkerError> {
        Ok(self.comparison.lock().clone())
    }

    async fn resolve_image(&self, query: &ImageQuery, _: &CallContext) -> Result<ResolvedImage, WorkerError> {
        Ok(ResolvedImage {
            reference: query.reference.clone(),
            digest: Digest::sha256(query.reference.as_bytes()),
            config: Bytes::from_static(b"{}"),
        })
    }

    async fn source_meta(&self, source: &SourceOp, _: &CallContext) -> Result<SourceMeta, WorkerError> {
        Err(WorkerError::Unsupported(format!("{source:?} has no metadata")))
    }

    async fn host_keys(&self, source: &GitSource) -> String {
        format!("keys of {}", source.repository)
    }

    async fn read_file(&self, input: Option<&Ref>, _: &Path, _: Option<(u64, u64)>) -> Result<Bytes, WorkerError> {
        let value = self.read(input);
        let file = self.files.lock().get(&value).cloned();
        Ok(file.unwrap_or_else(|| value.into()))
    }

    async fn read_dir(&self, _: Option<&Ref>, _: &Path, _: Option<&[u8]>) -> Result<Vec<FileStat>, WorkerError> {
        Ok(Vec::new())
    }

    async fn stat_file(&self, _: Option<&Ref>, path: &Path) -> Result<FileStat, WorkerError> {
        Err(WorkerError::NotFound(path.display().to_string()))
    }
}

/// How an op of a test depends on an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum By {
    Identity,
    Content,
}

/// Writes graphs.
#[derive(Default)]
pub(in crate::engine) struct Write(pub(in crate::engine) Builder);

impl Write {
    pub(in crate::engine) fn image(&mut self, name: &str) -> Output {
        let image = ImageSource {
            reference: name.to_owned(),
            ..ImageSource::default()
        };
        self.0.source(SourceOp::Image(image), None, OpMetadata::default())
    }

    pub(in crate::engine) fn directory(&mut self, name: &str) -> Output {
        let local = LocalSource {
            name: name.to_owned(),
            ..LocalSource::default()
        };
        self.0.source(SourceOp::Local(local), None, OpMetadata::default())
    }

    pub(super) fn run(&mut self, name: &str, inputs: &[(Output, By)]) -> Output {
        self.run_with(name, inputs, OpMetadata::default())
    }

    pub(super) fn run_fresh(&mut self, name: &str, inputs: &[(Output, By)]) -> Output {
        let metadata = OpMetadata {
            ignore_cache: true,
            ..OpMetadata::default()
        };
        self.run_with(name, inputs, metadata)
    }

    pub(in crate::engine) fn run_with(&mut self, name: &str, inputs: &[(Output, By)], metadata: OpMetadata) -> Output {
        let mount = |dest: String, input: Option<usize>, by: By, output: Option<usize>| Mount {
            dest,
            input,
            selector: String::new(),
            readonly: by == By::Content,
            output,
            kind: MountKind::Bind,
            content_cache: match by {
                By::Content => ContentCache::Default,
                By::Identity => ContentCache::Off,
            },
        };
        let mut mounts = vec![mount("/".to_owned(), None, By::Identity, Some(0))];
        mounts.extend(
            inputs
                .iter()
                .enumerate()
                .map(|(n, (_, by))| mount(format!("/in{n}"), Some(n), *by, None)),
        );
        let exec = ExecOp {
            args: vec![name.to_owned()],
            cwd: "/".to_owned(),
            mounts,
            ..ExecOp::default()
        };
        let inputs: Vec<Output> = inputs.iter().map(|(input, _)| *input).collect();
        self.0.exec(exec, &inputs, None, metadata)
    }

    pub(in crate::engine) fn finish(&self, target: Output) -> Definition {
        self.0.finish(target)
    }
}

/// An engine on a scripted worker and an empty index.
pub(in crate::engine) fn engine() -> (Arc<Engine>, Arc<Script>) {
    let script = Arc::<Script>::default();
    (Engine::new(script.clone(), Arc::<MemoryIndex>::default()), script)
}

/// A build in a session of its own.
pub(super) fn build(engine: &Arc<Engine>, session: &str) -> Arc<Build> {
    engine.build(BuildOptions {
        session: session.to_owned(),
        ..BuildOptions::default()
    })
}

/// Builds in a new build and returns what the result holds, with the build.
pub(super) async fn solve(
    engine: &Arc<Engine>,
    script: &Script,
    definition: &Definition,
) -> (Result<String, SolveError>, Arc<Build>) {
    let build = build(engine, "");
    let outcome = soon(build.solve(definition)).await;
    (outcome.map(|result| script.read(result.as_ref())), build)
}

/// Fails the test in place of hanging.
pub(in crate::engine) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future)
        .await
        .expect("it hangs")
}

/// Lets other tasks run until something is so.
pub(super) async fn until(mut is_so: impl FnMut() -> bool) {
    soon(async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The last state of each vertex, by name.
pub(super) fn states(build: &Build) -> BTreeMap<String, VertexState> {
    let mut states = BTreeMap::new();
    for event in build.events().snapshot() {
        if let Event::Vertex(state) = event {
            states.insert(state.vertex.name.to_string(), state);
        }
    }
    states
}

/// The output of a vertex's process.
pub(super) fn logs(build: &Build, vertex: VertexDigest) -> String {
    let mut text = Vec::new();
    for event in build.events().snapshot() {
        if let Event::Log(of, log) = event
            && of == vertex
        {
            text.extend_from_slice(&log.data);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
