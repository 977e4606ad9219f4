//! Traces of builds: what took how long, in the form that clients read.
//!
//! Nothing is traced while a build runs. At its end, its steps become spans; those that clients, steps and frontends send of the
//! same trace are collected meanwhile. Both are stored together, a moment after the build.
//!
//! | module | what |
//! |---|---|
//! | [`span`] | one span, as it is stored |
//! | [`parent`] | which trace a call belongs to |
//! | [`steps`] | the spans of a build |
//! | [`collector`] | spans of clients, for as long as somebody may want them |
//! | [`otlp`] | spans of clients on the wire |
//! | [`socket`] | where steps and frontends send theirs |

mod collector;
mod otlp;
mod parent;
mod socket;
mod span;
mod steps;

pub(crate) use self::collector::{OpenTrace, Traces};
pub(crate) use self::otlp::TraceReceiver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::otlp::check;
pub(crate) use self::parent::Parent;
pub(crate) use self::socket::StepSocket;
pub(crate) use self::steps::{Solve, Steps};

/// What a stored trace is called: spans in JSON, one after the other.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";

#[cfg(test)]
pub(crate) use self::otlp::tests;
