//! Beginning a stage, and going through its instructions.

use std::sync::Arc;

use cairn_solver::llb::{ImageSource, OciLayoutSource, OpMetadata, SourceOp};

use crate::checks::{
    INVALID_BASE_IMAGE_PLATFORM, MULTIPLE_INSTRUCTIONS_DISALLOWED, SECRETS_USED_IN_ARG_OR_ENV, UNDEFINED_VAR,
    names_a_secret,
};
use crate::error::DockerfileError;
use crate::expand::{Expander, Variables};
use crate::gofmt;
use crate::image::ImageConfig;
use crate::instruction::{ArgDecl, Instruction, Kind};
use crate::location::Lines;
use crate::plan::{Base, GraphBase, PlannedStage, Resolved, Step};
use crate::platform;
use crate::suggest::suggestion;

use super::env::Env;
use super::names::StepNames;
use super::state::{Args, Commands, StageState};
use super::{Lowering, path, scan};

impl Lowering<'_> {
    pub(super) fn stage(&mut self, index: usize) -> Result<StageState, DockerfileError> {
        let plan = self.plan;
        let mut state = self.begin(index)?;
        for step in &plan.stages[index].steps {
            self.step(&mut state, index, step)?;
        }
        Ok(state)
    }

    fn begin(&mut self, index: usize) -> Result<StageState, DockerfileError> {
        let plan = self.plan;
        let planned = &plan.stages[index];
        let lines = planned.first_lines();
        let names = StepNames::new(plan, index, self.around.options.multi_platform);
        let ignore_cache = self.around.options.no_cache.covers(planned.name.as_deref());
        if let Base::Stage(base) = planned.base {
            return self.continue_stage(base, lines, names, ignore_cache);
        }
        let mut state = StageState {
            root: None,
            image: ImageConfig::scratch(&plan.platform),
            env: Env::default(),
            cwd: "/".to_owned(),
            args: Args::default(),
            commands: Commands::default(),
            has_workdir: false,
            names,
            ignore_cache,
        };
        match &planned.base {
            Base::Scratch | Base::Stage(_) => {}
            Base::Image { resolved, .. } => {
                let Some(resolved) = resolved else {
                    return Err(DockerfileError::at(
                        lines,
                        format!("{} was not resolved", planned.written),
                    ));
                };
                self.begin_image(&mut state, index, resolved)?;
            }
            Base::Graph(graph) => self.begin_graph(&mut state, index, graph)?,
            Base::Local { context, local } => {
                let root = self.named_context(context, local);
                state.root = Some(root);
                if index < plan.declared && !planned.replaced {
                    self.arena.use_all_of(root);
                }
            }
        }
        for (key, value) in state.image.env() {
            state.env.set(key, value);
        }
        let mut workdir = state.image.workdir();
        if state.image.os() == "windows" {
            workdir = path::without_drive(&workdir).map_err(|message| DockerfileError::at(lines, message))?;
        }
        if workdir.starts_with('/') {
            state.cwd = workdir;
        }
        Ok(state)
    }

    fn continue_stage(
        &mut self,
        base: usize,
        lines: Lines,
        names: StepNames,
        ignore_cache: bool,
    ) -> Result<StageState, DockerfileError> {
        let not_built = || DockerfileError::at(lines, "the stage that this one is based on was not built");
        self.heirs[base] = self.heirs[base].saturating_sub(1);
        let before = if self.heirs[base] == 0 {
            self.states[base].take().ok_or_else(not_built)?
        } else {
            let before = self.states[base].clone().ok_or_else(not_built)?;
            self.budget.charge(before.weight(), lines)?;
            before
        };
        let mut state = StageState {
            names,
            ignore_cache,
            commands: Commands::default(),
            ..before
        };
        // The triggers have joined this stage's own instructions.
        state.image.clear_triggers();
        // As in any other image, what is in the config is set first; it hides arguments of the stage before.
        for (key, value) in state.image.env() {
            state.env.set(key, value);
        }
        if let Some(root) = state.root {
            self.arena.use_all_of(root);
        }
        Ok(state)
    }

    fn begin_image(
        &mut self,
        state: &mut StageState,
        index: usize,
        resolved: &Resolved,
    ) -> Result<(), DockerfileError> {
        let planned = &self.plan.stages[index];
        let lines = planned.first_lines();
        self.budget.charge(resolved.image.weight(), lines)?;
        state.image = (*resolved.image).clone();
        state.image.clear_triggers();
        let Base::Image {
            reference,
            context,
            layout,
            ..
        } = &planned.base
        else {
            return Ok(());
        };
        if resolved.image.has_no_layers() {
            return Ok(());
        }
        let pinned = reference.pinned(resolved.digest).to_string();
        let name = match (context, layout) {
            (Some(context), Some(_)) => format!("[context {}] OCI load from client", context.title),
            (Some(context), None) => format!("[context {}] {}", context.title, context.written),
            (None, _) if index < self.plan.declared => state.names.next(&state.env, &format!("FROM {pinned}")),
            (None, _) => format!("FROM {pinned}"),
        };
        let source = match layout {
            Some(store) => SourceOp::OciLayout(OciLayoutSource {
                reference: reference.to_string(),
                session: Some(self.around.session.clone()),
                store: store.clone(),
                ..OciLayoutSource::default()
            }),
            None => SourceOp::Image(ImageSource {
                reference: pinned,
                resolve_mode: self.around.options.resolve_mode,
                ..ImageSource::default()
            }),
        };
        let metadata = from_metadata(planned, name);
        state.root = Some(self.arena.image(source, &planned.platform, metadata, planned.place()));
        Ok(())
    }

    /// Begins with what a named context stands for, and the config that comes with it.
    fn begin_graph(&mut self, state: &mut StageState, index: usize, graph: &GraphBase) -> Result<(), DockerfileError> {
        let planned = &self.plan.stages[index];
        if let Some(config) = &graph.config {
            state.image = planned.image(config)?;
            state.image.clear_triggers();
        }
        // What was made by another build has places of its own.
        let lines = planned.place().filter(|_| graph.source.is_some());
        state.root = self.arena.graph(&format!("stage:{index}"), &graph.definition, lines);
        Ok(())
    }

    fn step(&mut self, state: &mut StageState, index: usize, step: &Step) -> Result<(), DockerfileError> {
        match &step.instruction.kind {
            Kind::Add(copy) => self.copy(state, step, copy, true, index),
            Kind::Copy(copy) => self.copy(state, step, copy, false, index),
            Kind::Run(run) => self.run(state, step, run, index),
            Kind::Workdir(path) => self.workdir(state, step, path),
            Kind::Arg(declared) => self.arg(state, &step.instruction, declared, index),
            _ => self.config_only(state, step),
        }
    }

    fn arg(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        declared: &[ArgDecl],
        index: usize,
    ) -> Result<(), DockerfileError> {
        let lines = instruction.lines;
        let mut shown = "ARG".to_owned();
        for arg in declared {
            self.check_secret("ARG", &arg.name, lines);
            let given = self.around.options.build_args.get(&arg.name);
            // A time that could not be told is as good as none.
            let is_untold = arg.name == "SOURCE_DATE_EPOCH" && self.around.epoch.is_none();
            let given = given.filter(|given| !is_untold || given.is_empty());
            let value = match (given, &arg.default) {
                (_, _) if arg.name == "SOURCE_DATE_EPOCH" && self.around.epoch.is_some() => {
                    self.around.epoch.map(|epoch| epoch.to_string())
                }
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(state, default, lines)?),
                (None, None) => self.plan.args.get(&arg.name).map(str::to_owned),
            };
            shown.extend([" ", &arg.name]);
            shown.extend(value.iter().flat_map(|value| ["=", value]));
            self.note_arg(state, index, instruction, arg, value.as_ref());
            state.declare(&arg.name, value);
        }
        self.history(state, shown, true, lines)
    }

    /// Expands a word with the variables of the stage.
    pub(super) fn expand(&mut self, state: &StageState, text: &str, lines: Lines) -> Result<String, DockerfileError> {
        self.expand_as(Expander::new(self.around.escape), state, text, lines)
    }

    pub(super) fn expand_as(
        &mut self,
        expander: Expander,
        state: &StageState,
        text: &str,
        lines: Lines,
    ) -> Result<String, DockerfileError> {
        let expanded = expander.expand(text, &state.env);
        self.budget.charge_expansion(&expanded, lines)?;
        let unmatched: Vec<&str> = match &expanded {
            Ok(expanded) => expanded.unmatched.iter().copied().collect(),
            Err(error) => error.unmatched.iter().map(String::as_str).collect(),
        };
        for name in unmatched {
            if !state.args.declares(name) && !scan::is_switch(name) && !self.findings.is_full() {
                let near = suggestion(name, state.env.names()).replace("mean ", "mean $");
                self.find(
                    &UNDEFINED_VAR,
                    lines,
                    format!("Usage of undefined variable '${name}'{near}"),
                );
            }
        }
        let expanded = expanded.map_err(|error| DockerfileError::at(lines, error.to_string()))?;
        Ok(expanded.value.into_owned())
    }

    /// The text of an instruction and what it comes with for display: expanded, its first word in upper case. What cannot
    /// be expanded is shown raw.
    pub(super) fn display(
        &mut self,
        step: &Step,
        behind: &str,
        expander: Expander,
        variables: &dyn Variables,
    ) -> Result<String, DockerfileError> {
        let Instruction { text, lines, .. } = &*step.instruction;
        let at = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(at);
        let rest = [rest, behind].concat();
        let expanded = expander.expand(&rest, variables);
        self.budget.charge_expansion(&expanded, *lines)?;
        let rest = expanded.map_or_else(|_| rest.as_str().into(), |expanded| expanded.value);
        let trigger = if step.is_trigger { "ONBUILD " } else { "" };
        Ok([trigger, &word.to_uppercase(), &*rest].concat())
    }

    pub(super) fn check_secret(&mut self, word: &str, name: &str, lines: Lines) {
        if names_a_secret(name) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({word} {})",
                gofmt::quote(name)
            );
            self.find(&SECRETS_USED_IN_ARG_OR_ENV, lines, message);
        }
    }

    /// Notes a second instruction of a kind of which only the last one counts.
    pub(super) fn only_last(&mut self, before: Option<Lines>, word: &str) {
        if let Some(before) = before {
            let message = format!(
                "Multiple {word} instructions should not be used in the same stage because only the last one will be used"
            );
            self.find(&MULTIPLE_INSTRUCTIONS_DISALLOWED, before, message);
        }
    }

    /// Looks whether images are for the platforms that they were asked for.
    pub(super) fn check_platforms(&mut self) {
        let plan = self.plan;
        for planned in plan.stages.iter().filter(|stage| stage.reachable) {
            let Base::Image {
                context: None,
                resolved: Some(resolved),
                ..
            } = &planned.base
            else {
                continue;
            };
            let (got, expected) = (resolved.image.platform(), &planned.platform);
            let is_same = got.os == expected.os && got.architecture == expected.architecture;
            if got.os.is_empty() || got.architecture.is_empty() || is_same || resolved.image.has_no_layers() {
                continue;
            }
            let message = format!(
                "Base image {} was pulled with platform \"{}\", expected \"{}\" for current build",
                planned.written,
                platform::full(&got),
                platform::full(expected)
            );
            self.find(&INVALID_BASE_IMAGE_PLATFORM, planned.first_lines(), message);
        }
    }

    pub(super) fn history(
        &mut self,
        state: &mut StageState,
        created_by: String,
        empty_layer: bool,
        lines: Lines,
    ) -> Result<(), DockerfileError> {
        self.budget.charge(created_by.len() + 64, lines)?;
        state.image.add_history(created_by, empty_layer, self.created.clone());
        Ok(())
    }
}

fn from_metadata(planned: &PlannedStage, name: String) -> OpMetadata {
    let mut metadata = OpMetadata::named(name);
    metadata
        .description
        .insert("com.docker.dockerfile.v1.command", Arc::clone(&planned.text));
    metadata
}
