//! One client's build.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::admit::Judged;
use super::facts::{Known, SourceFacts};
use super::imports::Imports;
use super::slots::{BuildId, Claim};
use super::vertex::{Fetches, Node};
use crate::count::Counted;
use crate::device::DeviceGrants;
use crate::llb::{
    self, Definition, Edge, Graph, NetMode, NodeIndex, Op, SecurityMode, SourceFile, SourceLocation, Vertex,
    VertexDigest,
};
use crate::policy::{Policy, SourceJudge};
use crate::progress::{Event, EventLog, VertexHeader, VertexProgress, VertexState};
use crate::session::SessionGroup;
use crate::usage::Usage;
use crate::worker::{CallContext, Ref, WorkerError};
use crate::{Digest, Platform, SolveError, TraceContext, VertexError};

/// Bytes of ops from which on a definition is decoded where it may take its time.
const LARGE_DEFINITION: usize = 256 << 10;

/// Something a client may be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entitlement {
    /// Steps may use the host's network.
    NetworkHost,
    /// Steps may run unconfined.
    SecurityInsecure,
    /// Steps may use devices of the host; which, [`DeviceGrants`] says.
    Device,
}

impl Entitlement {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
        }
    }

    /// The entitlement of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::NetworkHost, Self::SecurityInsecure, Self::Device]
            .into_iter()
            .find(|entitlement| entitlement.name() == name)
    }
}

/// Most worker constraints that differ, in one definition: each is parsed and may hold regular expressions.
const MAX_CONSTRAINTS: usize = 64;

/// Most devices that the steps of one definition get in all: a few words stand for all of a kind.
const MAX_DEVICES: usize = 100_000;

/// What a build is given.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Session of the client; empty if it has none.
    pub session: String,
    /// What the client was granted.
    pub entitlements: BTreeSet<Entitlement>,
    /// Devices of the host that it was granted.
    pub devices: DeviceGrants,
    /// Most processes that run at a time for this build; `None` for as many as the engine allows.
    pub parallelism: Option<usize>,
    /// What all sources have to pass.
    pub policies: Vec<Arc<Policy>>,
    /// Who has the last word about sources.
    pub judge: Option<Arc<dyn SourceJudge>>,
    /// Whether it is to be measured what steps use of the machine.
    pub measures: bool,
    /// Where its spans belong; `None` if nobody collects them.
    pub trace: Option<TraceContext>,
}

/// An output of a vertex of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Its place in the build.
    pub(super) node: u32,
    pub(super) output: usize,
}

/// One client's build: its vertices, its tasks, and what it has told.
///
/// Dropping the last handle (or [`Build::cancel`]) stops everything that only this build wanted.
pub struct Build {
    pub(super) inner: Arc<Inner>,
}

/// What the tasks of a build hold.
pub(super) struct Inner {
    pub(super) engine: Arc<Engine>,
    pub(super) options: BuildOptions,
    pub(super) sessions: SessionGroup,
    pub(super) events: Arc<EventLog>,
    pub(super) cancel: CancellationToken,
    /// What ops without a platform run on.
    pub(super) platform: Option<Platform>,
    pub(super) imports: Imports,
    /// Results whose files are being brought here, by the place of their vertex.
    pub(super) fetches: Fetches,
    id: BuildId,
    nodes: RwLock<Nodes>,
    /// What was found out about sources.
    pub(super) known: Known,
    /// Sources that were judged, with what became of them.
    pub(super) judged: Judged,
    /// How many nested definitions were taken in.
    pub(super) definitions: Mutex<usize>,
    /// What steps that ran used of the machine.
    pub(super) usage: Mutex<HashMap<VertexDigest, Usage>>,
    /// All tasks of this build; aborted with it.
    tasks: Mutex<JoinSet<()>>,
    _counted: Counted,
}

/// The vertices of a build, by place and by digest.
#[derive(Default)]
struct Nodes {
    in_order: Vec<Arc<Node>>,
    by_digest: HashMap<VertexDigest, u32>,
}

