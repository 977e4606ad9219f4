//! System calls, spoken of in purposes. The only module where `unsafe` is allowed.
//!
//! - [`root`]: [`root::Root`], a directory nobody is trusted in; every path into an image, a snapshot or a client's
//!   tree goes through it, never through a path string handed to the kernel directly.
//! - [`abi`]: which foreign programs the kernel runs.
//! - [`at`]: the same operations on *one name in an open directory*, for code that walks trees.
//! - [`metadata`]: what `statx` says.
//! - [`overlay`]: many layer directories as one file system.
//! - [`mounts`]: mounts that end with their guard, and those a killed daemon left.
//! - [`netlink`]: what is asked of the kernel about network interfaces.
//! - [`netns`]: network namespaces without a process in them.
//! - [`inherited`]: descriptors that the program was started with.
//! - [`process`]: signals and waiting without process id races.

#![allow(unsafe_code, reason = "this module is where the workspace keeps its system calls")]

pub mod abi;
pub mod at;
pub mod inherited;
pub mod memory;
pub mod metadata;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod overlay;
pub mod process;
pub mod root;

pub use metadata::{FileKind, Metadata, Time};
pub use root::Root;

/// Whether a test that needs root can run; says so when it cannot.
#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn is_root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}
