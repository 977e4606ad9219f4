//! One instruction as text: its word, flags and arguments.

use std::cell::Cell;
use std::sync::Arc;

use crate::location::{Lines, Position, Span};

use super::args::{self, Args};
use super::heredoc::Heredoc;
use super::keyword::keyword;
use super::words;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where the word is.
    pub word_span: Span,
    /// Words beginning with `--` before the arguments.
    pub flags: Vec<FlagWord>,
    /// The arguments.
    pub args: Args,
    /// Where the arguments are; empty if there are none.
    pub args_span: Span,
    /// The joined line as written, trimmed.
    pub text: Arc<str>,
    /// Where in it the arguments begin, behind the flags; a byte offset.
    pub args_at: usize,
    /// The lines it covers, here-documents included.
    pub lines: Lines,
    /// Here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// Comments since the instruction before.
    pub comments: Vec<String>,
    /// The last line, if there was an empty line inside a continuation.
    pub empty_continuation: Option<u32>,
}

/// A flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagWord {
    /// The flag with its value, unquoted, such as `--from=a`.
    pub text: String,
    /// Where it is.
    pub span: Span,
}

/// How lines are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    pub(super) escape: char,
}

/// A joined line with the places that its pieces come from.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) text: String,
    /// Offset in `text`, and the position of the character there.
    pub(super) pieces: Vec<(usize, Position)>,
    /// The latest offset asked for and its position: places are asked for from left to right, and a line of many flags
    /// must not be counted through from its beginning for each.
    latest: Cell<Option<(usize, Position)>>,
}

impl Joined {
    /// Makes room for the next line.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.pieces.clear();
        self.latest.set(None);
    }

    pub(super) fn push(&mut self, text: &str, position: Position) {
        self.pieces.push((self.text.len(), position));
        self.text.push_str(text);
    }

    /// The position of the character at `offset`.
    fn position(&self, offset: usize) -> Position {
        let piece = self
            .pieces
            .partition_point(|(start, _)| *start <= offset)
            .saturating_sub(1);
        let Some(&begin) = self.pieces.get(piece) else {
            return Position { line: 1, column: 1 };
        };
        let is_near = |(latest, _): &(usize, Position)| (begin.0..=offset).contains(latest);
        let (start, known) = self.latest.get().filter(is_near).unwrap_or(begin);
        let columns = self.text.get(start..offset).map_or(0, |text| text.chars().count());
        let position = Position {
            column: known.column + columns as u32,
            ..known
        };
        self.latest.set(Some((offset, position)));
        position
    }

    fn span(&self, start: usize, end: usize) -> Span {
        let last = self.text[start..end].chars().next_back().map_or(0, char::len_utf8);
        let start = self.position(start);
        let mut end = self.position(end - last);
        end.column += u32::from(last > 0);
        Span { start, end }
    }
}

impl Node {
    /// Reads a joined line. A failure concerns the arguments; the node is there all the same.
    pub(super) fn read(joined: &Joined, lines: Lines, context: Context) -> (Self, Result<(), String>) {
        let whole = joined.text.trim();
        let start = joined.text.len() - joined.text.trim_start().len();
        read_at(joined, start, whole, lines, context, 0)
    }

    /// The instruction word as written.
    pub fn word(&self) -> &str {
        words::first_word(&self.text).0
    }

    /// The arguments as written, without flags, trimmed.
    pub fn rest(&self) -> &str {
        &self.text[self.args_at..]
    }

    /// Whether here-documents may belong to this instruction.
    pub(super) fn takes_heredocs(&self) -> bool {
        match &self.args {
            Args::Json(_) => false,
            Args::Nested(inner) => inner.takes_heredocs(),
            _ => matches!(keyword(self.word()), "ADD" | "COPY" | "RUN"),
        }
    }

    /// Gives the instruction, or the one inside it, its here-documents.
    pub(crate) fn attach(&mut self, heredocs: &[Heredoc]) {
        self.heredocs = heredocs.to_vec();
        if let Args::Nested(inner) = &mut self.args {
            inner.attach(heredocs);
            inner.lines = self.lines;
        }
    }
}

/// Triggers do not nest, so one level is all that is worth reading.
const MAX_NESTING: usize = 2;

fn read_at(
    joined: &Joined,
    start: usize,
    text: &str,
    lines: Lines,
    context: Context,
    depth: usize,
) -> (Node, Result<(), String>) {
    let (word, rest) = words::first_word(text);
    let rest_start = start + text.len() - rest.len();
    let (flags, args_offset) = flags(joined, rest_start, rest, context.escape);
    let arguments = rest[args_offset..].trim();
    let args_start = rest_start + args_offset + (rest[args_offset..].len() - rest[args_offset..].trim_start().len());
    let keyword = keyword(word);
    let parsed = match keyword {
        "ADD" | "COPY" | "VOLUME" => args::json_or_words(arguments),
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => args::json_or_text(arguments),
        "HEALTHCHECK" => args::typed(arguments),
        "ENV" | "LABEL" => args::pairs(arguments, context.escape, keyword),
        "ARG" => Ok(Args::Words(
            words::quoted(arguments, context.escape)
                .into_iter()
                .map(str::to_owned)
                .collect(),
        )),
        "EXPOSE" | "FROM" => Ok(Args::Words(words::at_blanks(arguments))),
        "ONBUILD" if !arguments.is_empty() && depth < MAX_NESTING => {
            let (inner, result) = read_at(joined, args_start, arguments, lines, context, depth + 1);
            result.map(|()| Args::Nested(Box::new(inner)))
        }
        _ => Ok(Args::Text(arguments.to_owned())),
    };
    let (args, result) = match parsed {
        Ok(args) => (args, Ok(())),
        Err(message) => (Args::Text(arguments.to_owned()), Err(message)),
    };
    let node = Node {
        word_span: joined.span(start, start + word.len()),
        flags,
        args,
        args_span: joined.span(args_start, args_start + arguments.len()),
        text: text.into(),
        args_at: args_start - start,
        lines,
        heredocs: Vec::new(),
        comments: Vec::new(),
        empty_continuation: None,
    };
    (node, result)
}

/// Takes the words that begin with `--` off `rest`. Returns them and the offset of what follows.
///
/// Quotes are removed, also in the middle of a word; the escape character makes the next one literal everywhere. A word
/// that is exactly `--` ends the flags.
fn flags(joined: &Joined, base: usize, rest: &str, escape: char) -> (Vec<FlagWord>, usize) {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let here = rest[at..].trim_start();
        at = rest.len() - here.len();
        if !here.starts_with("--") {
            return (found, at);
        }
        let (text, length) = flag_word(here, escape);
        let span = joined.span(base + at, base + at + length);
        at += length;
        if text == "--" {
            return (found, at);
        }
        found.push(FlagWord { text, span });
    }
}

fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => return (word, at),
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (c, _) if c == escape => word.extend(chars.next().map(|(_, c)| c)),
            (c, _) => word.push(c),
        }
    }
    (word, text.len())
}
