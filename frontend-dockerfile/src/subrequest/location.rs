//! Places in the one file that answers are about.

use serde::Serialize;

use super::json::is_zero;
use crate::location::Lines;
use crate::lower;

/// Some lines; nothing of it is written that is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Position {
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
}

impl Location {
    /// The places of `lines`, as one: in order, each line once.
    pub(super) fn of(lines: impl IntoIterator<Item = Lines>) -> Self {
        let mut ranges: Vec<Range> = lines.into_iter().flat_map(ranges).collect();
        ranges.sort_unstable_by_key(|range| range.start.line);
        ranges.dedup();
        Self { ranges }
    }
}

/// One range per line.
fn ranges(lines: Lines) -> impl Iterator<Item = Range> {
    lower::ranges(lines).into_iter().map(|range| Range {
        start: Position { line: range.start_line },
        end: Position { line: range.end_line },
    })
}
