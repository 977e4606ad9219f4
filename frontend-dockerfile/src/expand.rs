//! Word expansion: quote removal, escapes and variables, in one pass.
//!
//! [`Expander`] holds how a text is to be read, [`Variables`] what names mean. The result is never split again, except
//! by those who ask for its words. See the Dockerfile reference, "Environment replacement".

mod lexer;
mod pattern;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use lexer::Expander;

/// What variable names mean.
pub trait Variables {
    /// The value of `name`, if it has one.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name).map(String::as_str)
    }
}

impl Variables for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name).map(String::as_str)
    }
}

/// No variables at all.
#[derive(Debug, Clone, Copy)]
pub struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// What became of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded<'a> {
    /// The result.
    pub value: Cow<'a, str>,
    /// Names that had a value.
    pub matched: BTreeSet<&'a str>,
    /// Names that had none.
    pub unmatched: BTreeSet<&'a str>,
    /// How much work it was: bytes produced on the way, and characters compared with patterns.
    pub effort: usize,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {cause}", crate::gofmt::quote(&shortened(.word)))]
pub struct ExpandError {
    /// The text.
    pub word: String,
    /// What is wrong with it.
    pub cause: ExpandCause,
    /// Names without a value that were met before.
    pub unmatched: BTreeSet<String>,
    /// How much work it was, as [`Expanded::effort`].
    pub effort: usize,
}

/// What is wrong with a text to be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandCause {
    /// A quote without its partner.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    UnmatchedQuote(&'static str),
    /// Nothing, or an operator, where a name belongs.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${` without `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${name/pattern` without a replacement.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// An operator that is none.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${name:?message}` for a name without value.
    #[error("{name}: {message}")]
    Required {
        /// The name.
        name: String,
        /// The message given, or a general one.
        message: String,
    },
    /// A pattern with an escape that means nothing.
    #[error("invalid pattern ({pattern}) in substitution: {cause}")]
    InvalidPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Substitutions inside of substitutions beyond reason.
    #[error("syntax error: substitutions are nested more than {0} deep")]
    TooDeep(usize),
    /// The result exceeds the text by more than [`Expander::MAX_GROWTH_BYTES`].
    #[error("result is longer than {0} bytes")]
    TooLong(usize),
    /// Matching patterns would take more than [`Expander::MAX_STEPS`].
    #[error("patterns and values in substitutions are too long to be matched")]
    TooLaborious,
}

/// Error texts quote the word; a word of megabytes would bury the message.
fn shortened(word: &str) -> String {
    const LIMIT: usize = 1_024;
    if word.len() <= LIMIT {
        word.to_owned()
    } else {
        word.chars().take(LIMIT).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests;
