//! Commits of git repositories, by the `git` program.
//!
//! | module | part |
//! |---|---|
//! | [`remote`] | where to fetch from: parsed, and free of credentials |
//! | [`settings`] | what git is told: all of its configuration, and nobody else's |
//! | [`command`] | running git within limits |
//! | [`host_keys`] | the keys that an ssh host presents |
//! | [`reference`] | names of commits, and what a remote says they mean |
//! | [`store`], [`fetch`] | a bare repository per remote, kept between builds |
//! | [`checkout`] | files of a commit in a directory |
//! | [`bundle`] | commits out of and into single files |
//! | [`usage`] | what the repositories take, and removing them |
//!
//! Invariants: nothing that a remote or a client names is taken by git for an option, a local path or a program.
//! Credentials are in memory alone: in no argument, no variable, no file and no log. A repository that something may
//! have been left in the middle of is thrown away, never repaired.

mod bundle;
mod checkout;
mod command;
mod error;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod host_keys;
mod reference;
mod remote;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use bundle::{Bundle, OpenBundle};
pub(crate) use checkout::CheckOut;
pub(crate) use fetch::Fetched;
pub(crate) use host_keys::host_keys;
pub(crate) use reference::{Resolved, Wanted};
pub(crate) use remote::{Protocol, Remote};
pub(crate) use settings::{Authorization, Settings, SshAccess};
pub(crate) use store::{Access, GitStore};
