//! The solver: the graph of a build, cache keys, and the engine that runs what is not known yet.
//!
//! It knows no container, no file system and no network: it is handed a [`Worker`] and a cache index, and can be
//! tested whole with a worker of a few lines.
//!
//! | module | what |
//! |---|---|
//! | [`llb`] | the graph: decoding (which is validating), encoding, building |
//! | [`engine`] | builds: identify, look up, execute |
//! | [`cache_key`], [`index`] | what results depend on, and where they are remembered |
//! | [`imported`] | results that were made elsewhere |
//! | [`flight`] | running the same work once for everyone |
//! | [`policy`] | what sources a build may use, and in place of which |
//! | [`worker`] | what is asked of workers |
//! | [`frontend`] | what frontends are, and what they may ask |
//! | [`attestation`] | statements that go with results |
//! | [`progress`] | what clients are told |
//! | [`session`] | which clients may be asked for private things |
//! | [`usage`] | what steps use of the machine |
//! | [`TraceContext`] | places in traces, for what steps tell themselves |

pub mod attestation;
pub mod cache_key;
mod count;
pub mod device;
mod digest;
pub mod engine;
mod error;
pub mod flight;
pub mod frontend;
pub mod imported;
pub mod index;
pub mod llb;
mod platform;
pub mod policy;
pub mod progress;
mod reference;
pub mod session;
mod trace_context;
pub mod usage;
pub mod worker;

pub use attestation::{Attestation, AttestationKind, AttestationSource, AttestationSubject, PredicateSource};
pub use device::{Device, DeviceError, DeviceGrants};
pub use digest::{Digest, DigestError};
pub use engine::{Build, BuildBridge, BuildOptions, Counters, Engine, EngineOptions, Entitlement, Frontends};
pub use error::{FailedStep, SolveError, VertexError};
pub use frontend::{
    Bridge, BridgeRef, ExternalError, Frontend, FrontendError, FrontendRefs, FrontendRequest, FrontendResult,
};
pub use platform::{Platform, PlatformError};
pub use policy::{Policy, PolicyError, RawSource, SourceJudge};
pub use reference::{Reference, ReferenceError};
pub use session::SessionGroup;
pub use trace_context::TraceContext;
pub use worker::{Ref, ResultId, Worker, WorkerError};
