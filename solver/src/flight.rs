//! Single flight: work with one key runs once, however many want it.
//!
//! This is the only place where work is shared. Whoever asks for a key first starts it; others join and get the same
//! outcome. Each holds a [`Ticket`]; when the last ticket of unfinished work is dropped, the work's token fires and
//! the key is free again, so that nobody can join work that is being given up.
//!
//! `single` is the whole of it, and takes what it synchronises with from the `sync` beside it: so `model` can run the
//! very same code under a model checker, which has a `sync` of its own.

mod single;
mod sync;

pub use self::single::{Flight, Lost, Ticket};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
