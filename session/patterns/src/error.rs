//! What can be wrong with a pattern, and where.

/// A pattern, or a list of them, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The pattern does not follow the grammar.
    #[error("[{pattern}]: syntax error in pattern")]
    Syntax {
        /// The pattern as written.
        pattern: String,
    },
    /// The pattern means nothing, as it turned out when a path was to be matched with it.
    #[error("syntax error in pattern: {pattern:?}")]
    Meaningless {
        /// The pattern as written.
        pattern: String,
    },
    /// A `!` with nothing behind it.
    #[error("illegal exclusion pattern: {pattern:?}")]
    EmptyExclusion {
        /// The pattern as written.
        pattern: String,
    },
    /// One pattern is longer than [`crate::PatternSet::MAX_PATTERN_BYTES`].
    #[error("pattern of {bytes} bytes is longer than the {limit} allowed")]
    PatternTooLong {
        /// The length found.
        bytes: usize,
        /// The length allowed.
        limit: usize,
    },
    /// The list as a whole is too big to be matched in bounded time.
    #[error("pattern list exceeds the limit of {limit} {what}")]
    ListTooLarge {
        /// What was counted.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
}

/// An ignore file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreFileError {
    /// A line holds an invalid pattern.
    #[error("line {line}: {source}")]
    Pattern {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// The file as a whole is too large.
    #[error(transparent)]
    Size(PatternError),
}

impl IgnoreFileError {
    /// The line it is about, counted from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Pattern { line, .. } => Some(*line),
            Self::Size(_) => None,
        }
    }
}
