//! Places in a Dockerfile, and how they are shown.

use std::fmt::Write as _;

/// A range of whole lines, counted from 1, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lines {
    /// First line.
    pub first: u32,
    /// Last line.
    pub last: u32,
}

impl Lines {
    /// One line.
    pub fn one(line: u32) -> Self {
        Self {
            first: line,
            last: line,
        }
    }

    /// Whether `line` is inside.
    pub fn contains(&self, line: u32) -> bool {
        self.first <= line && line <= self.last
    }
}

/// A position: line and column in characters, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// A piece of text in the file, from its first character to just behind its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// First character.
    pub start: Position,
    /// Just behind the last character.
    pub end: Position,
}

/// Renders `lines` of a file with their surroundings, the way clients of this API print them.
///
/// One line is shown with two lines around it, a longer range with one; lines inside are marked `>>>`.
#[must_use]
pub fn excerpt(filename: &str, data: &str, lines: Lines) -> String {
    let around = if lines.first == lines.last { 2 } else { 1 };
    let (first, last) = (
        lines.first.saturating_sub(around).max(1),
        lines.last.saturating_add(around),
    );
    let rule = "-".repeat(20);
    let mut text = format!("{filename}:{}\n{rule}\n", lines.first);
    let shown = data
        .split('\n')
        .enumerate()
        .skip(first as usize - 1)
        .take((last - first) as usize + 1);
    for (index, line) in shown {
        let number = index + 1;
        let mark = if lines.contains(number as u32) { ">>>" } else { "   " };
        // Writing to a string cannot fail.
        let _ = writeln!(text, " {number:3} | {mark} {}", line.trim_end_matches('\r'));
    }
    text + &rule + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_show_the_surroundings() {
        let file = "FROM a\nRUN b\nCOPY c \\\n  d\nCMD e\nCMD f\n";
        assert_eq!(
            excerpt("Dockerfile", file, Lines { first: 3, last: 4 }),
            "Dockerfile:3\n--------------------\n   2 |     RUN b\n   3 | >>> COPY c \\\n   4 | >>>   d\n   5 |     CMD e\n--------------------\n"
        );
        assert_eq!(
            excerpt("Dockerfile", file, Lines::one(1)),
            "Dockerfile:1\n--------------------\n   1 | >>> FROM a\n   2 |     RUN b\n   3 |     COPY c \\\n--------------------\n"
        );
    }

    #[test]
    fn places_outside_of_the_file_show_nothing() {
        assert_eq!(excerpt("f", "a", Lines::one(u32::MAX)).lines().count(), 3);
    }
}