impl Build {
    pub(super) fn new(engine: Arc<Engine>, options: BuildOptions) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(Inner {
                platform: engine.worker.info().platforms.into_iter().next(),
                id: BuildId(engine.next_build.fetch_add(1, Ordering::Relaxed)),
                _counted: engine.builds.one(),
                events: Arc::new(EventLog::new(engine.spools.clone())),
                engine,
                sessions: SessionGroup::of(&options.session),
                options,
                cancel: CancellationToken::new(),
                imports: Imports::default(),
                fetches: Fetches::default(),
                nodes: RwLock::default(),
                known: Known::default(),
                judged: Judged::default(),
                definitions: Mutex::default(),
                usage: Mutex::default(),
                tasks: Mutex::default(),
            }),
        })
    }

    /// The session of the client; empty if it has none.
    pub fn session(&self) -> &str {
        &self.inner.options.session
    }

    /// Everything the build tells.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.inner.events
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }

    /// The sessions that may be asked on this build's behalf.
    pub fn sessions(&self) -> &SessionGroup {
        &self.inner.sessions
    }

    /// Fires when the build is given up.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.cancel
    }

    /// Where its spans belong; `None` if nobody collects them.
    pub fn trace(&self) -> Option<TraceContext> {
        self.inner.options.trace
    }

    /// Builds what a definition asks for. `Ok(None)` is scratch.
    ///
    /// # Errors
    /// The definition's, or that of the first vertex that failed.
    pub async fn solve(&self, definition: &Definition) -> Result<Option<Ref>, SolveError> {
        match self.load(definition).await? {
            None => Ok(None),
            Some(want) => self.inner.result(want).await,
        }
    }

    /// Takes a definition's vertices in; `None` is scratch.
    pub(super) async fn load(&self, definition: &Definition) -> Result<Option<Want>, SolveError> {
        let admitted = self.inner.admit(definition).await?;
        let definition = admitted.as_ref().unwrap_or(definition);
        if definition.size() > LARGE_DEFINITION {
            let (inner, definition) = (self.inner.clone(), definition.clone());
            self.inner.aside(move || inner.decode_and_load(&definition)).await
        } else {
            self.inner.decode_and_load(definition)
        }
    }

    /// The same, and all files of the result are here afterwards: it can be looked into.
    ///
    /// # Errors
    /// As [`Build::solve`].
    pub async fn solve_whole(&self, definition: &Definition) -> Result<Option<Ref>, SolveError> {
        match self.load(definition).await? {
            None => Ok(None),
            Some(want) => self.inner.whole_result(want).await,
        }
    }

    /// Begins a step that is no vertex, such as an export. `key` identifies it within the build.
    pub fn step(&self, key: &str, name: &str) -> Step {
        self.inner.step(key, name)
    }

    /// What may be found out about sources; policies are not asked.
    pub fn facts(&self) -> SourceFacts {
        SourceFacts::new(self.inner.clone())
    }

    /// Gives the build up: its tasks end, and shared work that nobody else waits for is cancelled.
    pub fn cancel(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.lock().abort_all();
    }

    /// Ends the build's record: vertices still unfinished are reported as cancelled, readers of events finish.
    pub fn close(&self) {
        self.cancel();
        self.inner.events.close_with(|events| {
            let mut unfinished: BTreeMap<VertexDigest, &VertexState> = BTreeMap::new();
            for event in events {
                if let Event::Vertex(state) = event {
                    if state.started.is_some() && state.completed.is_none() {
                        unfinished.insert(state.vertex.digest, state);
                    } else {
                        unfinished.remove(&state.vertex.digest);
                    }
                }
            }
            let completed = |state: &VertexState| VertexState {
                completed: state.started.max(Some(SystemTime::now())),
                error: SolveError::Cancelled.to_string(),
                ..state.clone()
            };
            unfinished
                .into_values()
                .map(|state| Event::Vertex(completed(state)))
                .collect()
        });
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// Runs a task that belongs to this build.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        if !self.cancel.is_cancelled() {
            let counted = self.engine.tasks.one();
            // Half the size of an async block, which keeps room for the task twice.
            tasks.spawn(task.map(move |()| drop(counted)));
        }
    }

    /// Does what takes a while, in which the tasks of others would have to wait, where it may.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SolveError> + Send + 'static,
    ) -> Result<T, SolveError> {
        tokio::select! {
            done = tokio::task::spawn_blocking(work) => done.unwrap_or_else(|error| {
                Err(WorkerError::Failed(format!("internal error: loading a definition: {error}")).into())
            }),
            () = self.cancel.cancelled() => Err(SolveError::Cancelled),
        }
    }

    /// Begins a step that is no vertex.
    pub(super) fn step(&self, key: &str, name: &str) -> Step {
        let header = VertexHeader {
            digest: Digest::sha256(key.as_bytes()),
            inputs: Box::default(),
            name: name.into(),
            group: None,
        };
        let state = VertexState {
            started: Some(SystemTime::now()),
            ..VertexState::new(header)
        };
        self.events.push(Event::Vertex(state.clone()));
        Step {
            state,
            events: self.events.clone(),
            sessions: self.sessions.clone(),
            cancel: self.cancel.clone(),
        }
    }

    /// The vertex at a place.
    pub(super) fn at(&self, number: u32) -> Arc<Node> {
        self.nodes.read().in_order[number as usize].clone()
    }

    /// The place of a vertex that was taken in.
    pub(super) fn number_of(&self, vertex: &VertexDigest) -> Option<u32> {
        self.nodes.read().by_digest.get(vertex).copied()
    }

    /// All vertices, inputs before what uses them.
    pub(super) fn nodes_in_order(&self) -> Vec<Arc<Node>> {
        self.nodes.read().in_order.clone()
    }

    /// How many vertices there are.
    pub(super) fn vertex_count(&self) -> usize {
        self.nodes.read().in_order.len()
    }

    /// Checks that a graph's vertices are allowed, and that there is a worker for each; decides which devices they get.
    pub(super) fn check(&self, graph: &mut Graph) -> Result<(), SolveError> {
        self.settle_devices(graph)?;
        let mut checked: HashMap<&[String], ()> = HashMap::new();
        for index in graph.topological() {
            let vertex = graph.vertex(index);
            self.check_allowed(vertex)?;
            let filter = &vertex.constraints[..];
            if filter.is_empty() || checked.contains_key(filter) {
                continue;
            }
            if checked.len() >= MAX_CONSTRAINTS {
                let message = format!("more than {MAX_CONSTRAINTS} different worker constraints in one definition");
                return Err(WorkerError::Invalid(message).into());
            }
            if !self.engine.worker.accepts(filter)? {
                return Err(SolveError::NoWorker {
                    name: graph.name(index).to_string(),
                    filter: filter.join(", "),
                });
            }
            checked.insert(filter, ());
        }
        Ok(())
    }

    /// Has every step that asks for devices ask for those that it gets, by their full names.
    fn settle_devices(&self, graph: &mut Graph) -> Result<(), SolveError> {
        let asks = |index: &NodeIndex| match &graph.vertex(*index).op {
            Op::Exec(exec) => !exec.devices.is_empty(),
            _ => false,
        };
        let asking: Vec<NodeIndex> = graph.topological().filter(asks).collect();
        if asking.is_empty() {
            return Ok(());
        }
        let known = self.engine.worker.devices()?;
        let granted = self.options.devices.among(known.as_deref());
        let mut count = 0;
        for index in asking {
            let Op::Exec(exec) = &graph.vertex(index).op else {
                continue;
            };
            let settled = granted
                .settle(&exec.devices, &graph.name(index))
                .map_err(|error| SolveError::NotAllowed(format!("failed to load LLB: {error}")))?;
            count += settled.len();
            if count > MAX_DEVICES {
                let message = format!("the steps of one definition ask for more than {MAX_DEVICES} devices in all");
                return Err(WorkerError::Invalid(message).into());
            }
            graph.set_devices(index, settled);
        }
        Ok(())
    }

    fn check_allowed(&self, vertex: &Vertex) -> Result<(), SolveError> {
        let Op::Exec(exec) = &vertex.op else {
            return Ok(());
        };
        let needs = [
            (exec.network == NetMode::Host).then_some(Entitlement::NetworkHost),
            (exec.security == SecurityMode::Insecure).then_some(Entitlement::SecurityInsecure),
        ];
        match needs
            .into_iter()
            .flatten()
            .find(|need| !self.options.entitlements.contains(need))
        {
            None => Ok(()),
            Some(need) => Err(SolveError::NotAllowed(format!(
                "failed to load LLB: {} is not allowed",
                need.name()
            ))),
        }
    }

    /// Decodes a definition, checks that its vertices are allowed, and announces them.
    fn decode_and_load(&self, definition: &Definition) -> Result<Option<Want>, SolveError> {
        let Some(mut graph) = llb::decode(definition)? else {
            return Ok(None);
        };
        self.check(&mut graph)?;
        Ok(Some(self.load(&graph, 0, 0)))
    }

    /// Takes a graph's vertices in and announces those that are new. Returns what it asks for.
    ///
    /// `depth` is in how many nested builds the graph is, and `urgency` the length of the chain that waits for it.
    pub(super) fn load(&self, graph: &Graph, depth: u8, urgency: u32) -> Want {
        let mut nodes = self.nodes.write();
        let first = nodes.in_order.len();
        nodes.in_order.reserve(graph.len());
        nodes.by_digest.reserve(graph.len());
        let mut numbers = Vec::with_capacity(graph.len());
        for index in graph.topological() {
            let vertex = graph.vertex(index);
            let number = match nodes.by_digest.get(&vertex.digest) {
                Some(&known) => {
                    nodes.in_order[known as usize].add_metadata(&vertex.metadata, places(graph, &vertex.digest));
                    known
                }
                None => {
                    let number = u32::try_from(nodes.in_order.len()).expect("no build has as many vertices");
                    let inputs = vertex.inputs.iter().map(|edge| want(&numbers, *edge)).collect();
                    let places = places(graph, &vertex.digest);
                    let header = VertexHeader {
                        digest: vertex.digest,
                        inputs: distinct(graph, vertex),
                        name: graph.name(index),
                        group: vertex.metadata.progress_group.clone(),
                    };
                    let node = Node::new(number, vertex.clone(), header, inputs, places, depth);
                    nodes.in_order.push(Arc::new(node));
                    nodes.by_digest.insert(vertex.digest, number);
                    number
                }
            };
            numbers.push(number);
        }
        let target = want(&numbers, graph.target());
        let waiting = &nodes.in_order[target.node as usize].urgency;
        waiting.fetch_max(urgency, Ordering::Relaxed);
        // From the target down, so that the chain of what waits for a vertex is known before its inputs' turn.
        for index in graph.topological().rev() {
            let node = &nodes.in_order[numbers[index.index()] as usize];
            let below = node.urgency.load(Ordering::Relaxed).saturating_add(1);
            for input in &node.inputs {
                nodes.in_order[input.node as usize]
                    .urgency
                    .fetch_max(below, Ordering::Relaxed);
            }
        }
        // Whatever comes to be known of them comes later: nobody has their places yet.
        let nodes = RwLockWriteGuard::downgrade(nodes);
        let new = nodes.in_order[first..].iter();
        self.events.push_all(new.map(|node| Event::Vertex(node.state())));
        target
    }

    /// What this build claims for a vertex that needs a slot.
    pub(super) fn claim(&self, node: &Node) -> Claim {
        Claim {
            build: self.id,
            limit: self.options.parallelism.unwrap_or(usize::MAX),
            urgency: node.urgency.load(Ordering::Relaxed),
        }
    }
}

