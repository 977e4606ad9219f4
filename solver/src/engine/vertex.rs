//! The life of one vertex in one build.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Shared;
use super::build::{Inner, Want};
use crate::cache_key::{self, CacheKey, Dependency, InputPart, Preimage};
use crate::index::Outputs;
use crate::llb::{Op, OpMetadata, SourceFile, SourceLocation, SourceOp, Vertex, VertexDigest};
use crate::progress::{Event, EventLog, VertexProgress, VertexState};
use crate::worker::{CallContext, ContentSelector, Execution, Ref, ResolvedSource, WorkerError};
use crate::{Digest, SolveError, VertexError};

type Outcome<T> = watch::Sender<Option<Result<T, SolveError>>>;

/// What a vertex was identified as.
#[derive(Clone)]
pub(super) struct Identity {
    key: CacheKey,
    preimage: Arc<Preimage>,
    /// Whether it must be run again even if its result is known.
    fresh: bool,
    /// For sources: what it stands for.
    resolved: Option<ResolvedSource>,
}

/// What a vertex was made into.
#[derive(Clone)]
struct Made {
    /// The key of the results. It differs from the one the vertex was identified by when an input had to be made
    /// again and came out otherwise than it was remembered.
    key: CacheKey,
    /// One per output.
    results: Arc<[Option<Ref>]>,
}

/// One output of a vertex that was made.
struct MadeOutput {
    key: CacheKey,
    output: usize,
    result: Option<Ref>,
}

impl MadeOutput {
    fn identity_part(&self) -> InputPart {
        InputPart::Identity {
            key: self.key.to_string(),
            output: self.output,
        }
    }
}

/// A vertex of a build.
pub(super) struct Node {
    vertex: Arc<Vertex>,
    inputs: Vec<Want>,
    ignore_cache: AtomicBool,
    places: Mutex<Vec<(SourceFile, SourceLocation)>>,
    state: Mutex<VertexState>,
    identity: Outcome<Identity>,
    results: Outcome<Made>,
    identity_wanted: AtomicBool,
    results_wanted: AtomicBool,
}

impl Node {
    pub(super) fn new(vertex: Arc<Vertex>, inputs: Vec<Want>, places: Vec<(SourceFile, SourceLocation)>) -> Self {
        let mut input_digests: Vec<VertexDigest> = inputs.iter().map(|want| want.vertex).collect();
        let mut seen = BTreeSet::new();
        input_digests.retain(|digest| seen.insert(*digest));
        Self {
            state: Mutex::new(VertexState {
                digest: vertex.digest,
                inputs: input_digests,
                name: vertex.name(),
                cached: false,
                started: None,
                completed: None,
                error: String::new(),
                group: vertex.metadata.progress_group.clone(),
            }),
            ignore_cache: AtomicBool::new(vertex.metadata.ignore_cache),
            places: Mutex::new(places),
            vertex,
            inputs,
            identity: watch::Sender::new(None),
            results: watch::Sender::new(None),
            identity_wanted: AtomicBool::new(false),
            results_wanted: AtomicBool::new(false),
        }
    }

    /// Takes note of what a second definition with the same vertex says about it.
    pub(super) fn add_metadata(&self, metadata: &OpMetadata, places: Vec<(SourceFile, SourceLocation)>) {
        self.ignore_cache.fetch_or(metadata.ignore_cache, Ordering::Relaxed);
        let mut known = self.places.lock();
        for place in places {
            if !known.contains(&place) {
                known.push(place);
            }
        }
    }

    pub(super) fn state(&self) -> VertexState {
        self.state.lock().clone()
    }

    /// Whether nothing has been done to make its results. A source that was only resolved counts, but not a
    /// directory: it was received then.
    fn is_unneeded(&self) -> bool {
        let state = self.state.lock();
        let is_image = matches!(self.vertex.op, Op::Source(SourceOp::Image(_)));
        !state.cached
            && state.error.is_empty()
            && (state.started.is_none() || (is_image && state.completed.is_some()))
            && !self.results_wanted.load(Ordering::Acquire)
    }

