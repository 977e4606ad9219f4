//! Build output that goes to the client: the daemon sends a stream of bytes or a tree of files, the client
//! writes it.
//!
//! Both kinds are the same gRPC method. Which one a call is follows from the exporter that it names, and so
//! does the type of the messages in it.

mod disk;
mod pieces;
mod service;
mod target;
mod to_client;

pub use disk::{DiskError, DiskSink, ReceiveMode};
pub use service::{OutputTarget, serve};
pub use target::{OpenStream, OutputStream};
pub use to_client::{ExportTarget, FileOutcome, FileStream, send_tree};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
const METADATA_PREFIX: &str = "exporter-md-";
