//! The character-level reader behind [`Expander`].

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::pattern::{self, Steps};
use super::{ExpandCause, ExpandError, Expanded, Variables};

/// How a text is read. The default removes quotes and escapes and gives unknown names the empty value.
#[derive(Debug, Clone, Copy)]
pub struct Expander {
    escape: char,
    keep_quotes: bool,
    keep_escapes: bool,
    keep_unknown: bool,
    quotes_are_text: bool,
    heredoc_words: bool,
}

impl Expander {
    /// How much longer than the text a result may be.
    pub const MAX_GROWTH_BYTES: usize = 1 << 20;
    /// Most steps that matching the patterns of one text may take, one per character looked at.
    pub const MAX_STEPS: usize = 1 << 26;
    /// Deepest nesting of substitutions.
    pub const MAX_DEPTH: usize = 64;

    /// Reads with `escape` as the escape character.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            keep_quotes: false,
            keep_escapes: false,
            keep_unknown: false,
            quotes_are_text: false,
            heredoc_words: false,
        }
    }

    /// For the body of a heredoc: quotes are ordinary characters.
    pub fn heredoc_body() -> Self {
        Self {
            quotes_are_text: true,
            ..Self::new('\\')
        }
    }

    /// For showing a command: quotes stay, and so do variables that have no value.
    pub fn display(escape: char) -> Self {
        Self {
            keep_quotes: true,
            keep_unknown: true,
            ..Self::new(escape)
        }
    }

    /// For splitting a line into shell words as they are written.
    pub(crate) fn raw_words() -> Self {
        Self {
            keep_quotes: true,
            keep_escapes: true,
            keep_unknown: true,
            heredoc_words: true,
            ..Self::new('\\')
        }
    }

    /// For removing quotes and escapes only.
    pub(crate) fn unquote() -> Self {
        Self {
            keep_unknown: true,
            ..Self::new('\\')
        }
    }

    /// Expands `word`.
    ///
    /// # Errors
    /// Unbalanced quotes, malformed or unknown substitutions, `${name:?}` without value, and results beyond the limits.
    pub fn expand<'a>(&self, word: &'a str, variables: &'a dyn Variables) -> Result<Expanded<'a>, ExpandError> {
        // Most words mean nothing but themselves.
        let may_mean_more = |b: u8| matches!(b, b'\'' | b'"' | b'$') || !b.is_ascii() || char::from(b) == self.escape;
        if !word.bytes().any(may_mean_more) {
            return Ok(Expanded {
                value: word.into(),
                effort: word.len(),
                ..Expanded::default()
            });
        }
        let mut reader = Reader::new(*self, word, variables);
        match reader.until(None, self.keep_escapes) {
            Ok(value) => Ok(Expanded {
                effort: reader.effort(),
                value: value.into(),
                matched: reader.matched,
                unmatched: reader.unmatched,
            }),
            Err(cause) => Err(reader.error(word, cause)),
        }
    }

    /// Expands `text` and splits what comes out at unquoted blanks, be they of the text or of values.
    ///
    /// # Errors
    /// As [`Self::expand`].
    pub fn words(&self, text: &str, variables: &dyn Variables) -> Result<Vec<String>, ExpandError> {
        let mut reader = Reader::new(*self, text, variables);
        reader.words = Some(Words::default());
        match reader.until(None, self.keep_escapes) {
            Ok(_) => Ok(reader.words.map(Words::finish).unwrap_or_default()),
            Err(cause) => Err(reader.error(text, cause)),
        }
    }
}

struct Reader<'a> {
    how: Expander,
    rest: &'a str,
    variables: &'a dyn Variables,
    depth: usize,
    /// Bytes produced so far at all levels, which bounds the work as well as the result.
    produced: usize,
    limit: usize,
    steps: Steps,
    /// `None` if nobody asked for them.
    words: Option<Words>,
    matched: BTreeSet<&'a str>,
    unmatched: BTreeSet<&'a str>,
}

/// What a piece of the text comes to.
type Piece<'a> = Result<Cow<'a, str>, ExpandCause>;

