//! Columns of text.

/// Rows under headings, each column as wide as it must be.
pub(crate) fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells
            .chain([headings[column]])
            .map(console::measure_text_width)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut table = String::new();
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 3 - console::measure_text_width(cell)));
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// Lines of `key:   value`, the values aligned.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let key = format!("{key}:");
        text.push_str(format!("{key:<width$}  {value}", width = width + 1).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long name".to_owned(), String::new()],
        ];
        insta::assert_snapshot!(super::render(&["ID", "SIZE"], &rows), @r"
        ID          SIZE
        a           1
        long name
        ");
    }
}
