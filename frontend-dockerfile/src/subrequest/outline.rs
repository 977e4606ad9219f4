//! What the target takes: arguments, secrets, ssh agents.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::json::is_false;
use super::location::Location;
use super::{Answer, description, json, table};
use crate::dockerfile::{Dockerfile, Stage};
use crate::instruction::Kind;
use crate::location::Lines;
use crate::lower::{ArgNote, GrantNote, StageNotes};
use crate::plan::Plan;

#[derive(Debug, Default, Serialize)]
struct Outline {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Grant>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Grant>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct Arg {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
    location: Location,
    #[serde(skip)]
    lines: Lines,
}

#[derive(Debug, Serialize)]
struct Grant {
    name: String,
    #[serde(skip_serializing_if = "is_false")]
    required: bool,
    location: Location,
    #[serde(skip)]
    lines: Lines,
}

/// What the target of `plan` takes, for itself and for all that it is built from. `notes` are of its stages, and `data`
/// is the text of the file.
pub(crate) fn outline(file: &Dockerfile, plan: &Plan, notes: &[StageNotes], data: &[u8]) -> Answer {
    let target = file.stages.get(plan.target);
    let mut outline = Outline {
        name: target.and_then(|stage| stage.from.name.clone()).unwrap_or_default(),
        description: target.and_then(stage_description).unwrap_or_default(),
        sources: [STANDARD.encode(data)],
        ..Outline::default()
    };
    let global = global_args(file, plan);
    let (mut args, mut secrets, mut agents) = (HashSet::new(), HashSet::new(), HashSet::new());
    for stage in in_order(plan) {
        let Some(notes) = notes.get(stage) else { continue };
        for (name, note) in used_args(file, plan, stage, notes, &global) {
            if args.insert(name.to_owned()) {
                outline.args.push(Arg::new(name, note));
            }
        }
        outline.secrets.extend(new_grants(&notes.secrets, &mut secrets));
        outline.ssh.extend(new_grants(&notes.ssh, &mut agents));
    }
    outline.args.sort_by_key(|arg| arg.lines);
    outline.secrets.sort_by_key(|grant| grant.lines);
    outline.ssh.sort_by_key(|grant| grant.lines);
    Answer::new(json::pretty(&outline), outline.text())
}

fn stage_description(stage: &Stage) -> Option<String> {
    description(&stage.instruction.comments, stage.from.name.as_deref()?)
}

/// The target and what it is built from: each stage once, nearer ones first.
fn in_order(plan: &Plan) -> Vec<usize> {
    let (mut order, mut seen, mut pending) = (Vec::new(), HashSet::new(), vec![plan.target]);
    while let Some(stage) = pending.pop() {
        if seen.insert(stage) {
            order.push(stage);
            pending.extend(plan.dependencies(stage).into_iter().rev());
        }
    }
    order
}

/// What is declared before the first stage.
fn global_args(file: &Dockerfile, plan: &Plan) -> BTreeMap<String, ArgNote> {
    let mut args = BTreeMap::new();
    for instruction in &file.global_args {
        let Kind::Arg(declared) = &instruction.kind else {
            continue;
        };
        for arg in declared {
            let note = ArgNote {
                value: plan.args.own_value(&arg.name).map(str::to_owned),
                lines: instruction.lines,
                comments: instruction.comments.clone(),
                needs: plan.args.needs(&arg.name),
            };
            args.insert(arg.name.clone(), note);
        }
    }
    args
}

/// The arguments that a stage uses, directly or through those that it uses.
fn used_args<'a>(
    file: &Dockerfile,
    plan: &Plan,
    index: usize,
    notes: &'a StageNotes,
    global: &'a BTreeMap<String, ArgNote>,
) -> Vec<(&'a str, &'a ArgNote)> {
    let mut pending: Vec<String> = notes.used.iter().cloned().collect();
    if let Some(stage) = file.stages.get(index) {
        let texts = [Some(&stage.from.base), stage.from.platform.as_ref()];
        for text in texts.into_iter().flatten() {
            let expanded = plan.args.expander.expand(text, &plan.args);
            pending.extend(
                expanded
                    .into_iter()
                    .flat_map(|expanded| expanded.matched)
                    .map(str::to_owned),
            );
        }
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(name) = pending.pop() {
        let known = notes.args.get_key_value(&name).or_else(|| global.get_key_value(&name));
        if let Some((name, note)) = known
            && seen.insert(name.as_str())
        {
            found.push((name.as_str(), note));
            pending.extend(note.needs.iter().cloned());
        }
    }
    found.sort_unstable_by_key(|(name, _)| *name);
    found
}

fn new_grants<'a>(
    grants: &'a BTreeMap<String, GrantNote>,
    seen: &'a mut HashSet<String>,
) -> impl Iterator<Item = Grant> + 'a {
    grants
        .iter()
        .filter(|(id, _)| seen.insert((*id).clone()))
        .map(|(id, note)| Grant {
            name: id.clone(),
            required: note.required,
            location: Location::of([note.lines]),
            lines: note.lines,
        })
}

impl Arg {
    fn new(name: &str, note: &ArgNote) -> Self {
        Self {
            name: name.to_owned(),
            description: description(&note.comments, name).unwrap_or_default(),
            value: note.value.clone().unwrap_or_default(),
            location: Location::of([note.lines]),
            lines: note.lines,
        }
    }
}

impl Outline {
    // Writing to a string cannot fail, here and below.
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.name.is_empty() || !self.description.is_empty() {
            let name = if self.name.is_empty() { "(default)" } else { &self.name };
            let mut head = format!("TARGET:\t{name}\n");
            if !self.description.is_empty() {
                let _ = writeln!(head, "DESCRIPTION:\t{}", self.description);
            }
            text.push_str(&table::render(&head, 1));
            text.push('\n');
        }
        if !self.args.is_empty() {
            let mut rows = "BUILD ARG\tVALUE\tDESCRIPTION\n".to_owned();
            for arg in &self.args {
                let _ = writeln!(rows, "{}\t{}\t{}", arg.name, arg.value, arg.description);
            }
            text.push_str(&table::render(&rows, 3));
            text.push('\n');
        }
        for (title, grants) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if grants.is_empty() {
                continue;
            }
            let mut rows = format!("{title}\tREQUIRED\n");
            for grant in grants {
                let _ = writeln!(rows, "{}\t{}", grant.name, if grant.required { "true" } else { "" });
            }
            text.push_str(&table::render(&rows, 3));
            text.push('\n');
        }
        text
    }
}
