//! Rules that look at the text alone.

use std::collections::HashSet;

use crate::dockerfile::{Dockerfile, Stage};
use crate::gofmt::quote;
use crate::instruction::{Instruction, Kind};

use super::{
    CONSISTENT_INSTRUCTION_CASING, DUPLICATE_STAGE_NAME, FROM_AS_CASING, Findings, INVALID_DEFINITION_DESCRIPTION,
    MAINTAINER_DEPRECATED, NO_EMPTY_CONTINUATION, RESERVED_STAGE_NAME, STAGE_NAME_CASING,
};
use crate::location::Lines;

/// What can be said about a file without building it. Where an instruction is wrong, reading ends; then it is what was
/// found until there, and empty continuations everywhere, which are found before instructions are looked at.
pub(crate) fn findings(file: &Dockerfile) -> Findings {
    let all = || file.global_args.iter().chain(file.stages.iter().flat_map(Stage::all));
    let mut found = Findings::default();
    for line in all().filter_map(|instruction| instruction.empty_continuation) {
        found.find(&NO_EMPTY_CONTINUATION, Lines::one(line), "Empty continuation line");
    }
    let end = file
        .errors
        .first()
        .map(|error| error.locations.first().map_or(u32::MAX, |lines| lines.first));
    for instruction in all().take_while(|instruction| end.is_none_or(|end| instruction.lines.first < end)) {
        own(instruction, &mut found);
    }
    if end.is_some() {
        return found;
    }
    stage_names(file, &mut found);
    casing(file, &mut found);
    found
}

fn own(instruction: &Instruction, found: &mut Findings) {
    let lines = instruction.lines;
    match &instruction.kind {
        Kind::From(from) => {
            let words: Vec<&str> = instruction
                .text
                .split_whitespace()
                .filter(|word| !word.starts_with("--"))
                .collect();
            if let [keyword, _, r#as, name, ..] = words.as_slice() {
                if name.chars().any(char::is_uppercase) {
                    found.find(
                        &STAGE_NAME_CASING,
                        lines,
                        format!("Stage name '{name}' should be lowercase"),
                    );
                }
                let same = (is_lower(keyword) && is_lower(r#as)) || (is_upper(keyword) && is_upper(r#as));
                if (is_lower(keyword) || is_upper(keyword)) && !same {
                    found.find(
                        &FROM_AS_CASING,
                        lines,
                        format!("'{}' and '{keyword}' keywords' casing do not match", r#as),
                    );
                }
            }
            if let Some(name) = &from.name {
                description(instruction, "FROM", &[name], found);
            }
        }
        Kind::Arg(declared) => {
            let names: Vec<&str> = declared.iter().map(|arg| arg.name.as_str()).collect();
            description(instruction, "ARG", &names, found);
        }
        Kind::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            found.find(&MAINTAINER_DEPRECATED, lines, message);
        }
        _ => {}
    }
}

fn description(instruction: &Instruction, word: &str, names: &[&str], found: &mut Findings) {
    let Some(comment) = instruction
        .comments
        .last()
        .filter(|comment| !comment.starts_with("check="))
    else {
        return;
    };
    let first = comment.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return;
    }
    let key = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    let message = format!("Comment for {word} should follow the format: `# {key} <description>`");
    found.find(&INVALID_DEFINITION_DESCRIPTION, instruction.lines, message);
}

fn stage_names(file: &Dockerfile, found: &mut Findings) {
    let mut seen = HashSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.from.name else { continue };
        if matches!(name.as_str(), "scratch" | "context") {
            let message = format!(
                "Stage name should not use the same name as reserved stage {}",
                quote(name)
            );
            found.find(&RESERVED_STAGE_NAME, stage.instruction.lines, message);
        }
        if !seen.insert(name) {
            let message = format!("Duplicate stage name {}, stage names should be unique", quote(name));
            found.find(&DUPLICATE_STAGE_NAME, stage.instruction.lines, message);
        }
    }
}

fn casing(file: &Dockerfile, found: &mut Findings) {
    let all = || file.stages.iter().flat_map(Stage::all);
    let lower = all().filter(|instruction| is_lower(instruction.word())).count();
    let upper = all().filter(|instruction| is_upper(instruction.word())).count();
    let (fits, majority): (fn(&str) -> bool, _) = if lower > upper {
        (is_lower, "lowercase")
    } else {
        (is_upper, "uppercase")
    };
    for instruction in all().filter(|instruction| !fits(instruction.word())) {
        let message = format!(
            "Command '{}' should match the case of the command majority ({majority})",
            instruction.word()
        );
        found.find(&CONSISTENT_INSTRUCTION_CASING, instruction.lines, message);
    }
}

fn is_lower(word: &str) -> bool {
    !word.chars().any(char::is_uppercase)
}

fn is_upper(word: &str) -> bool {
    !word.chars().any(char::is_lowercase)
}
