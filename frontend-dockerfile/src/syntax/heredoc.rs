//! Here-documents: `RUN <<EOF`, `COPY <<file /dest`.

use std::sync::Arc;

use crate::expand::{Expander, NoVariables};

/// A here-document of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, unquoted.
    pub name: String,
    /// File descriptor as written; empty if none.
    pub descriptor: String,
    /// Whether variables in the body are expanded: no part of the delimiter was quoted.
    pub expand: bool,
    /// Whether leading tabs are dropped (`<<-`).
    pub strip_tabs: bool,
    /// The body, with its line endings. Shared, because one body may be the content of many files.
    pub body: Arc<str>,
}

impl Heredoc {
    /// The here-documents that a joined line announces, with empty bodies.
    pub(super) fn announced(line: &str) -> Vec<Self> {
        if !line.contains("<<") {
            return Vec::new();
        }
        match Expander::raw_words().words(line, &NoVariables) {
            Ok(words) => words.iter().filter_map(|word| Self::from_word(word)).collect(),
            // A line with unbalanced quotes announces nothing; what is wrong with it shows later.
            Err(_) => Vec::new(),
        }
    }

    /// Reads a word such as `<<EOF`, `3<<-"EOF"`.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let mark = word.find("<<")?;
        let (descriptor, rest) = (&word[..mark], &word[mark + 2..]);
        if !descriptor.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (strip_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
        let rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        let plain = Expander::unquote().words(rest, &NoVariables).ok()?;
        let raw = Expander::raw_words().words(rest, &NoVariables).ok()?;
        let ([name], [written]) = (plain.as_slice(), raw.as_slice()) else {
            return None;
        };
        (!name.is_empty()).then(|| Self {
            name: name.clone(),
            descriptor: descriptor.to_owned(),
            expand: name == written,
            strip_tabs,
            body: Arc::default(),
        })
    }

    /// Whether `line`, without its terminator, ends the body.
    pub(super) fn is_end(&self, line: &str) -> bool {
        let line = if self.strip_tabs {
            line.trim_start_matches('\t')
        } else {
            line
        };
        line == self.name
    }

    /// The body, with leading tabs of every line dropped if so asked.
    pub(crate) fn content(&self) -> String {
        if !self.strip_tabs {
            return self.body.to_string();
        }
        self.body
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_heredocs() {
        for (line, want) in [
            ("COPY <<EOF /f", vec![("EOF", true)]),
            ("COPY <<EOF <<-F2 /d/", vec![("EOF", true), ("F2", true)]),
            ("COPY <<\"EOF\" /f", vec![("EOF", false)]),
            ("COPY <<E\"O\"F /f", vec![("EOF", false)]),
            ("COPY <<'a b' /f", vec![("a b", false)]),
            ("COPY <<$X /f", vec![("$X", true)]),
            ("COPY << EOF /f", vec![("EOF", true)]),
            ("RUN echo 1<<2", vec![("2", true)]),
            ("RUN echo 1 << 2", vec![("2", true)]),
            ("RUN cat <<A > /1 && cat <<B", vec![("A", true), ("B", true)]),
            ("RUN cat <<<word", vec![]),
            ("RUN echo \"<<EOF\"", vec![]),
            ("RUN \"cat <<EOF\"", vec![]),
            ("RUN echo $((1<<2))", vec![]),
            ("RUN echo 'x <<EOF", vec![]),
            ("COPY [\"<<EOF\",\"/f\"]", vec![]),
        ] {
            let found = Heredoc::announced(line);
            let found: Vec<_> = found.iter().map(|h| (h.name.as_str(), h.expand)).collect();
            assert_eq!(found, want, "{line}");
        }
    }

    #[test]
    fn only_leading_tabs_are_stripped() {
        let mut heredoc = Heredoc::from_word("<<-EOF").unwrap();
        heredoc.body = "\thello\n\t\tx\n  \ty\n".into();
        assert_eq!(heredoc.content(), "hello\nx\n  \ty\n");
        assert!(heredoc.is_end("\tEOF") && !heredoc.is_end(" EOF"));
    }
}
