//! What a build keeps about a vertex.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::flow::User;
use crate::cache_key::{self, CacheKey, Dependency, InputPart, Preimage};
use crate::engine::build::Want;
use crate::index::{Known, Removal};
use crate::llb::{Op, OpMetadata, SourceFile, SourceLocation, SourceOp, Vertex};
use crate::progress::{VertexHeader, VertexState};
use crate::worker::{ContentSelector, FailedState, Ref, ResolvedSource, WorkerError};
use crate::{FailedStep, SolveError, VertexError};

/// What some task will set, for all who wait for it.
pub(in crate::engine) type Outcome<T> = SetOnce<Result<T, SolveError>>;

/// What a vertex was identified as: no more of it than is needed for as many vertices as there are.
#[derive(Clone)]
pub(super) struct Identified {
    pub(super) key: CacheKey,
    /// Whether it must be run again even if its result is known.
    pub(super) fresh: bool,
    /// For sources: what it stands for.
    pub(super) resolved: Option<Arc<ResolvedSource>>,
    /// What its key is made of; kept only where results may be taken over from elsewhere.
    pub(super) preimage: Option<Arc<Preimage>>,
}

/// How far finding out what it is has come.
#[derive(Default)]
pub(super) struct Identifying {
    pub(super) is_wanted: bool,
    /// How it depends on each input; only while they come in, since few do at a time.
    pub(super) dependencies: Option<Vec<Dependency>>,
    /// What each input contributes, from the first on, and how many of them are missing.
    pub(super) parts: Vec<Option<InputPart>>,
    pub(super) missing: usize,
    /// Whether an input that counts as a whole has to run again.
    pub(super) is_fresh: bool,
    /// What waits for it.
    pub(super) users: Vec<User>,
}

/// What a vertex is that is about to run or be recorded.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) key: CacheKey,
    /// What its key is made of, and what each input was when this was found out.
    pub(super) known: Arc<Known>,
    /// Whether it must be run again even if its result is known.
    pub(super) fresh: bool,
    /// For sources: what it stands for.
    pub(super) resolved: Option<Arc<ResolvedSource>>,
}

/// What a vertex was made into.
#[derive(Clone)]
pub(in crate::engine) struct Made {
    /// The key of the results. It differs from the one the vertex was identified by when an input had to be made
    /// again and came out otherwise than it was remembered.
    pub(super) key: CacheKey,
    /// One per output.
    pub(super) results: Arc<[Option<Ref>]>,
}

/// One output of a vertex that was made.
pub(super) struct MadeOutput {
    pub(super) key: CacheKey,
    pub(super) output: usize,
    pub(super) result: Option<Ref>,
}

impl MadeOutput {
    /// Whether it is the same result, known by the same key.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.result.as_ref().map(Ref::id) == other.result.as_ref().map(Ref::id)
    }

    /// The key under which the digest of what is selected in it is remembered.
    pub(super) fn content_key(&self, selector: &ContentSelector) -> CacheKey {
        let result = self.result.as_ref().map(Ref::id);
        cache_key::content_key(&self.key, self.output, result, selector)
    }

    pub(super) fn identity_part(&self) -> InputPart {
        InputPart::Identity {
            key: self.key,
            output: self.output,
        }
    }
}

/// What came of the question whether a vertex has to run.
#[derive(Clone)]
pub(in crate::engine) enum Decision {
    /// Its result was known, or is a directory that was received.
    Found(CacheKey),
    /// It runs.
    Runs {
        /// As this.
        key: CacheKey,
        /// Whether it does so even if its result is known.
        fresh: bool,
        /// What became of a result that was known once.
        removed: Option<Removal>,
        /// What went into the key, until it has run well.
        unfinished: Option<Arc<Known>>,
    },
}

/// What is kept about a vertex whose results are wanted; of a build that is known, that is only the last.
#[derive(Default)]
struct Making {
    decision: Mutex<Option<Decision>>,
    results: Outcome<Made>,
}

/// A vertex of a build.
pub(in crate::engine) struct Node {
    /// Its place among the vertices of the build: after all of its inputs.
    pub(in crate::engine) number: u32,
    /// Length of the chain of vertices that wait for this one.
    pub(in crate::engine) urgency: AtomicU32,
    pub(in crate::engine) vertex: Arc<Vertex>,
    pub(in crate::engine) inputs: Box<[Want]>,
    /// What a nested build asks for, once that is known.
    pub(in crate::engine) nested: OnceLock<Box<Want>>,
    /// In how many nested builds it is.
    pub(in crate::engine) depth: u8,
    pub(in crate::engine) ignore_cache: AtomicBool,
    places: Mutex<Vec<(Arc<SourceFile>, SourceLocation)>>,
    pub(super) state: Mutex<VertexState>,
    pub(super) identifying: Mutex<Identifying>,
    pub(super) identity: Outcome<Identified>,
    pub(super) results_wanted: AtomicBool,
    making: OnceLock<Box<Making>>,
}