    /// Whether it is a client's directory: all its work, and all there is to tell, is done when it is identified.
    fn is_directory(&self) -> bool {
        matches!(self.vertex.op, Op::Source(SourceOp::Local(_)))
    }

    fn error(&self, source: WorkerError) -> SolveError {
        match source {
            WorkerError::Cancelled => SolveError::Cancelled,
            source => SolveError::Vertex(Arc::new(VertexError {
                vertex: self.vertex.digest,
                name: self.vertex.name(),
                source,
                places: self.places.lock().clone(),
            })),
        }
    }
}

/// Waits for an outcome that some task will set.
async fn await_outcome<T: Clone>(outcome: &Outcome<T>) -> Result<T, SolveError> {
    let mut receiver = outcome.subscribe();
    let value = receiver
        .wait_for(Option::is_some)
        .await
        .map_err(|_| SolveError::Cancelled)?;
    value.clone().unwrap_or(Err(SolveError::Cancelled))
}

impl Inner {
    /// One output of a vertex, made if it must be.
    pub(super) async fn result(self: &Arc<Self>, want: Want) -> Result<Option<Ref>, SolveError> {
        Ok(self.made(want).await?.result)
    }

    async fn made(self: &Arc<Self>, want: Want) -> Result<MadeOutput, SolveError> {
        let node = self.node(&want.vertex)?;
        self.start_materialise(&node);
        let made = tokio::select! {
            made = await_outcome(&node.results) => made?,
            () = self.cancel.cancelled() => return Err(SolveError::Cancelled),
        };
        let result = made.results.get(want.output).cloned().ok_or_else(|| {
            node.error(WorkerError::Failed(format!(
                "the worker gave no output {}",
                want.output
            )))
        })?;
        Ok(MadeOutput {
            key: made.key,
            output: want.output,
            result,
        })
    }

    async fn identity(self: &Arc<Self>, node: &Arc<Node>) -> Result<Identity, SolveError> {
        self.start_identify(node);
        tokio::select! {
            identity = await_outcome(&node.identity) => identity,
            () = self.cancel.cancelled() => Err(SolveError::Cancelled),
        }
    }

    fn start_materialise(self: &Arc<Self>, node: &Arc<Node>) {
        if !node.results_wanted.swap(true, Ordering::AcqRel) {
            let (inner, node) = (self.clone(), node.clone());
            self.spawn(async move {
                let outcome = inner.guard(&node, inner.materialise(&node)).await;
                node.results.send_replace(Some(outcome));
            });
        }
    }

    fn start_identify(self: &Arc<Self>, node: &Arc<Node>) {
        if !node.identity_wanted.swap(true, Ordering::AcqRel) {
            let (inner, node) = (self.clone(), node.clone());
            self.spawn(async move {
                let outcome = inner.guard(&node, inner.identify(&node)).await;
                node.identity.send_replace(Some(outcome));
            });
        }
    }

