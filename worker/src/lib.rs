//! Workers: the part of Cairn that touches files, networks and processes.
//!
//! A worker kind is a choice of small parts, each behind its own seam:
//!
//! | module | part |
//! |---|---|
//! | [`content`] | blobs by digest on disk |
//! | [`registry`] | pulling from and pushing to OCI registries |
//! | [`archive`] | tar streams: reading, applying to and making from directories |
//! | [`compression`] | gzip, zstd and uncompressed blobs |
//! | [`image`] | image configs, manifests, layouts |
//! | [`layer`] | layers as directories and blobs, mounted together as overlays |
//! | [`tree`] | files received from clients, kept once each, and the trees made of them |
//! | [`checksum`] | content digests of paths under trees and mounted layers |
//! | [`fileop`] | file operations on a root file system |
//! | [`executor`] | running processes in containers |
//! | [`cdi`] | devices of the host that processes may be given |
//! | [`cni`] | networks of processes, made by plugins |
//! | `git` | commits of git repositories |
//! | [`remote_cache`] | the format of caches that are exported and imported |
//! | [`service`] | what a daemon asks of a worker |
//! | `signature` | who made what was fetched |
//! | [`usage`] | what processes use of the machine |
//! | [`sys`] | system calls; the only module where `unsafe` is allowed |

pub mod archive;
mod causes;
pub mod cdi;
pub mod checksum;
pub mod cni;
pub mod compression;
pub mod content;
pub mod embedded;
pub mod executor;
pub mod fileop;
pub mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod git;
pub mod image;
pub mod layer;
mod network;
pub mod registry;
pub mod remote_cache;
pub mod service;
mod signature;
pub mod sys;
mod text;
pub mod tree;
pub mod usage;
