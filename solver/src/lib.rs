//! The solver: the graph of a build, cache keys, and the engine that runs what is not known yet.
//!
//! It knows no container, no file system and no network: it is handed a [`Worker`] and a cache index, and can be
//! tested whole with a worker of a few lines.
//!
//! | module | what |
//! |---|---|
//! | [`llb`] | the graph: decoding (which is validating), encoding, building |
//! | [`worker`] | what is asked of workers |
//! | [`frontend`] | what frontends are, and what they may ask |
//! | [`progress`] | what clients are told |
//! | [`session`] | which clients may be asked for private things |

mod digest;
mod error;
pub mod frontend;
pub mod llb;
mod platform;
pub mod progress;
pub mod session;
pub mod worker;

pub use digest::{Digest, DigestError};
pub use error::{SolveError, VertexError};
pub use frontend::{Bridge, BridgeRef, Frontend, FrontendError, FrontendRefs, FrontendRequest, FrontendResult};
pub use platform::{Platform, PlatformError};
pub use session::SessionGroup;
pub use worker::{Ref, ResultId, Worker, WorkerError};
