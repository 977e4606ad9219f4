//! Submits builds to any daemon of this API, and follows them.

mod address;
mod client;
mod connection;
mod details;
mod error;
mod id;
mod progress;
mod shared_key;
mod solve;

pub use address::{Address, AddressError};
pub use cairn_session::filesend::{OutputTarget, ReceiveMode};
pub use cairn_session::filesync::LocalDir;
pub use cairn_session::secrets::SecretSource;
pub use client::{Client, PruneOptions};
pub use details::{ErrorDetails, LineRange, SourceLocation};
pub use error::{ClientError, DaemonError};
pub use id::Id;
pub use progress::{
    Change, Log, LogLine, LogStream, Progress, ProgressEvent, Vertex, VertexState, VertexStatus, Warning,
};
pub use shared_key::shared_key;
pub use solve::{SolveOptions, SolveOutput, Solved};
