//! Why a build, or something asked of it, failed.

use std::sync::Arc;

use crate::llb::{DecodeError, SourceFile, SourceLocation, Vertex, VertexDigest};
use crate::policy::PolicyError;
use crate::worker::{FailedState, WorkerError};

/// Why a build failed. Cheap to clone, since everyone who waits for a vertex gets its error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SolveError {
    /// The definition is malformed.
    #[error("failed to load LLB: {0}")]
    Definition(#[from] DecodeError),
    /// A step failed.
    #[error(transparent)]
    Vertex(Arc<VertexError>),
    /// The build was given up.
    #[error("context canceled")]
    Cancelled,
    /// Something outside of any step failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// An op needs something that the client did not grant or the daemon does not allow.
    #[error("{0}")]
    NotAllowed(String),
    /// An op is for a worker that there is not.
    #[error("no worker matches the constraint {filter:?} of {name:?}")]
    NoWorker {
        /// Display name of the op.
        name: String,
        /// What the worker would have to be.
        filter: String,
    },
    /// A source of a definition may not be used.
    #[error("failed to load LLB: error evaluating the source policy: {0}")]
    Policy(PolicyError),
    /// A source may not be asked about.
    #[error("could not resolve image due to policy: {0}")]
    ResolvePolicy(PolicyError),
    /// Policies put something else in the place of an image.
    #[error("ref mutated by policy to non-image: {image} -> {instead}")]
    NotAnImage {
        /// The image as it was asked for, with its scheme.
        image: String,
        /// What it became.
        instead: String,
    },
    /// A reference names nothing.
    #[error("{0}")]
    NotFound(String),
}

/// A step's failure, and where the step comes from.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{source}")]
pub struct VertexError {
    /// The step.
    pub vertex: VertexDigest,
    /// Its display name.
    pub name: String,
    /// What went wrong.
    pub source: WorkerError,
    /// The files and places it was made from.
    pub places: Vec<(Arc<SourceFile>, SourceLocation)>,
    /// The step itself; none if it is no vertex of a definition.
    pub failed: Option<FailedStep>,
}

/// A failed step.
#[derive(Debug, Clone)]
pub struct FailedStep {
    /// What was to be done.
    pub vertex: Arc<Vertex>,
    /// What there was, if that can be looked into; kept for as long as this lives.
    pub state: Option<Arc<FailedState>>,
}
