//! The engine: finds what is known, runs the rest.
//!
//! A [`Build`] is one client's request. It turns definitions into vertices and asks each, on demand, for two things:
//!
//! - its *key* (identify, inputs first): what its result depends on;
//! - its *results* (materialise, outputs first): looked up by key, else its inputs are asked for, all at once, and it
//!   is executed.
//!
//! Each of the two is one task per vertex, started when first wanted, its outcome kept in a watch channel that any
//! number of others await. So there is no recursion, however deep the graph, and independent vertices run at the same
//! time. Builds share work only through [`crate::flight::Flight`], by cache key.
//!
//! # Ignoring the cache
//! A vertex told to ignore the cache runs again and its result replaces the recorded one. Its key stays the same, so
//! that later builds find the new result. Everything that depends on it *by identity* is run again too and recorded
//! anew; what depends on it by content alone is looked up as usual, by the content of the new result.
//!
//! # Results that are gone
//! Workers may drop results at any time. A vertex whose recorded result is gone is made again when somebody needs it,
//! and may come out differently than it was. So a vertex is identified a second time before it is executed, by what its
//! inputs were really made into, and recorded under that key: a key never promises content that was not there.

mod admit;
mod bridge;
mod build;
mod capture;
mod explain;
mod export;
mod facts;
mod imports;
mod slots;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;
mod vertex;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use bridge::{BuildBridge, Frontends};
pub use build::{Build, BuildOptions, Entitlement, Step};
pub use capture::CapturedVertex;
pub use explain::{Cause, Detail, ExplainError, Explanation, Link};
pub use facts::SourceFacts;
use parking_lot::Mutex;
pub use sweep::{SweepError, Swept};
pub use trace::{FrontendCall, ResolvedName, Trace};

use self::slots::{SlotRequest, Slots};
use crate::cache_key::CacheKey;
use crate::count::Counter;
use crate::flight::Flight;
use crate::index::{CacheIndex, Removal};
use crate::llb::VertexDigest;
use crate::progress::{EventLog, Spools};
use crate::session::SessionGroup;
use crate::usage::Meter;
use crate::worker::{Ref, ResolvedSource, Worker, WorkerError};
use crate::{Digest, TraceContext};

/// What builds that wait for the same work share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// What the work has told so far.
    pub(crate) events: Arc<EventLog>,
    /// Everyone's sessions.
    pub(crate) sessions: SessionGroup,
    /// For what takes a slot: everyone's claims to it.
    slot: Option<Arc<SlotRequest>>,
    /// What it uses of the machine, if whoever began it wants to know.
    meter: Option<Arc<Meter>>,
    /// Where its spans belong: into the trace of whoever began it.
    trace: Option<TraceContext>,
}

/// The results of an execution, one per output.
type Executed = Result<Vec<Option<Ref>>, WorkerError>;

/// What an engine is given.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Most processes that run at a time, at least one; no limit by default. Other vertices take no slot: what bounds
    /// them is the worker's.
    pub parallelism: usize,
    /// Where logs are kept that are too much for memory; `None` to clip them.
    pub spools: Option<Arc<dyn Spools>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            parallelism: usize::MAX,
            spools: None,
        }
    }
}

/// What is alive in an engine. All are zero when no build is left and nothing cleans up any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Builds.
    pub builds: usize,
    /// Tasks of builds.
    pub tasks: usize,
    /// Pieces of work that builds share.
    pub works: usize,
    /// Tasks of such work, also of work that was given up and still cleans up.
    pub work_tasks: usize,
    /// Interests of builds in such work.
    pub tickets: usize,
    /// Slots taken.
    pub slots: usize,
    /// Work that may take a slot and has not got one.
    pub slot_requests: usize,
}

/// Runs builds on a worker, with an index of what is known.
pub struct Engine {
    worker: Arc<dyn Worker>,
    index: Arc<dyn CacheIndex>,
    /// Sources being resolved; the text tells sessions apart where that matters.
    resolving: Flight<(VertexDigest, String), Shared, Result<ResolvedSource, WorkerError>>,
    /// Vertices being executed, and whether that is to be so even if they are recorded.
    executing: Flight<(CacheKey, bool), Shared, Executed>,
    /// Contents being digested.
    digesting: Flight<CacheKey, Shared, Result<Digest, WorkerError>>,
    slots: Slots,
    spools: Option<Arc<dyn Spools>>,
    /// Builds that are not entirely gone, and their tasks.
    builds: Counter,
    tasks: Counter,
    next_build: AtomicU64,
    /// When and how results were removed last.
    last_removal: Mutex<Option<Removal>>,
}

impl Engine {
    /// An engine that runs everything on `worker` and remembers results in `index`.
    pub fn new(worker: Arc<dyn Worker>, index: Arc<dyn CacheIndex>) -> Arc<Self> {
        Self::with_options(worker, index, EngineOptions::default())
    }

    /// The same with limits.
    pub fn with_options(worker: Arc<dyn Worker>, index: Arc<dyn CacheIndex>, options: EngineOptions) -> Arc<Self> {
        Arc::new(Self {
            worker,
            index,
            resolving: Flight::default(),
            executing: Flight::default(),
            digesting: Flight::default(),
            slots: Slots::new(options.parallelism),
            spools: options.spools,
            builds: Counter::default(),
            tasks: Counter::default(),
            next_build: AtomicU64::new(0),
            last_removal: Mutex::default(),
        })
    }

    /// The worker.
    pub fn worker(&self) -> &Arc<dyn Worker> {
        &self.worker
    }

    /// The index.
    pub fn index(&self) -> &Arc<dyn CacheIndex> {
        &self.index
    }

    /// Begins a build.
    pub fn build(self: &Arc<Self>, options: BuildOptions) -> Arc<Build> {
        Build::new(self.clone(), options)
    }

    /// Waits until nothing runs any more, not even the clean-up after work that was given up.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn finished(&self) {
        tokio::join!(
            self.resolving.landed(),
            self.executing.landed(),
            self.digesting.landed()
        );
    }

    /// What is alive.
    pub fn counters(&self) -> Counters {
        let (slots, slot_requests) = self.slots.count();
        let (resolving, executing, digesting) = (&self.resolving, &self.executing, &self.digesting);
        Counters {
            builds: self.builds.get(),
            tasks: self.tasks.get(),
            works: resolving.len() + executing.len() + digesting.len(),
            work_tasks: resolving.tasks() + executing.tasks() + digesting.tasks(),
            tickets: resolving.tickets() + executing.tickets() + digesting.tickets(),
            slots,
            slot_requests,
        }
    }

    /// Whether any vertex is being worked on.
    pub fn is_idle(&self) -> bool {
        self.resolving.is_empty() && self.executing.is_empty() && self.digesting.is_empty()
    }
}
