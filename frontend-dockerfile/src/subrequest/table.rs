//! Tables of text: cells end at tabs, columns are as wide as they must be.
//!
//! A cell belongs to a column only if a tab ends it, and a column reaches over those neighbouring lines that have it;
//! so a value with a tab or a line break in it moves what is around it, exactly as clients are used to.

/// A table that would grow beyond this is not aligned: one enormous value must not be paid for in every line.
const MAX_BYTES: usize = 16 << 20;

/// Lays out `text`, with at least `gap` spaces behind each cell.
pub(super) fn render(text: &str, gap: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let own = |cell: &&str| cell.chars().count() + gap;
    let own: Vec<Vec<usize>> = lines
        .iter()
        .map(|cells| cells[..cells.len() - 1].iter().map(own).collect())
        .collect();
    let mut widths = own.clone();
    align(&mut widths);
    if widths
        .iter()
        .flatten()
        .fold(0, |sum: usize, width| sum.saturating_add(*width))
        > MAX_BYTES
    {
        widths = own;
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (index, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push_str(cells.last().unwrap_or(&""));
    }
    out
}

/// Makes cells of a column as wide as the widest of them.
fn align(widths: &mut [Vec<usize>]) {
    let mut having: Vec<usize> = (0..widths.len()).collect();
    for column in 0.. {
        having.retain(|line| widths[*line].len() > column);
        if having.is_empty() {
            return;
        }
        for block in having.chunk_by(|line, next| line + 1 == *next) {
            let width = block.iter().map(|line| widths[*line][column]).max().unwrap_or(0);
            for line in block {
                widths[*line][column] = width;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_line_up() {
        assert_eq!(render("A\tB\nlong\tx\n", 1), "A    B\nlong x\n");
        assert_eq!(
            render("K\tV\tD\na\t1\t\nb\t\té\n", 3),
            "K   V   D\na   1   \nb       é\n"
        );
        assert_eq!(render("", 3), "");
    }

    #[test]
    fn a_value_with_a_tab_or_a_line_break_moves_its_surroundings() {
        assert_eq!(render("K\tV\tD\na\tx\ty\tz\n", 3), "K   V   D\na   x   y   z\n");
        assert_eq!(
            render("K\tV\tD\nlonger\tx\ny\tz\n", 1),
            "K      V D\nlonger x\ny      z\n"
        );
    }

    #[test]
    fn one_enormous_value_does_not_multiply() {
        let text = format!("a\t{}\tx\n{}", "v".repeat(1 << 20), "b\tw\ty\n".repeat(10_000));
        assert!(render(&text, 3).len() < text.len() * 4);
        let wide = format!("{}\n{}", "\t".repeat(1 << 20), "b\tw\n".repeat(10_000));
        assert!(render(&wide, 3).len() < wide.len() * 5);
    }
}
