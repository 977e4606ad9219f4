//! The automaton made deterministic on demand.
//!
//! Each set of positions that paths really lead to gets a number and a row of transitions, filled in
//! when first taken, so that a long walk costs one table look-up per character however many patterns
//! there are. Hostile patterns could ask for a great many sets: when the table is full it is thrown
//! away and begun anew, which costs time proportional to the program per character at worst.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::program::{Inst, Program};

/// A set of positions, sorted.
pub(crate) type Positions = Arc<[u32]>;

/// Numbers of patterns, counted from 1 and sorted.
pub(crate) type Numbers = Arc<[u32]>;

/// What a state says about the path that led to it. Patterns are numbered from 1; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    /// The last pattern that matches the path read so far.
    pub(crate) accepted: u32,
    /// The last plain pattern that more characters could still match.
    pub(crate) live_plain: u32,
    /// The last `!` pattern that more characters could still match.
    pub(crate) live_negated: u32,
}

const UNKNOWN: u32 = u32::MAX;
/// Positions kept in all states together before the table is thrown away (4 bytes each).
const MAX_POSITIONS: usize = 1 << 20;
/// States kept before the table is thrown away.
const MAX_STATES: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Automaton {
    columns: Columns,
    is_ordered: bool,
    ids: HashMap<Positions, u32>,
    states: Vec<(Positions, Facts)>,
    /// Per state, all patterns that match, if their order matters.
    accepted: Vec<Numbers>,
    table: Vec<u32>,
    kept_positions: usize,
    /// Counts how often the table was thrown away; numbers of older generations mean nothing.
    pub(crate) generation: u32,
    /// Where every path begins, and the generation of that number.
    start: Option<(u32, u32)>,
    scratch: Scratch,
}

impl Automaton {
    pub(crate) fn new(program: &Program) -> Self {
        Self {
            columns: Columns::new(program),
            is_ordered: program.is_ordered(),
            ids: HashMap::new(),
            states: Vec::new(),
            accepted: Vec::new(),
            table: Vec::new(),
            kept_positions: 0,
            generation: 0,
            start: None,
            scratch: Scratch::default(),
        }
    }

    pub(crate) fn start(&mut self, program: &Program) -> u32 {
        if let Some((generation, state)) = self.start
            && generation == self.generation
        {
            return state;
        }
        self.scratch.begin(program);
        for &start in &program.starts {
            self.scratch.add(program, start);
        }
        let positions = self.scratch.finish();
        let state = self.intern(program, &positions);
        self.start = Some((self.generation, state));
        state
    }

    pub(crate) fn facts(&self, state: u32) -> Facts {
        self.states[state as usize].1
    }

    /// All patterns that match the path read so far; none if their order does not matter.
    pub(crate) fn accepted(&self, state: u32) -> &Numbers {
        &self.accepted[state as usize]
    }

    pub(crate) fn positions(&self, state: u32) -> &Positions {
        &self.states[state as usize].0
    }

    /// The number of a set of positions, giving it one if needed.
    pub(crate) fn intern(&mut self, program: &Program, positions: &Positions) -> u32 {
        if let Some(&id) = self.ids.get(positions) {
            return id;
        }
        if self.states.len() >= MAX_STATES || self.kept_positions > MAX_POSITIONS {
            self.ids.clear();
            self.states.clear();
            self.accepted.clear();
            self.table.clear();
            self.kept_positions = 0;
            self.generation = self.generation.wrapping_add(1);
        }
        let id = self.states.len() as u32;
        self.kept_positions += positions.len();
        self.ids.insert(Arc::clone(positions), id);
        self.states.push((Arc::clone(positions), facts(program, positions)));
        let accepted = self.all_accepted(program, positions);
        self.kept_positions += accepted.len();
        self.accepted.push(accepted);
        self.table.resize(self.states.len() * self.columns.width, UNKNOWN);
        id
    }

    fn all_accepted(&self, program: &Program, positions: &[u32]) -> Numbers {
        if !self.is_ordered {
            return Numbers::default();
        }
        let accepts = positions
            .iter()
            .filter(|at| matches!(program.insts[**at as usize], Inst::Accept));
        let mut numbers: Vec<u32> = accepts.map(|at| program.owner[*at as usize] + 1).collect();
        // Positions are sorted; of one pattern several alternatives may match.
        numbers.dedup();
        numbers.into()
    }

    /// The state after `state` reads `c`.
    pub(crate) fn step(&mut self, program: &Program, state: u32, c: char) -> u32 {
        let cell = self
            .columns
            .of(c)
            .map(|column| state as usize * self.columns.width + column);
        if let Some(cell) = cell
            && self.table[cell] != UNKNOWN
        {
            return self.table[cell];
        }
        let from = Arc::clone(self.positions(state));
        self.scratch.begin(program);
        for &at in from.iter() {
            self.scratch.advance(program, at, c);
        }
        let positions = self.scratch.finish();
        let generation = self.generation;
        let next = self.intern(program, &positions);
        if let Some(cell) = cell
            && generation == self.generation
        {
            self.table[cell] = next;
        }
        next
    }
}

