//! Any bytes are a Dockerfile or have errors, and a printed tree parses to itself.

mod print;

use cairn_dockerfile::{Dockerfile, Lines, Position, Span, syntax};
use syntax::{Args, Node, SyntaxTree};

/// Checks what holds for every file.
pub(crate) fn check(data: &[u8]) {
    let file = Dockerfile::parse(data);
    assert!(
        !file.stages.is_empty() || !file.errors.is_empty(),
        "neither stages nor errors"
    );
    let tree = syntax::parse(data);
    check_places(&tree, data);
    if tree.errors.is_empty() {
        check_printed(tree);
    }
}

/// Every place that is named is one in the file.
fn check_places(tree: &SyntaxTree, data: &[u8]) {
    let last = data.split(|&b| b == b'\n').count() as u32;
    let nodes = tree.nodes.iter().map(|node| &node.lines);
    let errors = tree.errors.iter().flat_map(|error| &error.locations);
    for lines in nodes.chain(errors) {
        assert!(
            1 <= lines.first && lines.first <= lines.last && lines.last <= last,
            "{lines:?} of {last}"
        );
    }
}

fn check_printed(tree: SyntaxTree) {
    let printed = print::tree(&tree);
    // What was joined from several lines may be too long for one.
    if printed.lines().any(|line| line.len() > 65_000) {
        return;
    }
    let again = syntax::parse(printed.as_bytes());
    assert_eq!(again.errors, [], "{printed}");
    let values = |tree: &SyntaxTree| {
        let directives = [&tree.directives.escape, &tree.directives.syntax, &tree.directives.check];
        directives.map(|directive| directive.as_ref().map(|directive| directive.value.clone()))
    };
    assert_eq!(values(&again), values(&tree), "{printed}");
    let bare = |tree: SyntaxTree| -> Vec<Node> { tree.nodes.into_iter().map(bare).collect() };
    assert_eq!(bare(again), bare(tree), "{printed}");
}

/// A node without what depends on where and in which form it was written.
fn bare(node: Node) -> Node {
    let nowhere = Position { line: 0, column: 0 };
    let nowhere = Span {
        start: nowhere,
        end: nowhere,
    };
    let word: std::sync::Arc<str> = node.word().into();
    let flags = node
        .flags
        .into_iter()
        .map(|flag| syntax::FlagWord { span: nowhere, ..flag });
    Node {
        word_span: nowhere,
        args_span: nowhere,
        flags: flags.collect(),
        args: match node.args {
            Args::Nested(inner) => Args::Nested(Box::new(bare(*inner))),
            args => args,
        },
        args_at: word.len(),
        text: word,
        lines: Lines::one(0),
        empty_continuation: None,
        ..node
    }
}