    /// Makes an error of a panic, so that nobody waits for an outcome that will not come.
    async fn guard<T>(&self, node: &Node, work: impl Future<Output = Result<T, SolveError>>) -> Result<T, SolveError> {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
            let error = node.error(WorkerError::Failed("internal error: the solver panicked".to_owned()));
            self.report_failed(node, &error);
            Err(error)
        })
    }

    async fn identify(self: &Arc<Self>, node: &Arc<Node>) -> Result<Identity, SolveError> {
        if let Op::Source(source) = &node.vertex.op {
            return self.identify_source(node, source).await;
        }
        let dependencies = cache_key::dependencies(&node.vertex);
        // Each by itself from end to end: an input that has to be made for its content must not wait for the others.
        let inputs = node.inputs.iter().zip(&dependencies);
        let inputs = try_join_all(inputs.map(async |(want, dependency)| {
            let input = self.node(&want.vertex)?;
            let identity = self.identity(&input).await?;
            let part = match dependency {
                Dependency::Identity => InputPart::Identity {
                    key: identity.key.to_string(),
                    output: want.output,
                },
                Dependency::Content(selectors) => self.content_part(node, *want, &identity, selectors).await?,
            };
            Ok::<_, SolveError>((part, identity.fresh && *dependency == Dependency::Identity))
        }))
        .await?;
        let depends_on_fresh = inputs.iter().any(|(_, is_fresh)| *is_fresh);
        let parts = inputs.into_iter().map(|(part, _)| part).collect();
        let preimage = self.preimage(&node.vertex, parts);
        Ok(Identity {
            key: preimage.key(),
            preimage: Arc::new(preimage),
            fresh: depends_on_fresh || node.ignore_cache.load(Ordering::Relaxed),
            resolved: None,
        })
    }

    fn preimage(&self, vertex: &Vertex, parts: Vec<InputPart>) -> Preimage {
        let platform = vertex.platform.as_ref().or(self.platform.as_ref());
        cache_key::op_preimage(vertex, platform, parts)
    }

    async fn identify_source(self: &Arc<Self>, node: &Arc<Node>, source: &SourceOp) -> Result<Identity, SolveError> {
        // A directory of "the" session is another one for every client.
        let scope = match source {
            SourceOp::Local(local) if local.session.is_none() => self.options.session.clone(),
            _ => String::new(),
        };
        self.report_started(node);
        let engine = &self.engine;
        let (ticket, _) = engine.resolving.join(
            (node.vertex.digest, scope),
            || self.shared(),
            |shared, cancel| {
                let (worker, vertex) = (engine.worker.clone(), node.vertex.clone());
                async move {
                    let Op::Source(source) = &vertex.op else {
                        return Err(WorkerError::Invalid("only sources are resolved".to_owned()));
                    };
                    let context = shared.context(vertex.digest, cancel);
                    let outcome = worker.resolve_source(source, vertex.platform.as_ref(), &context).await;
                    shared.events.close();
                    outcome
                }
            },
        );
        let resolved = self.follow(node, ticket.shared(), ticket.wait()).await;
        self.report_completed(node, resolved.as_ref().err());
        let resolved = resolved?;
        let preimage = cache_key::source_preimage(&resolved);
        Ok(Identity {
            key: preimage.key(),
            preimage: Arc::new(preimage),
            fresh: node.ignore_cache.load(Ordering::Relaxed),
            resolved: Some(resolved),
        })
    }

    /// What an input that is depended on by content contributes, before it is known to be needed itself.
    async fn content_part(
        self: &Arc<Self>,
        node: &Arc<Node>,
        want: Want,
        identity: &Identity,
        selectors: &[ContentSelector],
    ) -> Result<InputPart, SolveError> {
        if !identity.fresh
            && let Some(digests) = self.remembered_contents(want, identity, selectors)
        {
            return Ok(InputPart::Content(digests));
        }
        let input = self.made(want).await?;
        self.made_content_part(node, &input, selectors).await
    }

    /// The content digests of the recorded result of an input, if all are remembered.
    fn remembered_contents(
        &self,
        want: Want,
        identity: &Identity,
        selectors: &[ContentSelector],
    ) -> Option<Vec<String>> {
        let recorded = recorded(&self.engine, &identity.key)?;
        let result = recorded.get(want.output)?;
        selectors
            .iter()
            .map(|selector| {
                let key = cache_key::content_key(&identity.key, want.output, result.as_ref(), selector);
                remembered_content(&self.engine, &key).map(|digest| digest.to_string())
            })
            .collect()
    }

    /// What an input that was made contributes, when depended on by content.
    async fn made_content_part(
        &self,
        node: &Arc<Node>,
        input: &MadeOutput,
        selectors: &[ContentSelector],
    ) -> Result<InputPart, SolveError> {
        let digests = selectors
            .iter()
            .map(|selector| self.content_digest(node, input, selector));
        let digests = try_join_all(digests).await?;
        Ok(InputPart::Content(digests.iter().map(ToString::to_string).collect()))
    }

    async fn content_digest(
        &self,
        node: &Arc<Node>,
        input: &MadeOutput,
        selector: &ContentSelector,
    ) -> Result<Digest, SolveError> {
        let engine = &self.engine;
        let id = input.result.as_ref().map(Ref::id);
        let key = cache_key::content_key(&input.key, input.output, id, selector);
        if let Some(known) = remembered_content(engine, &key) {
            return Ok(known);
        }
        let (ticket, _) = engine.digesting.join(
            key,
            || self.shared(),
            |shared, cancel| {
                let (worker, index) = (engine.worker.clone(), engine.index.clone());
                let (selector, vertex, input) = (selector.clone(), node.vertex.digest, input.result.clone());
                async move {
                    let context = shared.context(vertex, cancel);
                    let outcome = worker.digest(input.as_ref(), &selector, &context).await;
                    shared.events.close();
                    if let Ok(digest) = &outcome
                        && let Err(error) = index.record_content(&key, digest)
                    {
                        tracing::warn!(%error, "a content digest is not remembered");
                    }
                    outcome
                }
            },
        );
        let outcome = self.follow(node, ticket.shared(), ticket.wait()).await;
        if let Err(error) = &outcome {
            // The step that reads the missing path is the one to show, though it never ran.
            self.report_failed(node, error);
        }
        outcome
    }

    async fn materialise(self: &Arc<Self>, node: &Arc<Node>) -> Result<Made, SolveError> {
        let identity = self.identity(node).await?;
        if let Op::Passthrough { outputs, .. } = &node.vertex.op {
            return self.pass_through(node, outputs).await;
        }
        if let Some(known) = self.lookup(node, &identity).await? {
            return Ok(known);
        }
        if let Some(result) = identity.resolved.as_ref().and_then(|resolved| resolved.result.clone()) {
            let results = vec![Some(result)];
            record(&self.engine, &identity, &results);
            return Ok(Made {
                key: identity.key,
                results: results.into(),
            });
        }
        let inputs = try_join_all(node.inputs.iter().map(|want| self.made(*want))).await?;
        let confirmed = self.confirm(node, &identity, &inputs).await?;
        if confirmed.key != identity.key
            && let Some(known) = self.lookup(node, &confirmed).await?
        {
            return Ok(known);
        }
        let inputs = inputs.into_iter().map(|input| input.result).collect();
        let results = if node.is_directory() {
            self.execute(node, &confirmed, inputs).await?
        } else {
            self.report_started(node);
            let outcome = self.execute(node, &confirmed, inputs).await;
            self.report_completed(node, outcome.as_ref().err());
            outcome?
        };
        Ok(Made {
            key: confirmed.key,
            results: results.into(),
        })
    }

    /// Makes what a passthrough hands on, and nothing else of its inputs.
    async fn pass_through(self: &Arc<Self>, node: &Arc<Node>, outputs: &[usize]) -> Result<Made, SolveError> {
        let made = try_join_all(node.inputs.iter().enumerate().map(async |(position, want)| {
            if outputs.contains(&position) {
                return self.made(*want).await;
            }
            let input = self.node(&want.vertex)?;
            Ok(MadeOutput {
                key: self.identity(&input).await?.key,
                output: want.output,
                result: None,
            })
        }))
        .await?;
        let parts = made.iter().map(MadeOutput::identity_part).collect();
        Ok(Made {
            key: self.preimage(&node.vertex, parts).key(),
            results: outputs.iter().map(|&input| made[input].result.clone()).collect(),
        })
    }

    /// Identifies a vertex again, now by what its inputs were really made into.
    ///
    /// Without this, an input that is gone, and comes out differently when it is made again, would be used under a
    /// key that promises the content it had: others who rightly look for that content would find the wrong result.
    async fn confirm(
        &self,
        node: &Arc<Node>,
        identity: &Identity,
        inputs: &[MadeOutput],
    ) -> Result<Identity, SolveError> {
        if inputs.is_empty() {
            return Ok(identity.clone());
        }
        let dependencies = cache_key::dependencies(&node.vertex);
        let parts = try_join_all(
            inputs
                .iter()
                .zip(&dependencies)
                .map(async |(input, dependency)| match dependency {
                    Dependency::Identity => Ok(input.identity_part()),
                    Dependency::Content(selectors) => self.made_content_part(node, input, selectors).await,
                }),
        )
        .await?;
        let preimage = self.preimage(&node.vertex, parts);
        Ok(Identity {
            key: preimage.key(),
            preimage: Arc::new(preimage),
            ..identity.clone()
        })
    }

    /// The recorded results of a vertex, if they may be used and are all still there; reported as a hit.
    async fn lookup(&self, node: &Arc<Node>, identity: &Identity) -> Result<Option<Made>, SolveError> {
        if identity.fresh {
            return Ok(None);
        }
        let found = lookup(&self.engine, &identity.key).await.map_err(|error| {
            let error = node.error(error);
            self.report_failed(node, &error);
            error
        })?;
        if found.is_some() && !node.is_directory() {
            self.report_cached(node);
        }
        Ok(found.map(|results| Made {
            key: identity.key,
            results: results.into(),
        }))
    }

    async fn execute(
        self: &Arc<Self>,
        node: &Arc<Node>,
        identity: &Identity,
        inputs: Vec<Option<Ref>>,
    ) -> Result<Vec<Option<Ref>>, SolveError> {
        let engine = &self.engine;
        let (ticket, _) = engine.executing.join(
            // Whoever wants it run anew does not join those who might find it recorded.
            (identity.key, identity.fresh),
            || self.shared(),
            |shared, cancel| {
                let (engine, vertex, identity) = (engine.clone(), node.vertex.clone(), identity.clone());
                async move {
                    let outcome = run(&engine, vertex, &identity, inputs, &shared, cancel).await;
                    shared.events.close();
                    outcome
                }
            },
        );
        self.follow(node, ticket.shared(), ticket.wait()).await
    }

    /// Waits for shared work, passing on what it tells as news about `node`.
    async fn follow<T>(
        &self,
        node: &Node,
        shared: &Shared,
        outcome: impl Future<Output = Result<Result<T, WorkerError>, crate::flight::Lost>>,
    ) -> Result<T, SolveError> {
        shared.sessions.join(&self.sessions);
        let mut reader = shared.events.reader();
        let mut outcome = std::pin::pin!(outcome);
        let outcome = loop {
            tokio::select! {
                biased;
                Some(events) = reader.next() => self.pass_on(node, events),
                outcome = &mut outcome => break outcome,
            }
        };
        self.pass_on(node, reader.drain());
        match outcome {
            Ok(outcome) => outcome.map_err(|error| node.error(error)),
            Err(lost) => Err(node.error(WorkerError::Failed(format!("internal error: {lost}")))),
        }
    }

    fn pass_on(&self, node: &Node, events: Vec<Event>) {
        let digest = node.vertex.digest;
        for event in events {
            self.events.push(match event {
                Event::Status(_, status) => Event::Status(digest, status),
                Event::Log(_, log) => Event::Log(digest, log),
                Event::Warning(_, warning) => Event::Warning(digest, warning),
                Event::Vertex(state) => Event::Vertex(state),
            });
        }
    }

    fn shared(&self) -> Shared {
        let sessions = crate::SessionGroup::default();
        sessions.join(&self.sessions);
        Shared {
            events: Arc::new(EventLog::default()),
            sessions,
        }
    }

    fn report_started(&self, node: &Node) {
        let mut state = node.state.lock();
        state.started = Some(SystemTime::now());
        state.completed = None;
        state.cached = false;
        self.events.push(Event::Vertex(state.clone()));
    }

    fn report_completed(&self, node: &Node, error: Option<&SolveError>) {
        let mut state = node.state.lock();
        state.completed = state.started.max(Some(SystemTime::now()));
        state.error = error.map(ToString::to_string).unwrap_or_default();
        self.events.push(Event::Vertex(state.clone()));
    }

    /// Reports a failure of a vertex that may not have been started.
    fn report_failed(&self, node: &Node, error: &SolveError) {
        let now = SystemTime::now();
        let mut state = node.state.lock();
        if state.started.is_none() || state.completed.is_some() {
            state.started = Some(now);
            state.cached = false;
        }
        state.completed = state.started.max(Some(now));
        state.error = error.to_string();
        self.events.push(Event::Vertex(state.clone()));
    }

    /// Reports a hit, and everything below it that has not been worked on: nothing of it is needed.
    fn report_cached(&self, node: &Arc<Node>) {
        self.mark_cached(node);
        let mut pending: Vec<VertexDigest> = node.inputs.iter().map(|want| want.vertex).collect();
        while let Some(digest) = pending.pop() {
            let Ok(node) = self.node(&digest) else { continue };
            if node.is_unneeded() {
                self.mark_cached(&node);
                pending.extend(node.inputs.iter().map(|want| want.vertex));
            }
        }
    }

    fn mark_cached(&self, node: &Node) {
        let now = SystemTime::now();
        let mut state = node.state.lock();
        if state.cached {
            return;
        }
        state.cached = true;
        state.started = Some(now);
        state.completed = Some(now);
        self.events.push(Event::Vertex(state.clone()));
    }
}