/// An edge of a graph as the output of a vertex of the build, given the places of the graph's vertices.
fn want(numbers: &[u32], edge: Edge) -> Want {
    Want {
        node: numbers[edge.vertex.index()],
        output: edge.output,
    }
}

/// The vertices among inputs, each once.
fn distinct(graph: &Graph, vertex: &Vertex) -> Box<[VertexDigest]> {
    let digest = |edge: &Edge| graph.vertex(edge.vertex).digest;
    let inputs = &vertex.inputs;
    // Most have so few that looking at them all is the fastest.
    if inputs.len() <= 8 {
        let is_first = |(n, edge): &(usize, &Edge)| !inputs[..*n].iter().any(|other| other.vertex == edge.vertex);
        let first = inputs.iter().enumerate().filter(is_first);
        return first.map(|(_, edge)| digest(edge)).collect();
    }
    let mut seen = HashSet::with_capacity(inputs.len());
    inputs
        .iter()
        .filter(|edge| seen.insert(edge.vertex))
        .map(digest)
        .collect()
}

fn places(graph: &Graph, vertex: &VertexDigest) -> Vec<(Arc<SourceFile>, SourceLocation)> {
    let map = graph.source_map();
    map.locations
        .get(vertex)
        .into_iter()
        .flatten()
        .filter_map(|location| Some((map.files.get(location.file)?.clone(), location.clone())))
        .collect()
}

