//! Submits builds to any daemon of this API, and follows them.

mod address;
mod client;
mod connection;
mod details;
mod error;
mod id;
mod progress;

pub use address::{Address, AddressError};
pub use client::{Client, PruneOptions};
pub use details::{ErrorDetails, LineRange, SourceLocation};
pub use error::{ClientError, DaemonError};
pub use id::Id;
pub use progress::{
    Change, Log, LogLine, LogStream, Progress, ProgressEvent, Vertex, VertexState, VertexStatus,
    Warning,
};