impl Shared {
    fn context(&self, vertex: VertexDigest, cancel: tokio_util::sync::CancellationToken) -> CallContext {
        CallContext {
            progress: VertexProgress::new(vertex, self.events.clone()),
            sessions: self.sessions.clone(),
            cancel,
        }
    }
}

/// What is recorded under a key. An index that cannot be read is as good as an empty one: results can be made again.
fn recorded(engine: &super::Engine, key: &CacheKey) -> Option<Outputs> {
    engine.index.results(key).unwrap_or_else(|error| {
        tracing::warn!(%error, %key, "a recorded result cannot be read");
        None
    })
}

/// A remembered content digest; see [`recorded`] for an index that cannot be read.
fn remembered_content(engine: &super::Engine, key: &CacheKey) -> Option<Digest> {
    engine.index.content(key).unwrap_or_else(|error| {
        tracing::warn!(%error, %key, "a content digest cannot be read");
        None
    })
}

/// The recorded results under a key, if they are all still there.
async fn lookup(engine: &super::Engine, key: &CacheKey) -> Result<Option<Vec<Option<Ref>>>, WorkerError> {
    let Some(recorded) = recorded(engine, key) else {
        return Ok(None);
    };
    let mut results = Vec::with_capacity(recorded.len());
    for id in &recorded {
        match id {
            None => results.push(None),
            Some(id) => match engine.worker.open(id).await? {
                Some(found) => results.push(Some(found)),
                None => {
                    forget(engine, key, &recorded);
                    return Ok(None);
                }
            },
        }
    }
    Ok(Some(results))
}

