//! Patterns compiled to one nondeterministic automaton.
//!
//! All patterns live in one flat instruction list. A *position* is an index into it: "this is the
//! instruction that the next character has to satisfy". A set of positions is all there is to know
//! about the part of a path read so far, which is what lets a tree walk resume where its parent
//! directory left off.

use crate::clean::clean;
use crate::error::PatternError;
use crate::rune;
use crate::token::{BadPattern, Class};

#[derive(Debug, Clone)]
pub(crate) enum Inst {
    /// Exactly this character.
    Literal(char),
    /// One character that is not `/`.
    AnyChar,
    /// Any run of characters that are not `/`.
    Star,
    /// Any run of characters.
    Anything,
    /// The entry of `**` before more pattern: skip the next instruction, or go through it.
    MaybeDirs,
    /// Any run of characters that ends in `/`.
    Dirs,
    Class(Class),
    /// The end of a pattern: it has matched.
    Accept,
}

#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) insts: Vec<Inst>,
    /// Per instruction, the pattern it belongs to.
    pub(crate) owner: Vec<u32>,
    /// Where each pattern begins.
    pub(crate) starts: Vec<u32>,
    /// Per pattern, whether it begins with `!`.
    pub(crate) negated: Vec<bool>,
}

impl Program {
    /// Adds one pattern as a client writes it. Blank ones are skipped.
    pub(crate) fn add(&mut self, pattern: &[u8]) -> Result<(), PatternError> {
        let text = rune::text(pattern);
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(());
        }
        let (negated, body) = match trimmed.strip_prefix('!') {
            Some(body) => (true, body.trim_start()),
            None => (false, trimmed),
        };
        if body.is_empty() {
            return Err(PatternError::EmptyExclusion {
                pattern: trimmed.to_owned(),
            });
        }
        let insts = compile(&clean(body)).map_err(|BadPattern| PatternError::Syntax {
            pattern: String::from_utf8_lossy(pattern).into_owned(),
        })?;
        let index = self.negated.len() as u32;
        self.starts.push(self.insts.len() as u32);
        self.negated.push(negated);
        self.insts.extend(insts);
        self.insts.push(Inst::Accept);
        self.owner.resize(self.insts.len(), index);
        Ok(())
    }

    /// Whether any of the instructions of the latest pattern can match more than one character.
    pub(crate) fn latest_is_wild(&self) -> bool {
        let start = self.starts.last().map_or(0, |&s| s as usize);
        self.insts[start..]
            .iter()
            .any(|inst| !matches!(inst, Inst::Literal(_) | Inst::Accept))
    }
}

/// Compiles one cleaned pattern.
///
/// Two forms of `**` are not what their position suggests, and users rely on both: `d**` matches
/// everything that begins with `d`, and `**txt`, when no other wildcard follows, everything that
/// ends in `txt`. In all other places `**` stands for whole directories.
fn compile(pattern: &str) -> Result<Vec<Inst>, BadPattern> {
    let is_plain_suffix = pattern
        .strip_prefix("**")
        .is_some_and(|rest| !rest.starts_with('/') && !rest.contains(['*', '?', '[', ']', '\\']));
    let mut chars = pattern.chars().peekable();
    let mut insts = Vec::new();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() || (insts.is_empty() && is_plain_suffix) {
                    insts.push(Inst::Anything);
                } else {
                    insts.extend([Inst::MaybeDirs, Inst::Dirs]);
                }
            }
            '*' => insts.push(Inst::Star),
            '?' => insts.push(Inst::AnyChar),
            '[' => insts.push(Inst::Class(Class::parse(&mut chars)?)),
            '\\' => {
                let escaped = chars.next().ok_or(BadPattern)?;
                insts.extend(escape(escaped, insts.last(), chars.peek().copied())?);
            }
            c => insts.push(Inst::Literal(c)),
        }
    }
    Ok(insts)
}

/// What an escaped character stands for: itself, but letters have the meaning that they have in Go's regular expressions,
/// to which other builders hand them on. Nearly always it is a Windows path such as `dir\file`, which matches nothing
/// then. Escapes that cannot be told from a literal or a class are refused.
fn escape(c: char, before: Option<&Inst>, after: Option<char>) -> Result<Option<Inst>, BadPattern> {
    let literal = match c {
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'b' => return boundary(before, after),
        c if c.is_ascii_alphanumeric() => {
            let class = Class::perl(c).ok_or(BadPattern)?;
            return Ok(Some(Inst::Class(class)));
        }
        c => c,
    };
    Ok(Some(Inst::Literal(literal)))
}

/// The boundary of a word: nothing where there is one, and what never matches where there is none.
fn boundary(before: Option<&Inst>, after: Option<char>) -> Result<Option<Inst>, BadPattern> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let before = match before {
        None => false,
        Some(Inst::Literal(c)) => is_word(*c),
        Some(_) => return Err(BadPattern),
    };
    let after = match after {
        Some('*' | '?' | '[' | '\\') => return Err(BadPattern),
        after => after.is_some_and(is_word),
    };
    Ok((before == after).then(|| Inst::Class(Class::empty())))
}
