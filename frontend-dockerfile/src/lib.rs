//! Dockerfiles: from text to the graph that the solver builds.
//!
//! Reading order: [`syntax`] turns bytes into nodes, [`instruction`] nodes into typed instructions, [`Dockerfile`] is both
//! for a whole file, [`expand`] replaces variables; `plan` decides which stages are built from what, `lower` makes the
//! graph, and [`DockerfileFrontend`] is what the daemon calls.
//!
//! This crate reaches the rest of the program only through the `Bridge` of `cairn-solver`; it opens no file and knows no
//! worker. Every text is total to parse: it gives a tree and its errors, never a panic.

pub mod expand;
pub mod instruction;
pub mod syntax;

mod budget;
mod checks;
mod csv;
mod dockerfile;
mod error;
mod flags;
mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gofmt;
mod image;
mod location;
mod lower;
mod options;
mod plan;
mod platform;
mod remote;
pub mod sbom;
mod subrequest;
mod suggest;
#[cfg(test)]
mod testing;

/// Version of the Dockerfile language that is implemented, as the language's own releases are numbered.
pub const VERSION: &str = "1.26";

pub use csv::record as csv_record;
pub use dockerfile::{Dockerfile, Stage};
pub use error::DockerfileError;
pub use frontend::DockerfileFrontend;
pub use location::{Lines, Position, Span, excerpt};
pub use options::is_official;
