//! Text to nodes: lines, comments, continuations, heredocs, flags and argument forms.
//!
//! This level knows which shape the arguments of each instruction have, but not what they mean. It never gives up: a
//! text always yields the nodes that could be read *and* everything that was wrong. Reading order: [`parse`], [`Node`].

mod args;
mod directive;
mod heredoc;
mod keyword;
mod lines;
mod node;
mod reader;
mod words;

pub use args::{Args, KeyValue};
pub use directive::{Directive, Directives, check_directive, external_syntax};
pub use heredoc::Heredoc;
pub(crate) use keyword::{KEYWORDS, keyword};
pub use node::{FlagWord, Node};
pub use reader::{MAX_ERRORS, SyntaxTree, parse};
pub(crate) use words::first_word;

#[cfg(test)]
mod tests;
