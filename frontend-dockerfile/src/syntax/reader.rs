//! The file as a whole: from physical lines to nodes.

use crate::error::DockerfileError;
use crate::location::{Lines, Position};

use super::directive::{DirectiveReader, Directives};
use super::heredoc::Heredoc;
use super::lines::{self, Line, MAX_LINE_BYTES};
use super::node::{Context, Joined, Node};

/// What a file consists of, as far as its syntax goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyntaxTree {
    /// The directives at the top.
    pub directives: Directives,
    /// The instructions.
    pub nodes: Vec<Node>,
    /// Everything that was wrong, in the order of the file; with [`MAX_ERRORS`] reading ends.
    pub errors: Vec<DockerfileError>,
}

/// Most errors that are collected. A file that has as many is not one that somebody mends line by line.
pub const MAX_ERRORS: usize = 1_000;

/// Reads a Dockerfile. Total: any bytes give a tree, and the errors it has.
#[must_use]
pub fn parse(bytes: &[u8]) -> SyntaxTree {
    let lines: Vec<Line<'_>> = lines::lines(bytes).collect();
    let mut reader = Reader {
        lines: &lines,
        at: 0,
        directives: DirectiveReader::default(),
        comments: Vec::new(),
        joined: Joined::default(),
        tree: SyntaxTree::default(),
    };
    if bytes.is_empty() {
        reader
            .tree
            .errors
            .push(DockerfileError::whole("the Dockerfile cannot be empty"));
    }
    while reader.tree.errors.len() < MAX_ERRORS && reader.next_instruction() {}
    let mut tree = reader.tree;
    tree.directives = reader.directives.directives;
    if tree.nodes.is_empty() && tree.errors.is_empty() {
        let last = lines.last().map_or(1, |line| line.number);
        let message = "file with no instructions";
        tree.errors.push(DockerfileError::at(Lines::one(last), message));
    }
    tree
}

struct Reader<'a> {
    lines: &'a [Line<'a>],
    at: usize,
    directives: DirectiveReader,
    comments: Vec<String>,
    /// The instruction under way; its memory serves one after the other.
    joined: Joined,
    tree: SyntaxTree,
}

impl<'a> Reader<'a> {
    /// The next line; one that cannot be used is reported and skipped.
    fn line(&mut self) -> Option<Line<'a>> {
        loop {
            let line = *self.lines.get(self.at)?;
            self.at += 1;
            if !line.is_too_long() {
                return Some(line);
            }
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}");
            self.tree.errors.push(DockerfileError::before(line.number, message));
        }
    }

    fn error(&mut self, line: u32, message: impl Into<String>) {
        self.tree.errors.push(DockerfileError::at(Lines::one(line), message));
    }

    fn text(&mut self, line: Line<'a>) -> &'a str {
        match str::from_utf8(line.content()) {
            Ok(text) => text,
            Err(_) => {
                self.error(line.number, "line is not valid UTF-8");
                ""
            }
        }
    }

    /// Reads up to and including one instruction. False at the end of the file.
    fn next_instruction(&mut self) -> bool {
        let Some(line) = self.line() else { return false };
        if line.is_comment() {
            self.comment(line);
            return true;
        }
        let text = self.text(line);
        // A line that is no comment ends the directives, whatever it is.
        if let Err(error) = self.directives.offer(text, line.number) {
            self.tree.errors.push(error);
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        let (last, empty) = self.join(&mut joined, line, text);
        // A lone continuation mark that nothing follows is an instruction without a name.
        let is_continued = continuation(text.trim_start(), self.directives.directives.escape_char()).1;
        if is_continued || !joined.text.trim().is_empty() {
            let first = line.number;
            self.instruction(&joined, Lines { first, last }, empty);
        }
        self.joined = joined;
        true
    }

    fn comment(&mut self, line: Line<'_>) {
        let text = String::from_utf8_lossy(line.content());
        match self.directives.offer(&text, line.number) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => self.tree.errors.push(error),
        }
        // The first byte goes even if it is not the `#`: a comment that is indented is none that can be addressed.
        let mut chars = text.chars();
        chars.next();
        match chars.as_str().trim() {
            "" => self.comments.clear(),
            text => self.comments.push(text.to_owned()),
        }
    }

    /// Joins an instruction's first line with those that continue it. Returns the last line, and whether an empty line
    /// was among them.
    fn join(&mut self, joined: &mut Joined, first: Line<'a>, text: &'a str) -> (u32, bool) {
        let escape = self.directives.directives.escape_char();
        let trimmed = text.trim_start();
        let indent = text.chars().count() - trimmed.chars().count();
        let (piece, mut continues) = continuation(trimmed, escape);
        joined.push(
            piece,
            Position {
                line: first.number,
                column: indent as u32 + 1,
            },
        );
        let (mut last, mut empty) = (first.number, false);
        while continues && let Some(line) = self.line() {
            last = line.number;
            if line.is_comment() {
                continue;
            }
            let text = self.text(line);
            if text.trim().is_empty() {
                empty = true;
                continue;
            }
            let (piece, more) = continuation(text, escape);
            joined.push(
                piece,
                Position {
                    line: line.number,
                    column: 1,
                },
            );
            continues = more;
        }
        (last, empty)
    }

    fn instruction(&mut self, joined: &Joined, mut lines: Lines, empty: bool) {
        let context = Context {
            escape: self.directives.directives.escape_char(),
        };
        let (mut node, result) = Node::read(joined, lines, context);
        if let Err(message) = result {
            self.tree.errors.push(DockerfileError::at(lines, message));
        }
        if node.takes_heredocs() {
            let mut heredocs = Heredoc::announced(&joined.text);
            for heredoc in &mut heredocs {
                if !self.body(heredoc, &mut lines) {
                    break;
                }
            }
            node.lines = lines;
            node.attach(&heredocs);
        }
        node.comments = std::mem::take(&mut self.comments);
        node.empty_continuation = empty.then_some(lines.last);
        self.tree.nodes.push(node);
    }

    /// Reads the body of a here-document, raw. False if the file ended in it.
    fn body(&mut self, heredoc: &mut Heredoc, lines: &mut Lines) -> bool {
        let mut body = Vec::new();
        while let Some(&line) = self.lines.get(self.at) {
            self.at += 1;
            lines.last = line.number;
            if line.is_too_long() {
                break;
            }
            if str::from_utf8(line.content()).is_ok_and(|text| heredoc.is_end(text)) {
                match String::from_utf8(body) {
                    Ok(body) => heredoc.body = body.into(),
                    Err(_) => self.tree.errors.push(DockerfileError::at(
                        *lines,
                        format!("heredoc {} is not valid UTF-8", heredoc.name),
                    )),
                }
                return true;
            }
            body.extend_from_slice(line.raw);
        }
        self.tree
            .errors
            .push(DockerfileError::at(*lines, "unterminated heredoc"));
        false
    }
}

/// Takes the continuation mark off a line: the escape character and blanks at the end, unless it is itself escaped.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(piece) if !piece.ends_with(escape) => (piece, true),
        _ => (line, false),
    }
}
