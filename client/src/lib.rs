//! Submits builds to any daemon of this API, and follows them.
//!
//! A [`Client`] is a connection: to an [`Address`], over a stream, or over a channel to a daemon in the same
//! process. [`Client::solve`] runs one build as one future: it serves what the build needs from this machine
//! ([`SolveOptions`]), reports progress as [`ProgressEvent`]s, and ends with the exporters' answer ([`Solved`]) or
//! with a [`ClientError`] that carries the daemon's typed [`ErrorDetails`]. [`Progress`] turns events into the
//! state of the build, for whoever shows it.
//!
//! Nothing here prints, reads the environment or decides what to build. Everything a build offers to the daemon
//! is named in its options; nothing else of this machine can be asked for.

mod address;
mod client;
mod connection;
mod details;
mod error;
mod explain;
mod id;
mod progress;
mod shared_key;
mod solve;

pub use address::{Address, AddressError};
pub use cairn_session::filesend::{OutputTarget, ReceiveMode};
pub use cairn_session::filesync::LocalDir;
pub use cairn_session::policy::{Answer, Decide};
pub use cairn_session::secrets::SecretSource;
pub use cairn_session::upload::{HOST as UPLOAD_HOST, UploadSource};
pub use client::{Client, PruneOptions};
pub use details::{ErrorDetails, LineRange, SourceLocation};
pub use error::{ClientError, DaemonError};
pub use id::Id;
pub use progress::{
    Change, Log, LogLine, LogStream, Progress, ProgressEvent, Vertex, VertexState, VertexStatus, Warning,
};
pub use shared_key::shared_key;
pub use solve::{SolveOptions, SolveOutput, Solved};
