//! Running processes in containers.
//!
//! - [`user`]: who a process runs as, looked up in the root file system.

pub mod user;
