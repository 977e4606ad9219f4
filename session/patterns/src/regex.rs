//! The regular expressions that other builders make of patterns, and what these mean.
//!
//! Which files a pattern selects must not depend on the builder, and elsewhere a pattern with wildcards is rewritten as a
//! regular expression of Go's. The rewriting leaves some characters alone that mean something there: `|` between whole
//! alternatives, `^`, repetitions such as `a{2}`, and whatever `*`, `?` and letters behind `\` become inside of brackets.
//! So this rewrites in the same way, and reads the result.

use std::iter::Peekable;
use std::str::Chars;

use crate::program::Inst;
use crate::token::{BadPattern, Class};

/// Most times that a repetition may ask for.
const MAX_REPEAT: usize = 1_000;
/// Most instructions of one pattern.
const MAX_INSTS: usize = 8_192;

/// What a cleaned pattern is compared as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// A path, as it stands.
    Exact(&'a str),
    /// The beginning of paths, as it stands.
    Prefix(&'a str),
    /// The end of paths, as it stands; one that begins with `/` is a path too, without it.
    Suffix(&'a str),
    /// A regular expression.
    Regex(String),
}

/// Rewrites a cleaned pattern.
///
/// Two forms of `**` are not what their position suggests, and users rely on both: `d**` matches everything that begins
/// with `d`, and `**txt`, when no other wildcard follows, everything that ends in `txt`. In all other places `**` stands
/// for whole directories.
pub(crate) fn rewrite(pattern: &str) -> Form<'_> {
    let mut regex = String::with_capacity(pattern.len() + 8);
    let mut form = Form::Exact(pattern);
    let mut chars = pattern.chars().peekable();
    let mut is_first = true;
    while let Some(c) = chars.next() {
        let wild = |form: &mut Form<'_>| *form = Form::Regex(String::new());
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    regex.push_str("(.*/)?");
                    wild(&mut form);
                } else if form == Form::Exact(pattern) {
                    form = Form::Prefix(pattern.strip_suffix("**").unwrap_or(pattern));
                } else {
                    regex.push_str(".*");
                    wild(&mut form);
                }
                if is_first {
                    form = Form::Suffix(&pattern[2..]);
                }
            }
            '*' | '?' => {
                regex.push_str(if c == '*' { "[^/]*" } else { "[^/]" });
                wild(&mut form);
            }
            '.' | '+' | '(' | ')' | '$' => regex.extend(['\\', c]),
            '\\' => {
                regex.push('\\');
                if let Some(next) = chars.next() {
                    regex.push(next);
                    wild(&mut form);
                }
            }
            '[' | ']' => {
                regex.push(c);
                wild(&mut form);
            }
            c => regex.push(c),
        }
        is_first = false;
    }
    match form {
        Form::Regex(_) => Form::Regex(regex),
        form => form,
    }
}

/// The alternatives of a pattern; each matches whole paths.
pub(crate) fn compile(form: &Form<'_>) -> Result<Vec<Vec<Inst>>, BadPattern> {
    let literals = |text: &str| text.chars().map(Inst::Literal).collect::<Vec<_>>();
    Ok(vec![match form {
        Form::Exact(path) => literals(path),
        Form::Prefix(beginning) => [literals(beginning), vec![Inst::Anything]].concat(),
        Form::Suffix(end) => match end.strip_prefix('/') {
            Some(rest) => [vec![Inst::MaybeDirs, Inst::Dirs], literals(rest)].concat(),
            None => [vec![Inst::Anything], literals(end)].concat(),
        },
        Form::Regex(regex) => return alternatives(regex),
    }])
}

/// Reads a regular expression of those that [`rewrite`] makes, without the anchors around it.
fn alternatives(regex: &str) -> Result<Vec<Vec<Inst>>, BadPattern> {
    let mut chars = regex.chars().peekable();
    let mut all = Vec::new();
    // The anchor at the beginning belongs to the first alternative alone, and that at the end to the last one.
    let mut branch = Branch::new(true);
    while let Some(c) = chars.next() {
        if c == '|' {
            all.push(branch.finish(false));
            branch = Branch::new(false);
        } else {
            branch.read(c, &mut chars)?;
        }
        if branch.insts.len() > MAX_INSTS {
            return Err(BadPattern);
        }
    }
    all.push(branch.finish(true));
    Ok(all)
}

/// One alternative under construction.
struct Branch {
    insts: Vec<Inst>,
    /// Whether it can only match at the beginning of a path.
    is_anchored: bool,
    /// Whether anything may follow it, where nothing else would.
    is_open: bool,
    last: Last,
}

/// What a repetition would repeat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    /// The last instruction.
    Character,
    /// Something that is repeated already.
    Repeated,
    /// An assertion, of which one is as good as many.
    Assertion,
}

impl Branch {
    fn new(is_anchored: bool) -> Self {
        Self {
            insts: Vec::new(),
            is_anchored,
            is_open: false,
            last: Last::Nothing,
        }
    }

