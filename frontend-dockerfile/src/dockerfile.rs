//! A Dockerfile as a whole: global arguments and stages.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::checks::CheckConfig;
use crate::error::DockerfileError;
use crate::instruction::{From, Instruction, Kind};
use crate::syntax::{self, Directives, MAX_ERRORS};

/// A parsed Dockerfile, and everything that was wrong with it.
///
/// Errors that concern the syntax come first, then those of instructions, each in the order of the file; whoever needs
/// only one error takes the first. They are about different mistakes: what only follows from an earlier error is left
/// out, and so is everything behind the first thousand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dockerfile {
    /// Directives at the top.
    pub directives: Directives,
    /// `ARG`s before the first stage.
    pub global_args: Vec<Instruction>,
    /// Stages, in order.
    pub stages: Vec<Stage>,
    /// What was wrong.
    pub errors: Vec<DockerfileError>,
    /// Whether some of that concerns the syntax.
    pub has_syntax_errors: bool,
}

/// A stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// What its `FROM` says.
    pub from: From,
    /// The `FROM` itself.
    pub instruction: Instruction,
    /// What follows.
    pub instructions: Vec<Arc<Instruction>>,
}

impl Stage {
    /// The `FROM` and what follows.
    pub fn all(&self) -> impl Iterator<Item = &Instruction> {
        let instructions = self.instructions.iter().map(|instruction| &**instruction);
        std::iter::once(&self.instruction).chain(instructions)
    }
}

impl Dockerfile {
    /// Most stages that one file may have.
    pub const MAX_STAGES: usize = 20_000;

    /// Parses a file. Total: any bytes give a result.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let tree = syntax::parse(bytes);
        let mut file = Self {
            directives: tree.directives,
            has_syntax_errors: !tree.errors.is_empty(),
            errors: tree.errors,
            ..Self::default()
        };
        let unreadable = file.errors.iter().flat_map(|error| &error.locations);
        let unreadable: HashSet<u32> = unreadable.map(|lines| lines.first).collect();
        // One mistake is told of once: not again by what follows from it.
        let mut lacks_stage = false;
        for node in tree.nodes {
            if file.errors.len() >= MAX_ERRORS {
                break;
            }
            let (lines, is_from) = (node.lines, node.word().eq_ignore_ascii_case("FROM"));
            match Instruction::from_node(node) {
                Ok(instruction) => file.add(instruction, &mut lacks_stage),
                Err(message) => {
                    lacks_stage |= is_from;
                    if !unreadable.contains(&lines.first) {
                        file.errors.push(DockerfileError::instruction(lines, message));
                    }
                }
            }
        }
        if file.errors.is_empty() && file.stages.is_empty() {
            file.errors
                .push(DockerfileError::whole("dockerfile contains no stages to build"));
        }
        file
    }

    /// What comments say about checks of the instruction below, by its first line.
    pub(crate) fn local_checks(&self) -> HashMap<u32, CheckConfig> {
        let all = self.global_args.iter().chain(self.stages.iter().flat_map(Stage::all));
        let configs = all.filter_map(|instruction| {
            let value = instruction
                .comments
                .iter()
                .find_map(|comment| comment.strip_prefix("check="))?;
            let config = CheckConfig::parse(value.split(' ').next().unwrap_or_default()).ok()?;
            Some((instruction.lines.first, config))
        });
        configs.collect()
    }

    fn add(&mut self, instruction: Instruction, lacks_stage: &mut bool) {
        if let Kind::From(from) = &instruction.kind {
            let from = from.clone();
            return self.add_stage(from, instruction);
        }
        match (&instruction.kind, self.stages.last_mut()) {
            (_, Some(stage)) => stage.instructions.push(Arc::new(instruction)),
            (Kind::Arg(_), None) => self.global_args.push(instruction),
            (_, None) if *lacks_stage => {}
            (_, None) => {
                *lacks_stage = true;
                self.errors.push(DockerfileError::at(
                    instruction.lines,
                    "no build stage in current context",
                ));
            }
        }
    }

    fn add_stage(&mut self, from: From, instruction: Instruction) {
        if self.stages.len() < Self::MAX_STAGES {
            return self.stages.push(Stage {
                from,
                instruction,
                instructions: Vec::new(),
            });
        }
        let message = format!("dockerfile has more than {} stages", Self::MAX_STAGES);
        if self.errors.last().is_none_or(|last| last.message != message) {
            self.errors.push(DockerfileError::at(instruction.lines, message));
        }
    }
}

#[cfg(test)]
mod tests;
