//! What is wrong with a Dockerfile, and where.

use std::fmt::Write as _;

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
        Self::at(lines, format!("{PREFIX}{}: {message}", lines.first))
    }

    /// Several errors of one file as one, so that all of them can be mended at once.
    ///
    /// The message begins with that of the first, as it would be alone; each other has a line of its own that says where
    /// it is. Clients show an excerpt per location; as each carries a copy of the file, a large file gets fewer.
    pub(crate) fn joined(errors: &[Self], file_bytes: usize) -> Self {
        let mut errors = errors.iter();
        let Some(first) = errors.next() else {
            return Self::whole("the Dockerfile is not well-formed");
        };
        let mut all = Self {
            message: shortened(&first.message, MAX_FIRST),
            locations: first.locations.clone(),
        };
        let places = (MAX_COPIES_BYTES / file_bytes.max(1)).min(MAX_SHOWN);
        for error in errors.by_ref().take(MAX_SHOWN - 1) {
            // Writing to a string cannot fail.
            let message = shortened(&error.message, MAX_OTHER);
            let _ = match error.locations.first() {
                Some(lines) if !message.starts_with(PREFIX) => write!(all.message, "\nline {}: {message}", lines.first),
                _ => write!(all.message, "\n{message}"),
            };
            if all.locations.len() < places {
                all.locations.extend(error.locations.first());
            }
        }
        match errors.count() {
            0 => {}
            more => all.message.push_str(&format!("\nand {more} more")),
        }
        all
    }
}

const PREFIX: &str = "dockerfile parse error on line ";
/// Most errors of one file that are told of.
const MAX_SHOWN: usize = 20;
/// Most characters of the first error and of the others: they may quote words as long as the file.
const MAX_FIRST: usize = 16 << 10;
const MAX_OTHER: usize = 500;
/// Most bytes that the copies of the file may take that locations carry.
const MAX_COPIES_BYTES: usize = 256 << 10;

fn shortened(message: &str, limit: usize) -> String {
    match message.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(count: u32) -> Vec<DockerfileError> {
        (1..=count)
            .map(|line| DockerfileError::at(Lines::one(line), format!("wrong {line}")))
            .collect()
    }

    #[test]
    fn an_error_alone_stays_as_it_is() {
        assert_eq!(DockerfileError::joined(&errors(1), 1 << 30), errors(1)[0]);
    }

    #[test]
    fn every_error_has_its_line_and_its_place() {
        let mut errors = errors(2);
        errors.push(DockerfileError::instruction(Lines::one(7), "no"));
        errors.push(DockerfileError::whole("odd"));
        let joined = DockerfileError::joined(&errors, 100);
        assert_eq!(
            joined.message,
            "wrong 1\nline 2: wrong 2\ndockerfile parse error on line 7: no\nodd"
        );
        assert_eq!(joined.locations, [1, 2, 7].map(Lines::one));
    }

    #[test]
    fn many_errors_are_counted_and_large_files_copied_less() {
        let joined = DockerfileError::joined(&errors(25), 100);
        assert!(joined.message.ends_with("\nline 20: wrong 20\nand 5 more"));
        assert_eq!(joined.locations.len(), 20);
        assert_eq!(DockerfileError::joined(&errors(25), 100_000).locations.len(), 2);
        assert_eq!(DockerfileError::joined(&errors(25), 1 << 30).locations.len(), 1);
    }
}
