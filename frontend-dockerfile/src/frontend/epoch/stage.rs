//! Stages that do nothing but fetch a source, whose time is taken.

use std::collections::BTreeMap;

use cairn_solver::llb::{HttpSource, SourceOp};

use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::expand::Variables;
use crate::instruction::{ArgDecl, Copy, CopySource, Kind};
use crate::location::Lines;
use crate::options::Options;
use crate::plan::{Base, Plan};
use crate::remote::{SourceKind, filename, source_kind};

use super::NAME;

/// The source that the stage `name` fetches; `None` if there is no such stage.
pub(super) fn source(
    plan: &Plan,
    file: &Dockerfile,
    options: &Options,
    name: &str,
) -> Result<Option<SourceOp>, DockerfileError> {
    let lower = name.to_lowercase();
    let is_it = |stage: &crate::dockerfile::Stage| stage.from.name.as_deref() == Some(&lower);
    let Some(index) = file.stages.iter().rposition(is_it) else {
        return Ok(None);
    };
    let stage = &file.stages[index];
    let fail = |lines: Lines, what: &str| DockerfileError::at(lines, format!("{NAME} stage {what}"));
    let from = stage.instruction.lines;
    if !matches!(plan.stages[index].base, Base::Scratch) {
        return Err(fail(from, "must use FROM scratch"));
    }
    let mut args = Args::default();
    let mut found: Option<(&Copy, Lines)> = None;
    for instruction in &stage.instructions {
        let lines = instruction.lines;
        match &instruction.kind {
            Kind::Arg(declared) => declare(&mut args, plan, options, declared, lines)?,
            Kind::Add(_) if found.is_some() => return Err(fail(lines, "must contain exactly one remote ADD")),
            Kind::Add(add) => found = Some((add, lines)),
            _ => {
                let word = instruction.text.split_whitespace().next().unwrap_or_default();
                let what = format!("does not meet source-only requirements: unsupported {word} instruction");
                return Err(fail(lines, &what));
            }
        }
    }
    let (add, lines) = found.ok_or_else(|| fail(from, "must contain exactly one remote ADD"))?;
    let [source] = add.sources.as_slice() else {
        return Err(fail(lines, "must contain exactly one remote ADD source"));
    };
    let single = || fail(lines, "source must be a single HTTP(S) or Git ADD");
    let CopySource::Word(word) = source else {
        return Err(single());
    };
    let word = expand(&args, plan, word, lines)?;
    match source_kind(&word) {
        SourceKind::Path => Err(single()),
        SourceKind::Git(Ok(reference)) => Ok(Some(SourceOp::Git(reference.source()))),
        SourceKind::Git(Err(message)) => Err(DockerfileError::at(lines, message)),
        SourceKind::Http => Ok(Some(SourceOp::Http(HttpSource {
            filename: filename(&word),
            url: word,
            ..HttpSource::default()
        }))),
    }
}

/// The arguments of such a stage, which are all the variables that it has.
type Args = BTreeMap<String, String>;

fn declare(
    args: &mut Args,
    plan: &Plan,
    options: &Options,
    declared: &[ArgDecl],
    lines: Lines,
) -> Result<(), DockerfileError> {
    for arg in declared {
        let value = match (options.build_args.get(&arg.name), &arg.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(expand(args, plan, default, lines)?),
            (None, None) => plan.args.get(&arg.name).map(str::to_owned),
        };
        if let Some(value) = value {
            args.insert(arg.name.clone(), value);
        }
    }
    Ok(())
}

fn expand(args: &Args, plan: &Plan, text: &str, lines: Lines) -> Result<String, DockerfileError> {
    let expanded = plan.args.expander.expand(text, args);
    let expanded = expanded.map_err(|error| DockerfileError::at(lines, error.to_string()))?;
    Ok(expanded.value.into_owned())
}
