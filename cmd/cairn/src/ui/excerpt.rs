//! The lines of a Dockerfile that a message is about.

use cairn_client::SourceLocation;

use crate::ui::text;

/// Lines shown around a range, and around a range of one line.
const PADDING: u32 = 1;
const PADDING_OF_ONE: u32 = 2;
/// A range longer than this is cut.
const MAX_LINES: u32 = 40;
const RULE: &str = "--------------------";

/// The excerpt as text; none when the location points nowhere.
pub(crate) fn render(location: &SourceLocation) -> Option<String> {
    let lines: Vec<&str> = location.text.lines().collect();
    let count = u32::try_from(lines.len()).ok()?;
    let ranges = location.ranges.iter().filter(|range| range.first <= count);
    let first = ranges.clone().map(|range| range.first).min()?;
    let last = ranges.clone().map(|range| range.last).max()?.min(count);
    let padding = if first == last { PADDING_OF_ONE } else { PADDING };
    let from = first.saturating_sub(padding).max(1);
    let to = last.saturating_add(padding).min(count).min(from + MAX_LINES - 1);

    let mut excerpt = format!("{}:{first}\n{RULE}\n", text::clean(&location.filename));
    for number in from..=to {
        let marked = ranges.clone().any(|range| (range.first..=range.last).contains(&number));
        let mark = if marked { ">>>" } else { "   " };
        let line = text::clean(lines[number as usize - 1]);
        let line = format!("{number:4} | {mark} {line}");
        excerpt.push_str(line.trim_end());
        excerpt.push('\n');
    }
    excerpt.push_str(RULE);
    excerpt.push('\n');
    Some(excerpt)
}

#[cfg(test)]
mod tests {
    use cairn_client::LineRange;

    use super::*;

    fn location(ranges: &[(u32, u32)]) -> SourceLocation {
        let text: String = (1..=20).map(|line| format!("LINE {line}\n")).collect();
        let ranges = ranges.iter().map(|(first, last)| LineRange {
            first: *first,
            last: *last,
        });
        SourceLocation {
            filename: "Dockerfile".into(),
            text,
            ranges: ranges.collect(),
        }
    }

    #[test]
    fn one_line_has_two_around_it() {
        insta::assert_snapshot!(render(&location(&[(6, 6)])).unwrap(), @r"
        Dockerfile:6
        --------------------
           4 |     LINE 4
           5 |     LINE 5
           6 | >>> LINE 6
           7 |     LINE 7
           8 |     LINE 8
        --------------------
        ");
    }

    #[test]
    fn several_lines_have_one_around_them() {
        insta::assert_snapshot!(render(&location(&[(1, 2), (4, 4)])).unwrap(), @r"
        Dockerfile:1
        --------------------
           1 | >>> LINE 1
           2 | >>> LINE 2
           3 |     LINE 3
           4 | >>> LINE 4
           5 |     LINE 5
        --------------------
        ");
    }

    #[test]
    fn places_that_do_not_exist_are_not_shown() {
        assert_eq!(render(&location(&[])), None);
        assert_eq!(render(&location(&[(21, 22)])), None);
        let end = render(&location(&[(20, u32::MAX)])).unwrap();
        assert!(end.contains("  20 | >>> LINE 20"), "{end}");
    }

    #[test]
    fn control_sequences_in_a_file_do_nothing() {
        let mut location = location(&[(1, 1)]);
        location.text = "RUN \u{1b}[2Jx\n".into();
        assert!(render(&location).unwrap().contains("   1 | >>> RUN x\n"));
    }
}