/// A step that is no vertex.
///
/// Ends well with [`Step::finish`]; dropped before that, it is reported as cancelled.
pub struct Step {
    state: VertexState,
    events: Arc<EventLog>,
    sessions: SessionGroup,
    cancel: CancellationToken,
}

impl Step {
    /// What calls made as part of this step are given.
    pub fn context(&self) -> CallContext {
        CallContext {
            progress: VertexProgress::new(self.state.vertex.digest, self.events.clone()),
            sessions: self.sessions.clone(),
            cancel: self.cancel.clone(),
            trace: None,
        }
    }

    /// Reports how the step ended, and passes the outcome on as a vertex's.
    pub fn finish<T>(mut self, outcome: Result<T, WorkerError>) -> Result<T, SolveError> {
        self.state.completed = self.state.started.max(Some(SystemTime::now()));
        let outcome = outcome.map_err(|source| match source {
            WorkerError::Cancelled => SolveError::Cancelled,
            source => SolveError::Vertex(Arc::new(VertexError {
                vertex: self.state.vertex.digest,
                name: self.state.vertex.name.to_string(),
                source,
                places: Vec::new(),
                failed: None,
            })),
        });
        if let Err(error) = &outcome {
            self.state.error = error.to_string();
        }
        self.events.push(Event::Vertex(self.state.clone()));
        outcome
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.state.completed.is_none() {
            self.state.completed = self.state.started.max(Some(SystemTime::now()));
            self.state.error = SolveError::Cancelled.to_string();
            self.events.push(Event::Vertex(self.state.clone()));
        }
    }
}
