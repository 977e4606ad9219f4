//! Frontends and what they may ask.
//!
//! A frontend turns some language into [`Definition`]s. It reaches the rest of Cairn only through [`Bridge`], which
//! is also what frontends outside of this process are offered.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::llb::{Definition, GitSource, SourceFile, SourceLocation, SourceOp};
use crate::progress::Warning;
use crate::worker::{FileStat, ImageQuery, ResolvedImage, SourceMeta, WorkerInfo};
use crate::{Attestation, Digest, SolveError};

/// What a frontend is asked to do.
#[derive(Clone, Debug, Default)]
pub struct FrontendRequest {
    /// Options, by the keys of `wire-protocol` such as `filename` or `build-arg:NAME`.
    pub options: BTreeMap<String, String>,
    /// Definitions that stand for named inputs.
    pub inputs: BTreeMap<String, Definition>,
}

/// A lazily built result, named within one build.
#[derive(Clone, Debug, PartialEq)]
pub struct BridgeRef {
    /// Name; opaque.
    pub id: String,
    /// What it is built from.
    pub definition: Arc<Definition>,
}

/// What a frontend came to.
#[derive(Clone, Debug, Default)]
pub struct FrontendResult {
    /// The results.
    pub refs: FrontendRefs,
    /// Facts for exporters, such as `containerimage.config`.
    pub metadata: BTreeMap<String, Bytes>,
    /// Statements about the results, by platform id.
    pub attestations: BTreeMap<String, Vec<Attestation<Option<BridgeRef>>>>,
}

impl FrontendResult {
    /// All results that it names, also those that only hold statements.
    pub fn references(&self) -> impl Iterator<Item = &BridgeRef> {
        let statements = self.attestations.values().flatten();
        self.refs
            .iter()
            .chain(statements.filter_map(|statement| statement.source.as_ref()))
    }
}

/// The results of a frontend.
#[derive(Clone, Debug, PartialEq)]
pub enum FrontendRefs {
    /// One; `None` is scratch.
    Single(Option<BridgeRef>),
    /// One per platform id, such as `linux/amd64`.
    Platforms(BTreeMap<String, Option<BridgeRef>>),
}

impl FrontendRefs {
    /// All that are not scratch.
    pub fn iter(&self) -> impl Iterator<Item = &BridgeRef> {
        let (single, platforms) = match self {
            Self::Single(reference) => (reference.as_ref(), None),
            Self::Platforms(refs) => (None, Some(refs.values().flatten())),
        };
        single.into_iter().chain(platforms.into_iter().flatten())
    }
}

impl Default for FrontendRefs {
    fn default() -> Self {
        Self::Single(None)
    }
}

/// Turns a build request into results.
#[async_trait]
pub trait Frontend: Send + Sync + 'static {
    /// Carries the request out. Building happens lazily, when something needs a result.
    async fn solve(&self, bridge: Arc<dyn Bridge>, request: FrontendRequest) -> Result<FrontendResult, FrontendError>;
}

/// What a frontend may ask of the daemon.
#[async_trait]
pub trait Bridge: Send + Sync + 'static {
    /// Id of the session behind the build.
    fn session_id(&self) -> &str;

    /// The workers that could run the build; never empty.
    fn workers(&self) -> Vec<WorkerInfo>;

    /// Names the result of a definition, to be built when needed. An empty definition is scratch: `None`.
    async fn solve(&self, definition: Definition) -> Result<Option<BridgeRef>, SolveError>;

    /// Builds what will be needed, but is not yet. What goes wrong is told to whoever needs it. Goes on by itself if
    /// nobody waits for it any more.
    async fn begin(&self, definition: Definition);

    /// Builds `reference` and reads a file (or `range` = offset, length of it) from it.
    async fn read_file(
        &self,
        reference: &BridgeRef,
        path: &Path,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, SolveError>;

    /// Builds `reference` and lists a directory in it.
    async fn read_dir(
        &self,
        reference: &BridgeRef,
        path: &Path,
        include: Option<&[u8]>,
    ) -> Result<Vec<FileStat>, SolveError>;

    /// Builds `reference` and describes a file in it.
    async fn stat_file(&self, reference: &BridgeRef, path: &Path) -> Result<FileStat, SolveError>;

    /// Resolves an image reference; shown to users as a step named `log_name`.
    async fn resolve_image(&self, query: ImageQuery, log_name: &str) -> Result<ResolvedImage, SolveError>;

    /// Finds out about a git or http source what its contents do not tell; shown to users as a step named `log_name`.
    async fn source_meta(&self, source: SourceOp, log_name: &str) -> Result<SourceMeta, SolveError>;

    /// The keys that the ssh host of a git source presents, in the form of `known_hosts`; empty if it does not tell, or
    /// is not to be asked.
    async fn host_keys(&self, source: &GitSource) -> String;

    /// Has another frontend, known to the daemon as `name`, carry out a request as a part of this build.
    async fn solve_frontend(
        self: Arc<Self>,
        name: &str,
        request: FrontendRequest,
    ) -> Result<FrontendResult, FrontendError>;

    /// Tells the user about a finding; `vertex` is the step it belongs to, if it is about one.
    fn warn(&self, vertex: Option<Digest>, warning: Warning);
}

/// Why a frontend failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FrontendError {
    /// The input is wrong, at places that can be shown.
    #[error("{message}")]
    Input {
        /// What is wrong.
        message: String,
        /// The file it is in.
        file: Box<SourceFile>,
        /// Where in it; [`SourceLocation::file`] is not used.
        locations: Vec<SourceLocation>,
    },
    /// An option is wrong or not supported.
    #[error("{0}")]
    Option(String),
    /// Something asked of the bridge failed.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// Something failed on behalf of places that can be shown, unless the error shows some itself.
    #[error("{source}")]
    At {
        /// What failed.
        source: Box<Self>,
        /// The file that asked for it.
        file: Box<SourceFile>,
        /// Where in it; [`SourceLocation::file`] is not used.
        locations: Vec<SourceLocation>,
    },
    /// Something failed that was part of something else.
    #[error("{what}: {source}")]
    For {
        /// What cannot be done because of it.
        what: String,
        /// What failed.
        source: Box<Self>,
    },
    /// A frontend that was called by its name failed.
    #[error("{source}")]
    Called {
        /// Its name.
        name: String,
        /// The image it is in; empty if it is built in.
        image: String,
        /// How it failed.
        source: Box<Self>,
    },
    /// A frontend lacks a capability that the request needs.
    #[error("unsupported frontend capability {0}")]
    Capability(String),
    /// Something else than a build is asked for, and it is not known.
    #[error("unsupported request {0}")]
    Subrequest(String),
    /// A frontend outside of this process reports a failure, in its own words.
    #[error("{}", .0.message)]
    External(ExternalError),
}

/// The failure of something outside of this process, passed on as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalError {
    /// What went wrong.
    pub message: String,
    /// What kind of failure it is, by the numbers of gRPC.
    pub code: i32,
    /// More about it, by type.
    pub details: Vec<(String, Bytes)>,
}
