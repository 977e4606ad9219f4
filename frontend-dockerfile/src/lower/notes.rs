//! What a stage takes from outside, noted while it is lowered; only for those who ask for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::expand::{Expander, Variables as _};
use crate::instruction::{ArgDecl, Instruction, MountSpec};
use crate::location::Lines;
use crate::subrequest::Subrequest;

use super::Lowering;
use super::state::StageState;

/// What a stage takes.
#[derive(Debug, Clone, Default)]
pub(crate) struct StageNotes {
    /// Arguments that it declares with a value or default of their own, or that nothing outside of it declares.
    pub(crate) args: BTreeMap<String, ArgNote>,
    /// Names of arguments that it uses.
    pub(crate) used: BTreeSet<String>,
    /// Secrets, by id.
    pub(crate) secrets: BTreeMap<String, GrantNote>,
    /// Agents, by id.
    pub(crate) ssh: BTreeMap<String, GrantNote>,
}

/// An argument.
#[derive(Debug, Clone)]
pub(crate) struct ArgNote {
    pub(crate) value: Option<String>,
    pub(crate) lines: Lines,
    /// Comments above it.
    pub(crate) comments: Vec<String>,
    /// Names that its default refers to.
    pub(crate) needs: BTreeSet<String>,
}

/// Something that the client may grant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrantNote {
    pub(crate) required: bool,
    pub(crate) lines: Lines,
}

impl Lowering<'_> {
    /// The notes of a stage, if they are wanted.
    fn notes(&mut self, stage: usize) -> Option<&mut StageNotes> {
        (self.around.options.subrequest() == Some(Subrequest::Outline)).then(|| &mut self.notes[stage])
    }

    /// Notes an argument, before the stage knows it.
    pub(super) fn note_arg(
        &mut self,
        state: &StageState,
        stage: usize,
        instruction: &Instruction,
        arg: &ArgDecl,
        value: Option<&String>,
    ) {
        let given = self.around.options.build_args.contains_key(&arg.name);
        let is_global = self.plan.args.get(&arg.name).is_some();
        let escape = self.around.escape;
        let Some(notes) = self.notes(stage) else { return };
        notes.used.insert(arg.name.clone());
        if !given && arg.default.is_none() && is_global {
            // What is said about it where it comes from is said about it here.
            return;
        }
        let default = arg.default.as_ref().filter(|_| !given);
        let expanded = default.and_then(|default| Expander::new(escape).expand(default, &state.env).ok());
        let note = ArgNote {
            value: value.cloned(),
            lines: instruction.lines,
            comments: instruction.comments.clone(),
            needs: expanded
                .into_iter()
                .flat_map(|expanded| expanded.matched)
                .map(str::to_owned)
                .collect(),
        };
        notes.args.insert(arg.name.clone(), note);
    }

    /// Notes a secret or an agent; of several with one id the first counts.
    pub(super) fn note_grant(&mut self, stage: usize, spec: &MountSpec, id: &str, lines: Lines) {
        let Some(notes) = self.notes(stage) else { return };
        let (grants, id) = match (spec.kind, id) {
            ("ssh", "") => (&mut notes.ssh, "default"),
            ("ssh", id) => (&mut notes.ssh, id),
            (_, id) => (&mut notes.secrets, id),
        };
        grants.entry(id.to_owned()).or_insert(GrantNote {
            required: spec.required,
            lines,
        });
    }
}