impl Node {
    pub(in crate::engine) fn new(
        number: u32,
        vertex: Arc<Vertex>,
        header: VertexHeader,
        inputs: Box<[Want]>,
        places: Vec<(Arc<SourceFile>, SourceLocation)>,
        depth: u8,
    ) -> Self {
        Self {
            number,
            nested: OnceLock::new(),
            depth,
            urgency: AtomicU32::new(0),
            state: Mutex::new(VertexState::new(header)),
            ignore_cache: AtomicBool::new(vertex.metadata.ignore_cache),
            places: Mutex::new(places),
            vertex,
            inputs,
            identifying: Mutex::default(),
            identity: Outcome::new(),
            results_wanted: AtomicBool::new(false),
            making: OnceLock::new(),
        }
    }

    fn making(&self) -> &Making {
        self.making.get_or_init(Box::default)
    }

    /// Its results, for whoever wants them.
    pub(super) fn results(&self) -> &Outcome<Made> {
        &self.making().results
    }

    /// Whether its results are there, or cannot be had.
    pub(super) fn made(&self) -> Option<&Result<Made, SolveError>> {
        self.making.get()?.results.get()
    }

    /// What was decided last, if anything was.
    pub(in crate::engine) fn decision(&self) -> Option<Decision> {
        self.making.get()?.decision.lock().clone()
    }

    /// Takes note of what was decided.
    pub(super) fn decide(&self, decision: Decision) {
        *self.making().decision.lock() = Some(decision);
    }

    /// Takes note of that it has run well.
    pub(super) fn finish(&self) {
        if let Some(Decision::Runs { unfinished, .. }) = &mut *self.making().decision.lock() {
            *unfinished = None;
        }
    }

    /// Takes note of what a second definition with the same vertex says about it.
    pub(in crate::engine) fn add_metadata(
        &self,
        metadata: &OpMetadata,
        places: Vec<(Arc<SourceFile>, SourceLocation)>,
    ) {
        self.ignore_cache.fetch_or(metadata.ignore_cache, Ordering::Relaxed);
        let mut known = self.places.lock();
        for place in places {
            if !known.contains(&place) {
                known.push(place);
            }
        }
    }

    pub(in crate::engine) fn state(&self) -> VertexState {
        self.state.lock().clone()
    }

    /// Looks at where it was made from.
    pub(super) fn with_places<T>(&self, look: impl FnOnce(&[(Arc<SourceFile>, SourceLocation)]) -> T) -> T {
        look(&self.places.lock())
    }

    /// Whether nothing has been done to make its results. A source that was only resolved counts, and a nested build
    /// that was only loaded, but not a directory: it was received then.
    pub(super) fn is_unneeded(&self) -> bool {
        let state = self.state.lock();
        let is_looked_at = matches!(
            self.vertex.op,
            Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)) | Op::Build(_)
        );
        !state.cached
            && state.error.is_empty()
            && (state.started.is_none() || (is_looked_at && state.completed.is_some()))
            && !self.results_wanted.load(Ordering::Acquire)
    }

    /// Whether it is a client's directory: all its work, and all there is to tell, is done when it is identified.
    pub(in crate::engine) fn is_directory(&self) -> bool {
        matches!(self.vertex.op, Op::Source(SourceOp::Local(_)))
    }

    pub(super) fn error(&self, source: WorkerError) -> SolveError {
        match source {
            WorkerError::Cancelled => SolveError::Cancelled,
            WorkerError::Step { source, state } => self.error_in(*source, Some(state)),
            source => self.error_in(source, None),
        }
    }

    /// An error that tells of the step and of what there was, if that can be looked into.
    pub(super) fn error_in(&self, source: WorkerError, state: Option<Arc<FailedState>>) -> SolveError {
        let vertex = &self.vertex;
        SolveError::Vertex(Arc::new(VertexError {
            vertex: vertex.digest,
            name: self.state.lock().vertex.name.to_string(),
            source,
            places: self.places.lock().clone(),
            failed: Some(FailedStep {
                vertex: vertex.clone(),
                state,
            }),
        }))
    }
}
