//! What end-to-end tests and benchmarks stand on: the real programs as processes, real registries, real clients.
//!
//! A test opens a [`Lab`], which says what the test needs of this machine and holds everything that it makes; starts
//! a [`Daemon`] in it; builds with [`Cairn`] or [`Buildx`]; and looks at what came out through [`Image`]. Nothing here
//! knows how the programs work inside.
//!
//! The tests need base images and programs that `make test` provides; see [`lab`] for the environment it sets.

pub mod abuse;
mod buildx;
mod cairn;
mod clean;
mod containerd;
mod daemon;
pub mod driven;
mod engine;
pub mod git;
mod image;
pub mod lab;
mod lines;
pub mod llb;
mod made;
mod process;
mod progress;
mod registry;
mod solve;
pub mod traces;
mod web;

pub use buildx::Buildx;
pub use cairn::{Cairn, Outcome, RunningBuild};
pub use clean::{Leftovers, processes_with_variable};
pub use containerd::Containerd;
pub use daemon::Daemon;
pub use engine::Engine;
pub use image::Image;
pub use lab::{Lab, Need};
pub use made::{Made, files_of};
pub use process::{Finished, Program, wait_for_exit};
pub use progress::{Interval, Progress, Vertex};
pub use registry::Registry;
pub use solve::{fetch, solve, to_dir};
pub use web::{FixedAnswer, WebReply, WebRequest, WebServer};
