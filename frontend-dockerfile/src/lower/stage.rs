//! Beginning a stage, and going through its instructions.

use cairn_solver::llb::{ImageSource, Op, OpMetadata, SourceOp};
use serde_json::Value;

use crate::error::DockerfileError;
use crate::expand::{Expander, Variables};
use crate::image::ImageConfig;
use crate::instruction::{ArgDecl, Kind};
use crate::location::Lines;
use crate::plan::{Base, PlannedStage, Resolved, Step};
use crate::reference::ImageRef;

use super::Lowering;
use super::env::Env;
use super::names::StepNames;
use super::state::StageState;

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
        let lines = planned.lines.unwrap_or(Lines::one(1));
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
            args: Vec::new(),
            has_own_cmd: false,
            names,
            ignore_cache,
        };
        match &planned.base {
            Base::Scratch | Base::Stage(_) => {}
            Base::Image {
                reference,
                context,
                resolved,
            } => {
                let Some(resolved) = resolved else {
                    return Err(DockerfileError::at(
                        lines,
                        format!("{} was not resolved", planned.written),
                    ));
                };
                self.begin_image(&mut state, index, reference, context.as_deref(), resolved)?;
            }
            Base::Local { context, local } => {
                let root = self.named_context(context, local);
                state.root = Some(root);
                if index < plan.declared && !planned.replaced {
                    self.arena.use_all_of(root);
                }
            }
        }
        for (key, value) in state.image.env() {
            state.env.set(&key, &value);
        }
        let workdir = state.image.workdir();
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
        let Some(before) = &self.states[base] else {
            return Err(DockerfileError::at(
                lines,
                "the stage that this one is based on was not built",
            ));
        };
        self.budget.charge(before.env.weight() + before.image.weight(), lines)?;
        let mut state = StageState {
            names,
            ignore_cache,
            has_own_cmd: false,
            ..before.clone()
        };
        // The triggers have joined this stage's own instructions.
        state.image.take_triggers();
        if let Some(root) = state.root {
            self.arena.use_all_of(root);
        }
        Ok(state)
    }

    fn begin_image(
        &mut self,
        state: &mut StageState,
        index: usize,
        reference: &ImageRef,
        context: Option<&str>,
        resolved: &Resolved,
    ) -> Result<(), DockerfileError> {
        let planned = &self.plan.stages[index];
        let lines = planned.lines.unwrap_or(Lines::one(1));
        state.image = ImageConfig::from_base(&resolved.config)
            .map_err(|error| DockerfileError::at(lines, format!("{}: {error}", planned.written)))?;
        state.image.take_triggers();
        if has_no_layers(&resolved.config) {
            return Ok(());
        }
        let pinned = reference.pinned(&resolved.digest);
        let name = match context {
            Some(context) => format!("[context {context}] {pinned}"),
            None if index < self.plan.declared => state.names.next(&state.env, &format!("FROM {pinned}")),
            None => format!("FROM {pinned}"),
        };
        let source = ImageSource {
            reference: pinned,
            resolve_mode: self.around.options.resolve_mode,
            ..ImageSource::default()
        };
        let metadata = from_metadata(planned, name);
        let op = Op::Source(SourceOp::Image(source));
        state.root = Some(
            self.arena
                .add(op, Vec::new(), Some(&planned.platform), metadata, planned.lines),
        );
        Ok(())
    }

    fn step(&mut self, state: &mut StageState, index: usize, step: &Step) -> Result<(), DockerfileError> {
        match &step.instruction.kind {
            Kind::Add(copy) => self.copy(state, step, copy, true, index),
            Kind::Copy(copy) => self.copy(state, step, copy, false, index),
            Kind::Run(run) => self.run(state, step, run, index),
            Kind::Workdir(path) => self.workdir(state, step, path),
            Kind::Arg(declared) => self.arg(state, declared, step.instruction.lines),
            _ => self.config_only(state, step),
        }
    }

    fn arg(&mut self, state: &mut StageState, declared: &[ArgDecl], lines: Lines) -> Result<(), DockerfileError> {
        let mut shown = vec!["ARG".to_owned()];
        for arg in declared {
            let value = match (self.around.options.build_args.get(&arg.name), &arg.default) {
                // What these two ask for is no value of the build.
                _ if matches!(
                    arg.name.as_str(),
                    "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE"
                ) =>
                {
                    continue;
                }
                (_, _) if arg.name == "SOURCE_DATE_EPOCH" && self.around.epoch.is_some() => {
                    self.around.epoch.map(|epoch| epoch.to_string())
                }
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(state, default, lines)?),
                (None, None) => self.plan.args.get(&arg.name).map(str::to_owned),
            };
            shown.push(
                value
                    .as_ref()
                    .map_or_else(|| arg.name.clone(), |value| format!("{}={value}", arg.name)),
            );
            state.declare(&arg.name, value);
        }
        self.history(state, &shown.join(" "), true);
        Ok(())
    }

    /// Expands a word with the variables of the stage.
    pub(super) fn expand(&mut self, state: &StageState, text: &str, lines: Lines) -> Result<String, DockerfileError> {
        let expanded = Expander::new(self.around.escape).expand(text, &state.env);
        let value = expanded
            .map_err(|error| DockerfileError::at(lines, error.to_string()))?
            .value;
        self.budget.charge(value.len() + 32, lines)?;
        Ok(value)
    }

    pub(super) fn history(&self, state: &mut StageState, created_by: &str, empty_layer: bool) {
        let created = self
            .around
            .epoch
            .and_then(|epoch| jiff::Timestamp::from_second(epoch).ok());
        state
            .image
            .add_history(created_by, empty_layer, created.map(|time| time.to_string()).as_deref());
    }
}

fn from_metadata(planned: &PlannedStage, name: String) -> OpMetadata {
    let mut metadata = OpMetadata::named(name);
    if !planned.text.is_empty() {
        metadata
            .description
            .insert("com.docker.dockerfile.v1.command".to_owned(), planned.text.clone());
    }
    metadata
}

/// Whether the config says that there is nothing to pull.
fn has_no_layers(config: &[u8]) -> bool {
    let config: Option<Value> = serde_json::from_slice(config).ok();
    let layers = config.as_ref().and_then(|config| config.pointer("/rootfs/diff_ids"));
    layers.is_some_and(|layers| layers.is_null() || layers.as_array().is_some_and(Vec::is_empty))
}
