//! One client's build.

mod check;
mod load;
mod step;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(super) use load::Loaded;
pub use step::Step;

use super::Engine;
use super::admit::Judged;
use super::facts::{Known, SourceFacts};
use super::imports::Imports;
use super::slots::{BuildId, Claim};
use super::vertex::{Fetches, Node};
use crate::count::Counted;
use crate::device::DeviceGrants;
use crate::llb::{Definition, VertexDigest};
use crate::policy::{Policy, SourceJudge};
use crate::progress::{Event, EventLog, VertexState};
use crate::session::SessionGroup;
use crate::usage::Usage;
use crate::worker::{Ref, WorkerError};
use crate::{Platform, SolveError, TraceContext};

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
        let loaded = if definition.size() > LARGE_DEFINITION {
            let (inner, definition) = (self.inner.clone(), definition.clone());
            self.inner.aside(move || inner.decode_and_load(&definition)).await?
        } else {
            self.inner.decode_and_load(definition)?
        };
        match loaded {
            None => Ok(None),
            Some(loaded) => self.inner.begin_caches_anew(loaded).await.map(Some),
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

    /// What goes into a vertex: in order, vertices and which of their outputs. Nothing if it was not taken in.
    pub fn inputs_of(&self, vertex: &VertexDigest) -> Vec<(VertexDigest, usize)> {
        let nodes = self.inner.nodes.read();
        let node = nodes
            .by_digest
            .get(vertex)
            .map(|&number| &nodes.in_order[number as usize]);
        let digest = |want: &Want| nodes.in_order[want.node as usize].vertex.digest;
        node.map(|node| node.inputs.iter().map(|want| (digest(want), want.output)).collect())
            .unwrap_or_default()
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

    /// What this build claims for a vertex that needs a slot.
    pub(super) fn claim(&self, node: &Node) -> Claim {
        Claim {
            build: self.id,
            limit: self.options.parallelism.unwrap_or(usize::MAX),
            urgency: node.urgency.load(Ordering::Relaxed),
        }
    }
}
