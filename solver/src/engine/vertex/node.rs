//! What a build keeps about a vertex.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache_key::{CacheKey, InputPart, Preimage};
use crate::engine::build::Want;
use crate::index::{InputEvidence, Removal};
use crate::llb::{Op, OpMetadata, SourceFile, SourceLocation, SourceOp, Vertex, VertexDigest};
use crate::progress::VertexState;
use crate::worker::{Ref, ResolvedSource, WorkerError};
use crate::{SolveError, VertexError};

/// What some task will set, for all who wait for it.
pub(super) type Outcome<T> = watch::Sender<Option<Result<T, SolveError>>>;

/// What a vertex was identified as.
#[derive(Clone)]
pub(in crate::engine) struct Identity {
    pub(in crate::engine) key: CacheKey,
    pub(super) preimage: Arc<Preimage>,
    /// What each input was when this was found out.
    pub(super) inputs: Arc<[InputEvidence]>,
    /// Whether it must be run again even if its result is known.
    pub(in crate::engine) fresh: bool,
    /// For sources: what it stands for.
    pub(super) resolved: Option<ResolvedSource>,
}

/// What a vertex was made into.
#[derive(Clone)]
pub(super) struct Made {
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
    pub(super) fn identity_part(&self) -> InputPart {
        InputPart::Identity {
            key: self.key.to_string(),
            output: self.output,
        }
    }
}

/// What came of the question whether a vertex has to run.
#[derive(Clone)]
pub(in crate::engine) enum Decision {
    /// Its result was known, or is a directory that was received.
    Found(CacheKey),
    /// It runs, as this; a result that was known once may have been removed.
    Runs(Identity, Option<Removal>),
}

/// A vertex of a build.
pub(in crate::engine) struct Node {
    /// Position in the order of loading: after all of its inputs.
    pub(in crate::engine) order: usize,
    pub(in crate::engine) vertex: Arc<Vertex>,
    pub(in crate::engine) inputs: Vec<Want>,
    pub(in crate::engine) ignore_cache: AtomicBool,
    /// The last one; `None` before there is any.
    pub(in crate::engine) decision: Mutex<Option<Decision>>,
    places: Mutex<Vec<(SourceFile, SourceLocation)>>,
    pub(super) state: Mutex<VertexState>,
    pub(super) identity: Outcome<Identity>,
    pub(super) results: Outcome<Made>,
    pub(super) identity_wanted: AtomicBool,
    pub(super) results_wanted: AtomicBool,
}

impl Node {
    pub(in crate::engine) fn new(
        order: usize,
        vertex: Arc<Vertex>,
        name: String,
        inputs: Vec<Want>,
        places: Vec<(SourceFile, SourceLocation)>,
    ) -> Self {
        let mut input_digests: Vec<VertexDigest> = inputs.iter().map(|want| want.vertex).collect();
        let mut seen = BTreeSet::new();
        input_digests.retain(|digest| seen.insert(*digest));
        Self {
            order,
            state: Mutex::new(VertexState {
                digest: vertex.digest,
                inputs: input_digests,
                name,
                cached: false,
                started: None,
                completed: None,
                error: String::new(),
                group: vertex.metadata.progress_group.clone(),
            }),
            ignore_cache: AtomicBool::new(vertex.metadata.ignore_cache),
            decision: Mutex::default(),
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
    pub(in crate::engine) fn add_metadata(&self, metadata: &OpMetadata, places: Vec<(SourceFile, SourceLocation)>) {
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
    pub(super) fn with_places<T>(&self, look: impl FnOnce(&[(SourceFile, SourceLocation)]) -> T) -> T {
        look(&self.places.lock())
    }

    /// Whether nothing has been done to make its results. A source that was only resolved counts, but not a
    /// directory: it was received then.
    pub(super) fn is_unneeded(&self) -> bool {
        let state = self.state.lock();
        let is_image = matches!(self.vertex.op, Op::Source(SourceOp::Image(_)));
        !state.cached
            && state.error.is_empty()
            && (state.started.is_none() || (is_image && state.completed.is_some()))
            && !self.results_wanted.load(Ordering::Acquire)
    }

    /// Whether it is a client's directory: all its work, and all there is to tell, is done when it is identified.
    pub(in crate::engine) fn is_directory(&self) -> bool {
        matches!(self.vertex.op, Op::Source(SourceOp::Local(_)))
    }

    pub(super) fn error(&self, source: WorkerError) -> SolveError {
        match source {
            WorkerError::Cancelled => SolveError::Cancelled,
            source => SolveError::Vertex(Arc::new(VertexError {
                vertex: self.vertex.digest,
                name: self.state.lock().name.clone(),
                source,
                places: self.places.lock().clone(),
            })),
        }
    }
}
