//! Patterns compiled to one nondeterministic automaton.
//!
//! All patterns live in one flat instruction list. A *position* is an index into it: "this is the
//! instruction that the next character has to satisfy". A set of positions is all there is to know
//! about the part of a path read so far, which is what lets a tree walk resume where its parent
//! directory left off.

use std::collections::BTreeMap;

use crate::clean::clean;
use crate::error::PatternError;
use crate::token::{BadPattern, Class};
use crate::{glob, regex, rune};

#[derive(Debug, Clone)]
pub(crate) enum Inst {
    /// Exactly this character.
    Literal(char),
    /// One character of the class.
    Class(Class),
    /// One character of the class, or none.
    Maybe(Class),
    /// Any run of characters of the class.
    Run(Class),
    /// Any run of characters.
    Anything,
    /// The entry of `**` before more pattern: skip the next instruction, or go through it.
    MaybeDirs,
    /// Any run of characters that ends in `/`.
    Dirs,
    /// The end of a pattern: it has matched.
    Accept,
}

impl Inst {
    /// Whether it matches nothing, too.
    pub(crate) fn can_be_nothing(&self) -> bool {
        // The loop of directories is only reached through what may skip it.
        !matches!(self, Self::Literal(_) | Self::Class(_) | Self::Accept)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) insts: Vec<Inst>,
    /// Per instruction, the pattern it belongs to.
    pub(crate) owner: Vec<u32>,
    /// Where each alternative of each pattern begins.
    pub(crate) starts: Vec<u32>,
    /// Per pattern, whether it begins with `!`.
    pub(crate) negated: Vec<bool>,
    /// Patterns, counted from 1 and as written, that mean nothing: an error where they are come to, and not before.
    pub(crate) broken: BTreeMap<u32, String>,
}

impl Program {
    /// Adds one pattern as a client writes it. Blank ones are skipped.
    pub(crate) fn add(&mut self, pattern: &[u8]) -> Result<(), PatternError> {
        let text = rune::text(pattern);
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(());
        }
        // The mark is a part of the path that is cleaned.
        let cleaned = clean(trimmed);
        let (negated, body) = match cleaned.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, &*cleaned),
        };
        if body.is_empty() {
            return Err(PatternError::EmptyExclusion {
                pattern: trimmed.to_owned(),
            });
        }
        let broken = || String::from_utf8_lossy(pattern).into_owned();
        glob::check_beginning(body).map_err(|BadPattern| PatternError::Syntax { pattern: broken() })?;
        let alternatives = regex::compile(&regex::rewrite(body));
        self.negated.push(negated);
        let number = self.negated.len() as u32;
        for insts in alternatives.unwrap_or_else(|BadPattern| {
            self.broken.insert(number, broken());
            Vec::new()
        }) {
            self.starts.push(self.insts.len() as u32);
            self.insts.extend(insts);
            self.insts.push(Inst::Accept);
            self.owner.resize(self.insts.len(), number - 1);
        }
        Ok(())
    }

    /// How many patterns there are.
    pub(crate) fn len(&self) -> usize {
        self.negated.len()
    }

    /// Whether it matters which patterns were come to in which order, beside the last that matches.
    pub(crate) fn is_ordered(&self) -> bool {
        self.negated.contains(&true) || !self.broken.is_empty()
    }

    /// How many instructions there are from the one at `first`, if they can match more than one path.
    pub(crate) fn wild_since(&self, first: usize) -> usize {
        let insts = &self.insts[first..];
        let is_plain = |inst: &Inst| matches!(inst, Inst::Literal(_) | Inst::Accept);
        if insts.iter().all(is_plain) { 0 } else { insts.len() }
    }
}