    fn read(&mut self, c: char, chars: &mut Peekable<Chars<'_>>) -> Result<(), BadPattern> {
        match c {
            // Only ever `(.*/)?`, and `.*` at the end: what is written by hand is escaped.
            '(' => {
                for _ in 0.."(.*/)?".len() - 1 {
                    chars.next();
                }
                self.insts.extend([Inst::MaybeDirs, Inst::Dirs]);
                self.last = Last::Repeated;
            }
            '.' => {
                chars.next();
                self.insts.push(Inst::Anything);
                self.last = Last::Repeated;
            }
            '[' => self.push(Inst::Class(Class::parse_regex(chars)?)),
            '*' => self.repeat(0, None)?,
            '{' => match repetition(chars)? {
                Some((least, most)) => self.repeat(least, most)?,
                None => self.push(Inst::Literal('{')),
            },
            '^' => self.beginning(),
            '\\' => self.escape(chars)?,
            c => self.push(Inst::Literal(c)),
        }
        Ok(())
    }

    fn push(&mut self, inst: Inst) {
        self.insts.push(inst);
        self.last = Last::Character;
    }

    /// The beginning of a path: what is before it can only match nothing.
    fn beginning(&mut self) {
        if self.insts.iter().all(Inst::can_be_nothing) {
            self.insts.clear();
            self.is_anchored = true;
        } else {
            self.insts.push(Inst::Class(Class::empty()));
        }
        self.last = Last::Assertion;
    }

    fn repeat(&mut self, least: usize, most: Option<usize>) -> Result<(), BadPattern> {
        match self.last {
            Last::Nothing | Last::Repeated => return Err(BadPattern),
            Last::Assertion => {}
            Last::Character => {
                let inst = self.insts.pop().ok_or(BadPattern)?;
                let class = match &inst {
                    Inst::Literal(c) => Class::one(*c),
                    Inst::Class(class) => class.clone(),
                    _ => return Err(BadPattern),
                };
                self.insts.extend(std::iter::repeat_n(inst, least));
                match most {
                    Some(most) => {
                        let more = std::iter::repeat_n(Inst::Maybe(class), most.saturating_sub(least));
                        self.insts.extend(more);
                    }
                    None => self.insts.push(Inst::Run(class)),
                }
            }
        }
        self.last = Last::Repeated;
        Ok(())
    }

    fn escape(&mut self, chars: &mut Peekable<Chars<'_>>) -> Result<(), BadPattern> {
        let Some(letter) = chars.peek().copied() else {
            // Escapes the anchor at the end.
            self.push(Inst::Literal('$'));
            self.is_open = true;
            return Ok(());
        };
        let inst = match letter {
            'A' => {
                chars.next();
                self.beginning();
                return Ok(());
            }
            'b' | 'B' => {
                let is_boundary = chars.next() == Some('b');
                if self.is_boundary(chars.clone())? != is_boundary {
                    self.insts.push(Inst::Class(Class::empty()));
                }
                self.last = Last::Assertion;
                return Ok(());
            }
            // Quotes what follows, with the anchor at the end: no path has that.
            'Q' => {
                chars.by_ref().for_each(drop);
                Inst::Class(Class::empty())
            }
            // The end of a path, where more pattern follows.
            'z' => {
                chars.next();
                if chars.peek().is_some() {
                    self.insts.push(Inst::Class(Class::empty()));
                }
                self.last = Last::Assertion;
                return Ok(());
            }
            letter => match Class::perl(letter) {
                Some(class) => {
                    chars.next();
                    Inst::Class(class)
                }
                None => Inst::Literal(Class::escaped(chars)?),
            },
        };
        self.push(inst);
        Ok(())
    }

    /// Whether there is the boundary of a word before `after`. Refused where that depends on the path.
    fn is_boundary(&self, mut after: Peekable<Chars<'_>>) -> Result<bool, BadPattern> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let before = match self.insts.last() {
            None if self.is_anchored => false,
            Some(Inst::Literal(c)) => is_word(*c),
            _ => return Err(BadPattern),
        };
        let after = match after.next() {
            Some('\\') => after.next().filter(|c| !c.is_ascii_alphanumeric()).ok_or(BadPattern)?,
            Some('.' | '(' | '[' | '|' | '{' | '^') => return Err(BadPattern),
            Some(after) => after,
            None => '/',
        };
        let after = is_word(after);
        Ok(before != after)
    }

    fn finish(self, at_end: bool) -> Vec<Inst> {
        let mut insts = self.insts;
        if !self.is_anchored {
            insts.insert(0, Inst::Anything);
        }
        if !at_end || self.is_open {
            insts.push(Inst::Anything);
        }
        insts
    }
}

/// Reads what follows `{`, if that is a repetition.
fn repetition(chars: &mut Peekable<Chars<'_>>) -> Result<Option<(usize, Option<usize>)>, BadPattern> {
    let mut ahead = chars.clone();
    let number = |ahead: &mut Peekable<Chars<'_>>| {
        let mut digits = String::new();
        while let Some(c) = ahead.next_if(char::is_ascii_digit) {
            digits.push(c);
        }
        let leads = digits.len() > 1 && digits.starts_with('0');
        let value = digits.parse().unwrap_or(usize::MAX);
        (!digits.is_empty() && !leads).then_some(value)
    };
    let Some(least) = number(&mut ahead) else {
        return Ok(None);
    };
    let most = if ahead.next_if_eq(&',').is_none() {
        Some(least)
    } else if ahead.peek() == Some(&'}') {
        None
    } else {
        match number(&mut ahead) {
            Some(most) => Some(most),
            None => return Ok(None),
        }
    };
    if ahead.next() != Some('}') {
        return Ok(None);
    }
    *chars = ahead;
    if least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT || most < least) {
        return Err(BadPattern);
    }
    Ok(Some((least, most)))
}