fn facts(program: &Program, positions: &[u32]) -> Facts {
    let mut facts = Facts::default();
    for &at in positions {
        let pattern = program.owner[at as usize] + 1;
        let slot = match (&program.insts[at as usize], program.negated[pattern as usize - 1]) {
            (Inst::Accept, _) => &mut facts.accepted,
            (_, false) => &mut facts.live_plain,
            (_, true) => &mut facts.live_negated,
        };
        *slot = (*slot).max(pattern);
    }
    facts
}

/// Which column of the table a character uses. Those that no pattern tells apart share the first one.
#[derive(Debug)]
struct Columns {
    ascii: [u8; 128],
    width: usize,
    wide: Wide,
}

/// What the patterns know of characters beyond ASCII.
#[derive(Debug)]
enum Wide {
    /// These are mentioned, as themselves; nearly always none.
    Mentioned(HashSet<char>),
    /// Any may matter.
    Ranges,
}

impl Columns {
    fn new(program: &Program) -> Self {
        let mut distinct = [false; 128];
        distinct['/' as usize] = true;
        let mut wide = Wide::Mentioned(HashSet::new());
        for inst in &program.insts {
            match (inst, &mut wide) {
                (Inst::Literal(c), _) if c.is_ascii() => distinct[*c as usize] = true,
                (Inst::Literal(c), Wide::Mentioned(mentioned)) => drop(mentioned.insert(*c)),
                (Inst::Class(class) | Inst::Maybe(class) | Inst::Run(class), _) if !class.is_name() => {
                    distinct = [true; 128];
                    if !class.is_ascii() {
                        wide = Wide::Ranges;
                    }
                }
                _ => {}
            }
        }
        let mut ascii = [0; 128];
        let mut width = 1_u8;
        for (column, _) in ascii.iter_mut().zip(distinct).filter(|(_, distinct)| *distinct) {
            *column = width;
            width += 1;
        }
        Self {
            ascii,
            width: usize::from(width),
            wide,
        }
    }

    /// None for a character that has no column: what follows it is worked out each time.
    fn of(&self, c: char) -> Option<usize> {
        match (self.ascii.get(c as usize), &self.wide) {
            (Some(&column), _) => Some(usize::from(column)),
            (None, Wide::Mentioned(mentioned)) if !mentioned.contains(&c) => Some(0),
            _ => None,
        }
    }
}

/// A set under construction: members in order of arrival, and a mark per position.
#[derive(Debug, Default)]
struct Scratch {
    members: Vec<u32>,
    marks: Vec<u32>,
    round: u32,
}

impl Scratch {
    fn begin(&mut self, program: &Program) {
        self.members.clear();
        if self.round == u32::MAX || self.marks.len() != program.insts.len() {
            self.marks = vec![0; program.insts.len()];
            self.round = 0;
        }
        self.round += 1;
    }

    /// Adds a position and those reachable from it without reading anything.
    fn add(&mut self, program: &Program, at: u32) {
        let mut next = Some(at);
        while let Some(at) = next.take() {
            let mark = &mut self.marks[at as usize];
            if *mark == self.round {
                return;
            }
            *mark = self.round;
            match program.insts[at as usize] {
                Inst::MaybeDirs => {
                    // The loop itself has no way on without reading, so it needs no recursion.
                    let inner = at + 1;
                    if std::mem::replace(&mut self.marks[inner as usize], self.round) != self.round {
                        self.members.push(inner);
                    }
                    next = Some(at + 2);
                }
                Inst::Maybe(_) | Inst::Run(_) | Inst::Anything => {
                    self.members.push(at);
                    next = Some(at + 1);
                }
                _ => self.members.push(at),
            }
        }
    }

    /// Adds what position `at` becomes by reading `c`.
    fn advance(&mut self, program: &Program, at: u32, c: char) {
        let (stays, moves) = match &program.insts[at as usize] {
            Inst::Literal(want) => (false, *want == c),
            Inst::Class(class) | Inst::Maybe(class) => (false, class.contains(c)),
            Inst::Run(class) => (class.contains(c), false),
            Inst::Anything => (true, false),
            Inst::Dirs => (true, c == '/'),
            Inst::MaybeDirs | Inst::Accept => (false, false),
        };
        if stays {
            self.add(program, at);
        }
        if moves {
            self.add(program, at + 1);
        }
    }

    fn finish(&mut self) -> Positions {
        self.members.sort_unstable();
        self.members.as_slice().into()
    }
}
