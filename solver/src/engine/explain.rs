//! Why a step ran.
//!
//! A build leaves behind what was decided about each of its steps ([`Build::account`]), and which keys the places in
//! its files had ([`sites`]). When somebody asks, the preimage of a step's key is held against the nearest of those
//! that were had at the same place before: what differs are the causes. Where an input differs, its keys are compared
//! in turn, and so on to the first cause.
//!
//! | module | part |
//! |---|---|
//! | `account` | what a build leaves behind |
//! | `sites` | finding successive versions of "the same" step |
//! | `differ` | what differs between two preimages |
//! | `trace` | from a step to its causes, and on to theirs |
//! | `text` | causes in words |

mod account;
mod differ;
mod sites;
mod text;
mod trace;

#[cfg(test)]
mod tests;

use crate::index::{Place, Removal, Verdict};
use crate::llb::VertexDigest;
use crate::worker::ContentChange;

pub use self::trace::{Detail, ExplainError};

/// Why a step ran, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The step.
    pub vertex: VertexDigest,
    /// Its display name.
    pub name: String,
    /// Where it is written down.
    pub place: Option<Place>,
    /// What was decided about it.
    pub verdict: Verdict,
    /// Whether it failed.
    pub has_failed: bool,
    /// What led to that, the most telling first. Empty for a step that did not run.
    pub causes: Vec<Cause>,
    /// Where the first cause lies in another step: that step with its causes, and so on to the first of all.
    pub chain: Vec<Link>,
    /// How many links were left out of the middle of the chain.
    pub links_left_out: usize,
}

/// A step that made another one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its display name.
    pub name: String,
    /// What led to it.
    pub causes: Vec<Cause>,
}

/// One reason for a step to run. Texts are bounded; secrets in them are masked as far as they can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No step like it was built before.
    New,
    /// The build was told to ignore what is known.
    IgnoredCache,
    /// Its result was known, but is not there any more; `None` if it is not remembered why.
    Gone(Option<Removal>),
    /// It was begun before, but did not end well.
    NotFinished(Removal),
    /// Another command.
    Command {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// Another value of a build argument or environment variable.
    Variable {
        /// Which.
        name: String,
        /// Before, if there was one.
        old: Option<String>,
        /// Now, if there is one.
        new: Option<String>,
        /// Whether it is declared as an argument.
        is_argument: bool,
    },
    /// Another property of the step.
    Property {
        /// Which.
        name: String,
        /// Before, if it was set.
        old: Option<String>,
        /// Now, if it is set.
        new: Option<String>,
    },
    /// A source stands for something else.
    Source {
        /// The source, such as an image.
        name: String,
        /// What of it, such as `manifest`.
        part: String,
        /// Before, if there was one.
        old: Option<String>,
        /// Now, if there is one.
        new: Option<String>,
    },
    /// Files that the step reads.
    Files {
        /// Display name of the step that they come from; empty if they are the step's own.
        from: String,
        /// What the step reads of them.
        path: String,
        /// What changed; empty if that cannot be told.
        changes: Vec<ContentChange>,
        /// Whether there are more.
        has_more: bool,
        /// Whether both versions are still there to be compared.
        is_kept: bool,
    },
    /// What the step builds on is another.
    Input {
        /// Display name of the step that made it.
        name: String,
    },
    /// What it was made of before is not remembered any more.
    Unknown,
}
