//! A list of patterns as `.dockerignore` means it, and the state a tree walk carries.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::automaton::{Automaton, Facts, Numbers, Positions};
use crate::error::PatternError;
use crate::program::Program;
use crate::rune;

/// An ordered list of patterns that decides about paths.
///
/// Paths are relative, slash-separated and cleaned (`a/b`, not `/a/b` or `./a/`). A pattern matches a
/// path when it matches the path itself *or any of its parent directories*; of all patterns that
/// match, the last one decides, and one that begins with `!` decides for "not matched".
///
/// | pattern part | matches |
/// |---|---|
/// | `*`, `?` | any run of characters, one character, none of them `/` |
/// | `**/`, `**` | any number of directories; at the end, everything below |
/// | `d**`, `**txt` | everything beginning with `d`; everything ending in `txt` |
/// | `[a-z]`, `[^a-z]` | one character in, or not in, the class |
/// | `\*` | the character itself |
///
/// Patterns are cleaned first, so `./a`, `a/` and `d/../a` are `a`. A leading `/` is kept and so never
/// matches; reading an ignore file through [`crate::ignorefile`] drops it.
#[derive(Debug)]
pub struct PatternSet {
    program: Program,
    // Held for one path at a time and never across anything that waits.
    automaton: Mutex<Automaton>,
}

/// Where a walk stands: the verdict on one path, and what its entries need to go on from there.
#[derive(Debug, Clone)]
pub struct DirState {
    /// Positions after this path and a slash; shared with the set's table.
    below: Positions,
    below_id: u32,
    generation: u32,
    facts_below: Facts,
    /// The last pattern that matches this path or a parent, counted from 1; 0 is none.
    decided_by: u32,
    /// All patterns that hold for this path, if their order matters.
    matched: Numbers,
    is_match: bool,
}

impl PatternSet {
    /// Longest pattern that is accepted.
    pub const MAX_PATTERN_BYTES: usize = 4_096;
    /// Most patterns that one set holds.
    pub const MAX_PATTERNS: usize = 50_000;
    /// Most bytes that all patterns of one set may have together.
    pub const MAX_TOTAL_BYTES: usize = 4 << 20;
    /// Most bytes that the patterns with wildcards may have together, repetitions written out: they are what matching time grows with.
    pub const MAX_WILDCARD_BYTES: usize = 128 << 10;

