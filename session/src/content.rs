//! Content stores of the client: blobs by digest, in directories that it offers by name.
//!
//! The service is containerd's. [`remote`] is the daemon's half, [`layout`] the client's, for the directories of
//! OCI layouts, which it only reads.

mod layout;
mod remote;

pub use layout::{LayoutDir, serve};
pub use remote::{BlobStream, RemoteContent};

/// Says in a call's metadata which store is meant.
const STORE: &str = "buildkit-attachable-store-id";

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";

/// The name under which the OCI layout `id` is offered.
#[must_use]
pub fn layout_store(id: &str) -> String {
    format!("oci:{id}")
}
