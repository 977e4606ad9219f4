//! Syntax trees as text again: one line per instruction, then its here-documents.

use std::fmt::Write as _;

use cairn_dockerfile::syntax::{Args, KeyValue, Node, SyntaxTree};

/// Prints a tree that has no errors.
pub(crate) fn tree(tree: &SyntaxTree) -> String {
    let mut out = String::new();
    let directives = &tree.directives;
    for (name, directive) in [
        ("syntax", &directives.syntax),
        ("escape", &directives.escape),
        ("check", &directives.check),
    ] {
        if let Some(directive) = directive {
            let _ = writeln!(out, "# {name}={}", directive.value);
        }
    }
    // Ends the directives, whatever the comments below look like.
    out.push('\n');
    for node in &tree.nodes {
        for comment in &node.comments {
            let _ = writeln!(out, "# {comment}");
        }
        out.push_str(&line(node, directives.escape_char()));
        out.push('\n');
        for heredoc in &node.heredocs {
            let _ = writeln!(out, "{}{}", heredoc.body, heredoc.name);
        }
    }
    out
}

fn line(node: &Node, escape: char) -> String {
    if node.text.is_empty() {
        // A lone mark, and so the last line.
        return escape.to_string();
    }
    // Which words announce here-documents depends on every quote of the line, flags included.
    let mut text = if node.text.contains("<<") {
        node.text.to_string()
    } else {
        instruction(node, escape)
    };
    if text.trim_end_matches([' ', '\t']).ends_with(escape) {
        // A blank that is dropped, but behind which nothing continues.
        text.push('\u{b}');
    }
    text
}

fn instruction(node: &Node, escape: char) -> String {
    let mut text = node.word().to_owned();
    for flag in &node.flags {
        text.push(' ');
        text.push_str(&quoted(&flag.text, escape));
    }
    let arguments = arguments(&node.args, escape);
    // The end of flags, where it changes what is an argument, and behind a word that ends in what would be trimmed.
    if arguments.starts_with("--") || text.ends_with(char::is_whitespace) {
        text.push_str(" --");
    }
    if !arguments.is_empty() {
        text.push(' ');
        text.push_str(&arguments);
    }
    text
}

/// A flag such that its blanks, quotes and escapes are taken literally.
fn quoted(flag: &str, escape: char) -> String {
    if !flag.contains(|c: char| c.is_whitespace() || matches!(c, '\'' | '"') || c == escape) {
        return flag.to_owned();
    }
    let mut text = "--'".to_owned();
    for c in flag.strip_prefix("--").unwrap_or(flag).chars() {
        if c == '\'' || c == escape {
            text.push(escape);
        }
        text.push(c);
    }
    text + "'"
}

fn arguments(args: &Args, escape: char) -> String {
    match args {
        Args::Json(items) => serde_json::to_string(items).expect("strings are JSON"),
        // Between blanks that JSON does not know, nothing becomes a list that was none.
        Args::Words(words) if words.first().is_some_and(|word| word.starts_with('[')) => words.join("\u{b}"),
        Args::Words(words) => words.join(" "),
        Args::Text(text) => text.clone(),
        Args::Pairs { pairs, legacy } => {
            let mark = if *legacy { " " } else { "=" };
            let pair = |pair: &KeyValue| format!("{}{mark}{}", pair.key, pair.value);
            pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        Args::Typed { kind, rest } => format!("{kind} {}", arguments(rest, escape)).trim_end().to_owned(),
        Args::Nested(inner) => instruction(inner, escape),
    }
}
