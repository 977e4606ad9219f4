//! What is wrong with a Dockerfile, and where.

use crate::location::Lines;

/// A finding that stops the build, with the places it is about.
///
/// The texts are those users of Dockerfiles know and search for, so they are not sorted into variants: nothing in this
/// program acts on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DockerfileError {
    /// What is wrong.
    pub message: String,
    /// Where; usually one place, several for a cycle, none if the file as a whole is meant.
    pub locations: Vec<Lines>,
}

impl DockerfileError {
    /// An error about one place.
    pub fn at(lines: Lines, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            locations: vec![lines],
        }
    }

    /// An error about a line that is known by the one before it, as clients are used to; the first line has none.
    pub(crate) fn before(line: u32, message: impl Into<String>) -> Self {
        match line.saturating_sub(1) {
            0 => Self::whole(message),
            before => Self::at(Lines::one(before), message),
        }
    }

    /// An error about the file as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            locations: Vec::new(),
        }
    }

    /// An error in the arguments of the instruction at `lines`.
    pub(crate) fn instruction(lines: Lines, message: impl std::fmt::Display) -> Self {
        Self::at(
            lines,
            format!("dockerfile parse error on line {}: {message}", lines.first),
        )
    }
}
