use std::fmt::Write as _;

use proptest::prelude::*;

use super::{Args, Node, SyntaxTree, parse};
use crate::testing::cases;

/// A tree as text: one paragraph per node, with the places of its parts.
fn dump(tree: &SyntaxTree) -> String {
    let mut out = String::new();
    for (name, directive) in [
        ("escape", &tree.directives.escape),
        ("syntax", &tree.directives.syntax),
        ("check", &tree.directives.check),
    ] {
        if let Some(directive) = directive {
            writeln!(out, "directive {name}={} @{}", directive.value, directive.lines.first).unwrap();
        }
    }
    for node in &tree.nodes {
        dump_node(&mut out, node, "");
    }
    for error in &tree.errors {
        let lines: Vec<String> = error
            .locations
            .iter()
            .map(|lines| format!("{}-{}", lines.first, lines.last))
            .collect();
        writeln!(out, "error {} @{}", error.message, lines.join(" ")).unwrap();
    }
    out
}

fn dump_node(out: &mut String, node: &Node, indent: &str) {
    let span = |span: crate::Span| {
        format!(
            "{}:{}-{}:{}",
            span.start.line, span.start.column, span.end.line, span.end.column
        )
    };
    writeln!(
        out,
        "{indent}{} {} lines {}-{}",
        node.word(),
        span(node.word_span),
        node.lines.first,
        node.lines.last
    )
    .unwrap();
    for comment in &node.comments {
        writeln!(out, "{indent}  # {comment}").unwrap();
    }
    for flag in &node.flags {
        writeln!(out, "{indent}  flag {:?} {}", flag.text, span(flag.span)).unwrap();
    }
    match &node.args {
        Args::Nested(inner) => dump_node(out, inner, &format!("{indent}  ")),
        args => writeln!(out, "{indent}  {args:?} {}", span(node.args_span)).unwrap(),
    }
    for heredoc in &node.heredocs {
        writeln!(out, "{indent}  {heredoc:?}").unwrap();
    }
    if let Some(line) = node.empty_continuation {
        writeln!(out, "{indent}  empty continuation @{line}").unwrap();
    }
}

#[test]
fn files_are_read_as_they_are_meant() {
    cases::check("parse", |case| dump(&parse(case.input.as_bytes())));
}

#[test]
fn long_lines_are_refused_each_on_its_own() {
    let line = |length: usize| format!("FROM a\nENV a={}\n", "x".repeat(length - 6));
    assert!(parse(line(65_535).as_bytes()).errors.is_empty());
    let tree = parse(line(65_536).as_bytes());
    assert_eq!(
        tree.errors[0].message,
        "dockerfile line greater than max allowed size of 65535"
    );
    let windows = format!("{}\r\n", line(65_535).trim_end());
    assert_eq!(parse(windows.as_bytes()).errors.len(), 1);
    let continued = format!("FROM a\nRUN {}", "echo xxxxxxxxxxxxxxxx \\\n".repeat(10_000));
    assert!(parse(continued.as_bytes()).errors.is_empty());
}

#[test]
fn any_blank_may_stand_before_a_comment() {
    for blank in [' ', '\t', '\u{b}', '\u{a0}'] {
        assert_eq!(
            parse(format!("FROM a\n{blank}# x\n").as_bytes()).nodes.len(),
            1,
            "{blank:?}"
        );
    }
}

#[test]
fn text_that_is_none_is_refused_where_it_matters() {
    assert!(parse(b"# \xff\nFROM a").errors.is_empty());
    let tree = parse(b"FROM a\nRUN \xff\n");
    assert_eq!(
        (tree.errors[0].message.as_str(), tree.errors[0].locations[0].first),
        ("line is not valid UTF-8", 2)
    );
}

proptest! {
    #[test]
    fn any_bytes_give_a_tree_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let tree = parse(&bytes);
        prop_assert!(!tree.nodes.is_empty() || !tree.errors.is_empty());
    }

    #[test]
    fn places_are_inside_of_the_file(text in "(FROM a\n|RUN |COPY |ENV |ONBUILD |--x=|<<E|E\n|\\\\\n|\n|#|\"|'|\\[|\\]|a|é| |=|\\$\\{){0,30}") {
        let tree = parse(text.as_bytes());
        let last = text.split('\n').count() as u32;
        for node in &tree.nodes {
            prop_assert!(node.lines.first >= 1 && node.lines.first <= node.lines.last && node.lines.last <= last);
            for span in [node.word_span, node.args_span] {
                prop_assert!(span.start <= span.end && span.end.line <= last, "{:?}", node);
                let line = text.split('\n').nth(span.start.line as usize - 1).unwrap();
                prop_assert!(span.start.column as usize <= line.chars().count() + 1, "{:?} in {:?}", span, line);
            }
            let line: Vec<char> = text.split('\n').nth(node.word_span.start.line as usize - 1).unwrap().chars().collect();
            let at = node.word_span.start.column as usize - 1;
            prop_assert!(node.word().is_empty() || line.get(at) == node.word().chars().next().as_ref(), "{:?}", node);
        }
    }
}