/// Takes a record whose results are gone out of the index, unless somebody has replaced it meanwhile.
fn forget(engine: &super::Engine, key: &CacheKey, gone: &Outputs) {
    if self::recorded(engine, key).as_ref() == Some(gone)
        && let Err(error) = engine.index.forget(key)
    {
        tracing::warn!(%error, %key, "a result that is gone is still in the index");
    }
}

/// Executes a vertex and records its results. Runs once for all who want it.
async fn run(
    engine: &super::Engine,
    vertex: Arc<Vertex>,
    identity: &Identity,
    inputs: Vec<Option<Ref>>,
    shared: &Shared,
    cancel: tokio_util::sync::CancellationToken,
) -> Result<Vec<Option<Ref>>, WorkerError> {
    // Somebody may have finished the same work between our look at the index and now.
    if !identity.fresh
        && let Some(known) = lookup(engine, &identity.key).await?
    {
        return Ok(known);
    }
    let context = shared.context(vertex.digest, cancel);
    let want = vertex.output_count();
    let execution = Execution {
        vertex,
        resolved: identity.resolved.clone(),
        inputs,
    };
    let results = engine.worker.execute(execution, &context).await?;
    if results.len() != want {
        return Err(WorkerError::Failed(format!(
            "the worker gave {} results for {want} outputs",
            results.len()
        )));
    }
    record(engine, identity, &results);
    Ok(results)
}

/// Records results. They are good even if they cannot be remembered.
fn record(engine: &super::Engine, identity: &Identity, results: &[Option<Ref>]) {
    let outputs: Outputs = results
        .iter()
        .map(|result| result.as_ref().map(|result| result.id().clone()))
        .collect();
    if let Err(error) = engine.index.record_results(&identity.key, &identity.preimage, &outputs) {
        tracing::warn!(%error, key = %identity.key, "a result is not remembered");
    }
}
