//! Path patterns of the build world: `.dockerignore` rules and file-name globs.
//!
//! Reading order: [`ignorefile`] turns the bytes of an ignore file into patterns, [`PatternSet`]
//! decides with a list of patterns about paths, [`DirState`] does the same step by step for those
//! who walk a tree, and [`glob`] is the simpler language of one wildcard path. [`nearest`] is for names that match nothing:
//! what was probably meant.
//!
//! Names and paths are bytes, as they are in Linux; what is no text in them is matched byte by byte.
//!
//! Invariants: everything is total and bounded. A pattern is refused, when the set is built or when a path comes to it,
//! or matches in time proportional to the path, whatever was written in it; nothing here touches a
//! file system.

pub mod glob;
pub mod ignorefile;

mod automaton;
mod clean;
mod error;
mod nearest;
mod program;
mod regex;
mod rune;
mod set;
mod token;

pub use clean::{clean, clean_bytes};
pub use error::{IgnoreFileError, PatternError};
pub use nearest::nearest;
pub use set::{DirState, PatternSet};
