//! What flights synchronise with.

pub(super) use std::sync::atomic::AtomicUsize;

pub(super) use dashmap::{DashMap, Entry};
pub(super) use tokio::sync::SetOnce;
pub(super) use tokio_util::sync::CancellationToken;
pub(super) use tokio_util::task::TaskTracker;
