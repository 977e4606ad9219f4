//! The daemon: the build API on sockets, or inside another program.
//!
//! Calls are translated, handed on, and their outcomes translated back; what is decided is decided below, in the
//! solver and the worker.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the configuration file and what it means |
//! | [`DaemonServer`] | a daemon on its sockets |
//! | [`embedded`] | a daemon inside another program |
//! | `control`, `gateway`, `services` | the services |
//! | `solve`, `jobs` | one build, and all of them |
//! | `history` | builds that have ended |
//! | `traces` | what took how long in them |
//! | `provenance` | statements about how results were made |
//! | `sbom` | bills of materials of what frontends made without |
//! | `accept`, `limits`, `trailers` | how many connections there are, how much a call may ask for, and how much an error says |
//! | `content` | blobs, to read |
//! | [`telemetry`] | logs and traces |
//! | [`systemd`] | sockets opened in advance, and word of the daemon's state |
//! | `convert`, `failure` | what the wire has other types for |

mod accept;
mod caches;
mod client_exporters;
pub mod config;
mod content;
mod control;
mod convert;
mod daemon;
pub mod embedded;
mod entitlements;
mod explain;
mod failure;
mod frontends;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod history;
mod jobs;
mod limits;
mod policy;
mod provenance;
mod registries;
mod result_platforms;
mod sbom;
mod server;
mod services;
mod solve;
mod spool;
pub mod systemd;
pub mod telemetry;
mod traces;
mod trailers;
mod unix_socket;

pub use daemon::StartError;
pub use server::DaemonServer;