    /// Compiles patterns, in order. Blank ones are skipped.
    ///
    /// # Errors
    /// The first pattern that is malformed, or the limit that the list exceeds.
    pub fn new<I, S>(patterns: I) -> Result<Self, PatternError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<[u8]>,
    {
        let mut program = Program::default();
        let (mut total, mut wild) = (0, 0);
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let bytes = pattern.len();
            if bytes > Self::MAX_PATTERN_BYTES {
                return Err(PatternError::PatternTooLong {
                    bytes,
                    limit: Self::MAX_PATTERN_BYTES,
                });
            }
            let before = (program.len(), program.insts.len());
            program.add(pattern)?;
            if program.len() == before.0 {
                continue;
            }
            total += bytes;
            wild += program.wild_since(before.1);
            bound(program.len(), Self::MAX_PATTERNS, "patterns")?;
            bound(total, Self::MAX_TOTAL_BYTES, "bytes")?;
            bound(wild, Self::MAX_WILDCARD_BYTES, "bytes of patterns with wildcards")?;
        }
        let automaton = Mutex::new(Automaton::new(&program));
        Ok(Self { program, automaton })
    }

    /// Whether the list holds no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.program.len() == 0
    }

    /// Whether any pattern begins with `!`.
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        self.program.negated.contains(&true)
    }

    /// Whether the list matches `path`. The root (`` or `.`) is never matched.
    ///
    /// # Errors
    /// [`PatternError::Meaningless`] if the verdict depends on such a pattern.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> Result<bool, PatternError> {
        let path = path.as_ref();
        if self.is_empty() || path.is_empty() {
            return Ok(false);
        }
        let automaton = &mut *self.lock();
        let mut state = automaton.start(&self.program);
        let mut decided_by = 0;
        let mut accepted = BTreeSet::new();
        for c in rune::all(path).chain(['/']) {
            if c == '/' {
                decided_by = decided_by.max(automaton.facts(state).accepted);
                accepted.extend(automaton.accepted(state).iter());
            }
            state = automaton.step(&self.program, state, c);
        }
        if !self.program.broken.is_empty() {
            let accepted: Vec<u32> = accepted.into_iter().collect();
            decided_by = self.decide(&[], &accepted)?.last().copied().unwrap_or(0);
        }
        Ok(self.verdict(decided_by))
    }

    /// Whether a path below the directory `dir` (`` or `.` for the root) could be matched.
    ///
    /// # Errors
    /// As of [`PatternSet::enter`].
    pub fn may_match_below(&self, dir: &str) -> Result<bool, PatternError> {
        Ok(self.walk_to(dir)?.may_match_below())
    }

    /// Whether a path below the directory `dir` could be *not* matched; for ignore rules, whether a
    /// directory that is itself ignored has to be entered all the same.
    ///
    /// # Errors
    /// As of [`PatternSet::enter`].
    pub fn may_exempt_below(&self, dir: &str) -> Result<bool, PatternError> {
        Ok(self.walk_to(dir)?.may_exempt_below())
    }

    /// The state of a walk at the root.
    #[must_use]
    pub fn root(&self) -> DirState {
        let automaton = &mut *self.lock();
        let state = automaton.start(&self.program);
        self.state(automaton, state, 0, Numbers::default())
    }

    /// The state of the entry `name` of the directory that `parent` stands for.
    ///
    /// Takes time proportional to the name. `name` is one path element; `parent` has to come from
    /// this very set.
    ///
    /// The verdict is not always that of [`PatternSet::matches`]: on a walk, a pattern that could not change the verdict on
    /// a directory is not asked about it, and so does not hold for what is below either, unless it matches that itself.
    /// With `d`, `!d/e` and `d` again, `d/e` is not matched. Other builders walk like this, and select the same files.
    ///
    /// # Errors
    /// [`PatternError::Meaningless`] if the verdict depends on such a pattern.
    pub fn enter(&self, parent: &DirState, name: impl AsRef<[u8]>) -> Result<DirState, PatternError> {
        let automaton = &mut *self.lock();
        let mut state = if parent.generation == automaton.generation {
            parent.below_id
        } else {
            automaton.intern(&self.program, &parent.below)
        };
        for c in rune::all(name.as_ref()) {
            state = automaton.step(&self.program, state, c);
        }
        let (decided_by, matched) = if self.program.is_ordered() {
            let matched = self.decide(&parent.matched, automaton.accepted(state))?;
            (matched.last().copied().unwrap_or(0), matched)
        } else {
            let latest = automaton.facts(state).accepted;
            (parent.decided_by.max(latest), Numbers::default())
        };
        let below = automaton.step(&self.program, state, '/');
        Ok(self.state(automaton, below, decided_by, matched))
    }

    /// Which patterns hold for a path: those that hold for its parent, and those that are asked and match.
    fn decide(&self, parent: &[u32], accepted: &[u32]) -> Result<Numbers, PatternError> {
        let broken = &self.program.broken;
        if broken.is_empty() && accepted.iter().all(|number| parent.binary_search(number).is_ok()) {
            return Ok(parent.into());
        }
        let mut numbers: Vec<u32> = parent.iter().chain(accepted).chain(broken.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut is_match = false;
        let mut held = Vec::new();
        for number in numbers {
            let negated = self.program.negated[number as usize - 1];
            if parent.binary_search(&number).is_err() {
                // Would change nothing.
                if negated != is_match {
                    continue;
                }
                if let Some(pattern) = broken.get(&number) {
                    let pattern = pattern.clone();
                    return Err(PatternError::Meaningless { pattern });
                }
            }
            held.push(number);
            is_match = !negated;
        }
        Ok(held.into())
    }

    fn walk_to(&self, dir: &str) -> Result<DirState, PatternError> {
        dir.split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .try_fold(self.root(), |state, name| self.enter(&state, name))
    }

    fn state(&self, automaton: &Automaton, below_id: u32, decided_by: u32, matched: Numbers) -> DirState {
        DirState {
            below: automaton.positions(below_id).clone(),
            below_id,
            generation: automaton.generation,
            facts_below: automaton.facts(below_id),
            decided_by,
            matched,
            is_match: self.verdict(decided_by),
        }
    }

    fn verdict(&self, decided_by: u32) -> bool {
        decided_by != 0 && !self.program.negated[decided_by as usize - 1]
    }

    fn lock(&self) -> MutexGuard<'_, Automaton> {
        // The table is a cache that every step leaves consistent, so a panic elsewhere cannot spoil it.
        self.automaton.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for PatternSet {
    fn clone(&self) -> Self {
        let program = self.program.clone();
        let automaton = Mutex::new(Automaton::new(&program));
        Self { program, automaton }
    }
}

impl DirState {
    /// Whether the list matches this path.
    #[must_use]
    pub fn is_match(&self) -> bool {
        self.is_match
    }

    /// Whether something below this path could be matched.
    #[must_use]
    pub fn may_match_below(&self) -> bool {
        // A pattern that ends right behind the slash, such as `d/**`, has matched all that follows.
        self.is_match || self.facts_below.live_plain.max(self.facts_below.accepted) > self.decided_by
    }

    /// Whether something below this path could be *not* matched.
    #[must_use]
    pub fn may_exempt_below(&self) -> bool {
        !self.is_match || self.facts_below.live_negated > self.decided_by
    }
}

fn bound(count: usize, limit: usize, what: &'static str) -> Result<(), PatternError> {
    if count > limit {
        Err(PatternError::ListTooLarge { what, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
