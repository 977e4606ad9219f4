//! Content stores of the client: blobs by digest, in directories that it offers by name.
//!
//! The service is containerd's. [`remote`] is the daemon's half, [`layout`] the client's, for the directories of
//! OCI layouts.

mod layout;
mod receive;
mod remote;
mod write;

pub use layout::{LayoutDir, serve};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use receive::answer_writes;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use remote::take_piece;
pub use remote::{BlobStream, RemoteContent};
pub use write::BlobWriter;

/// Says in a call's metadata which store is meant.
const STORE: &str = "buildkit-attachable-store-id";

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const ABORT: &str = "/containerd.services.content.v1.Content/Abort";

/// The store that takes an image that is not to be a tar.
pub const EXPORT_STORE: &str = "export";

/// The name under which the OCI layout `id` is offered.
#[must_use]
pub fn layout_store(id: &str) -> String {
    format!("oci:{id}")
}

/// The name under which a directory with a local cache is offered.
#[must_use]
pub fn cache_store(dir: &str) -> String {
    format!("local:{dir}")
}