impl<'a> Reader<'a> {
    fn new(how: Expander, text: &'a str, variables: &'a dyn Variables) -> Self {
        Self {
            how,
            rest: text,
            variables,
            depth: 0,
            produced: 0,
            // Text inside of substitutions is produced once per level.
            limit: Expander::MAX_GROWTH_BYTES + text.len().saturating_mul(Expander::MAX_DEPTH),
            steps: Steps(Expander::MAX_STEPS),
            words: None,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    fn error(self, text: &str, cause: ExpandCause) -> ExpandError {
        ExpandError {
            effort: self.effort(),
            word: text.to_owned(),
            cause,
            unmatched: self.unmatched.into_iter().map(str::to_owned).collect(),
        }
    }

    fn effort(&self) -> usize {
        self.produced + Expander::MAX_STEPS.saturating_sub(self.steps.0)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, want: char) -> bool {
        let eaten = self.peek() == Some(want);
        if eaten {
            self.next();
        }
        eaten
    }

    fn count(&mut self, bytes: usize) -> Result<(), ExpandCause> {
        self.produced += bytes;
        if self.produced > self.limit {
            Err(ExpandCause::TooLong(self.limit))
        } else {
            Ok(())
        }
    }

    /// Reads up to and including `stop`, or to the end if there is none.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<String, ExpandCause> {
        let mut out = String::new();
        let top = stop.is_none();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.next();
                return Ok(out);
            }
            let before = out.len();
            match c {
                '\'' if !self.how.quotes_are_text => {
                    let text = self.single_quoted()?;
                    self.word(top, |words| words.quoted(text));
                    out.push_str(text);
                }
                '"' if !self.how.quotes_are_text => {
                    let text = self.double_quoted()?;
                    self.word(top, |words| words.quoted(&text));
                    out.push_str(&text);
                }
                '$' => {
                    let text = self.dollar()?;
                    self.word(top, |words| words.splittable(&text));
                    out.push_str(&text);
                }
                c if c == self.how.escape => {
                    self.next();
                    let mut text = String::new();
                    if keep_escapes {
                        text.push(c);
                    }
                    text.extend(self.next());
                    self.word(top, |words| words.quoted(&text));
                    out.push_str(&text);
                }
                '<' if top && self.how.heredoc_words && self.rest.starts_with("<<") => {
                    let blanks = self.rest[2..].len() - self.rest[2..].trim_start_matches([' ', '\t']).len();
                    let (text, rest) = self.rest.split_at(2 + blanks);
                    self.rest = rest;
                    self.word(top, |words| words.quoted(text));
                    out.push_str(text);
                }
                _ => {
                    let text = self.plain(stop);
                    self.word(top, |words| words.splittable(text));
                    out.push_str(text);
                }
            }
            self.count(out.len() - before)?;
        }
        match stop {
            None => Ok(out),
            // Whoever gave a stop character knows what is missing and says so.
            Some(_) => Err(ExpandCause::MissingBrace),
        }
    }

    fn word(&mut self, top: bool, add: impl FnOnce(&mut Words)) {
        if let Some(words) = self.words.as_mut().filter(|_| top) {
            add(words);
        }
    }

    /// The next character and those behind it that mean nothing but themselves.
    fn plain(&mut self, stop: Option<char>) -> &'a str {
        let escape = self.how.escape;
        let is_special = |c: char| matches!(c, '\'' | '"' | '$' | '<') || c == escape || stop == Some(c);
        let first = self.peek().map_or(0, char::len_utf8);
        let end = self.rest[first..]
            .find(is_special)
            .map_or(self.rest.len(), |at| first + at);
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text
    }

    fn single_quoted(&mut self) -> Result<&'a str, ExpandCause> {
        let inner = &self.rest[1..];
        let end = inner.find('\'').ok_or(ExpandCause::UnmatchedQuote("single"))?;
        let text = if self.how.keep_quotes {
            &self.rest[..end + 2]
        } else {
            &inner[..end]
        };
        self.rest = &inner[end + 1..];
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String, ExpandCause> {
        let mut out = String::new();
        self.next();
        if self.how.keep_quotes {
            out.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandCause::UnmatchedQuote("double")),
                Some('"') => {
                    self.next();
                    if self.how.keep_quotes {
                        out.push('"');
                    }
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.how.escape => {
                    self.next();
                    match self.peek() {
                        Some(next) if next == '"' || next == '$' || next == self.how.escape => {
                            self.next();
                            if self.how.keep_escapes {
                                out.push(c);
                            }
                            out.push(next);
                        }
                        Some(_) => out.push(c),
                        None => {}
                    }
                }
                Some(c) => {
                    self.next();
                    out.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Piece<'a> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let (value, known) = self.look_up(name)?;
            return Ok(if known || !self.how.keep_unknown {
                value.into()
            } else {
                format!("${name}").into()
            });
        }
        self.next();
        self.depth += 1;
        if self.depth > Expander::MAX_DEPTH {
            return Err(ExpandCause::TooDeep(Expander::MAX_DEPTH));
        }
        let value = self.braced();
        self.depth -= 1;
        value
    }

    fn braced(&mut self) -> Piece<'a> {
        match self.peek() {
            None => return Err(ExpandCause::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandCause::BadSubstitution),
            _ => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => {
                let (value, known) = self.look_up(name)?;
                Ok(if known || !self.how.keep_unknown {
                    value.into()
                } else {
                    format!("${{{name}}}").into()
                })
            }
            Some('/') => self.replace(name),
            Some(':') => {
                let operator = self.next();
                self.operator(name, true, operator)
            }
            operator => self.operator(name, false, operator),
        }
    }

    /// `-`, `+`, `?`, `#` and `%`; with `colon` an empty value counts as none.
    fn operator(&mut self, name: &'a str, colon: bool, operator: Option<char>) -> Piece<'a> {
        let shown = || {
            format!(
                "{}{}",
                if colon { ":" } else { "" },
                operator.unwrap_or(char::REPLACEMENT_CHARACTER)
            )
        };
        let trims = matches!(operator, Some('#' | '%'));
        let is_known = matches!(operator, Some('-' | '+' | '?' | '#' | '%'));
        // Behind a colon the end of the substitution is looked for first, whatever stands there.
        if (colon && trims) || !(colon || is_known) {
            return Err(ExpandCause::UnsupportedModifier(shown()));
        }
        let word = self.part('}', trims, ExpandCause::MissingBrace)?;
        let (value, known) = self.look_up(name)?;
        if !known && self.how.keep_unknown {
            return Ok(format!("${{{name}{}{word}}}", shown()).into());
        }
        let absent = !known || (colon && value.is_empty());
        match operator {
            Some('-') => Ok(if absent { word.into() } else { value.into() }),
            Some('+') => Ok(if absent { "".into() } else { word.into() }),
            Some('?') if absent => {
                let message = match (word.is_empty(), known) {
                    (false, _) => word,
                    (true, false) => "is not allowed to be unset".to_owned(),
                    (true, true) => "is not allowed to be empty".to_owned(),
                };
                Err(ExpandCause::Required {
                    name: name.to_owned(),
                    message,
                })
            }
            Some('?') => Ok(value.into()),
            Some('#') => {
                let (pattern, greedy) = word
                    .strip_prefix('#')
                    .map_or((&*word, false), |pattern| (pattern, true));
                pattern::trim_prefix(pattern, value, greedy, &mut self.steps).map(Cow::Borrowed)
            }
            Some('%') => {
                let (pattern, greedy) = word
                    .strip_prefix('%')
                    .map_or((&*word, false), |pattern| (pattern, true));
                pattern::trim_suffix(pattern, value, greedy, &mut self.steps).map(Cow::Borrowed)
            }
            _ => Err(ExpandCause::UnsupportedModifier(shown())),
        }
    }

    fn replace(&mut self, name: &'a str) -> Piece<'a> {
        let all = self.eat('/');
        let pattern = self.part('/', true, ExpandCause::MissingSlash)?;
        let replacement = self.part('}', true, ExpandCause::MissingBrace)?;
        let (value, known) = self.look_up(name)?;
        if !known && self.how.keep_unknown {
            return Ok(format!("${{{name}/{}{pattern}/{replacement}}}", if all { "/" } else { "" }).into());
        }
        let left = self.limit.saturating_sub(self.produced);
        let replaced = pattern::replace(&pattern, value, &replacement, all, left, &mut self.steps)?;
        self.count(replaced.len())?;
        Ok(replaced.into())
    }

    /// A part of a substitution, up to `stop`. A text that ends early lacks that character, whatever else it lacks.
    fn part(&mut self, stop: char, keep_escapes: bool, missing: ExpandCause) -> Result<String, ExpandCause> {
        self.until(Some(stop), keep_escapes)
            .map_err(|cause| if self.rest.is_empty() { missing } else { cause })
    }

    /// A name; empty if there is none here.
    fn name(&mut self) -> &'a str {
        let end = match self.peek() {
            Some(c) if c.is_numeric() => self.rest.find(|c: char| !c.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
        };
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        name
    }

    /// The value of a name; empty, and false, if it has none.
    fn look_up(&mut self, name: &'a str) -> Result<(&'a str, bool), ExpandCause> {
        match self.variables.get(name) {
            Some(value) => {
                self.count(value.len())?;
                self.matched.insert(name);
                Ok((value, true))
            }
            None => {
                self.unmatched.insert(name);
                Ok(("", false))
            }
        }
    }
}

/// Collects words: blanks outside of quotes end one.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: Option<String>,
}

impl Words {
    fn plain(&mut self, c: char) {
        if c.is_whitespace() {
            self.done.extend(self.current.take());
        } else {
            self.current.get_or_insert_default().push(c);
        }
    }

    fn splittable(&mut self, text: &str) {
        text.chars().for_each(|c| self.plain(c));
    }

    fn quoted(&mut self, text: &str) {
        self.current.get_or_insert_default().push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        self.done.extend(self.current);
        self.done
    }
}
