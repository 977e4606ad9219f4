//! Which stages are built, and from what: everything about a build that can be told without its base images.
//!
//! A [`Plan`] is made for one platform. Base images are then resolved from outside, in rounds, because what an image
//! carries as triggers may ask for more images; then [`crate::lower`] turns the plan into a graph.

mod arguments;
mod checks;
mod context;
mod cycle;
mod resolve;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_solver::llb::{Definition, SourceOp};
use cairn_solver::{Digest, Platform};

use crate::budget::Budget;
use crate::checks::Findings;
use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::gofmt::quote;
use crate::image::ImageConfig;
use crate::instruction::{Instruction, Kind};
use crate::location::Lines;
use crate::options::Options;
use crate::suggest::suggestion;
use cairn_solver::Reference;

pub(crate) use arguments::GlobalArgs;
pub(crate) use context::NamedContext;

/// A build of one platform, planned.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The stages of the file, then those that stand for images used by `--from`.
    pub(crate) stages: Vec<PlannedStage>,
    /// How many are of the file.
    pub(crate) declared: usize,
    pub(crate) target: usize,
    /// Whether every stage counts as needed.
    wants_all_stages: bool,
    pub(crate) args: GlobalArgs,
    pub(crate) platform: Arc<Platform>,
    /// Stages of the file by name, in order.
    named: HashMap<String, Vec<usize>>,
    /// Stages that stand for images, by the name used.
    images: HashMap<String, usize>,
    /// The stage behind each use of an image without a `FROM`: they are numbered after the stages of the file.
    uses: Vec<usize>,
    /// Whether step names carry the stage's label.
    pub(crate) shows_labels: bool,
    /// The first name of an image that is none; told when the stages are known to fit together.
    invalid: Option<DockerfileError>,
    budget: Budget,
}

#[derive(Debug)]
pub(crate) struct PlannedStage {
    pub(crate) name: Option<String>,
    pub(crate) label: String,
    pub(crate) base: Base,
    /// The base as the file has it, with variables replaced.
    pub(crate) written: String,
    pub(crate) platform: Arc<Platform>,
    pub(crate) lines: Lines,
    /// Whether its base is what these lines are about, and not only needed by them.
    pub(crate) has_place: bool,
    /// The text of the `FROM`.
    pub(crate) text: Arc<str>,
    pub(crate) steps: Vec<Step>,
    /// Whether a named context stands in for the stage, whose instructions are dropped.
    pub(crate) replaced: bool,
    pub(crate) reachable: bool,
}

impl PlannedStage {
    /// Where the stage begins.
    pub(crate) fn first_lines(&self) -> Lines {
        self.lines
    }

    /// Where its base is in the Dockerfile, as graphs tell it.
    pub(crate) fn place(&self) -> Option<Lines> {
        self.has_place.then_some(self.lines)
    }

    /// Understands the config of the image that the stage is based on.
    pub(crate) fn image(&self, config: &[u8]) -> Result<ImageConfig, DockerfileError> {
        ImageConfig::from_base(config)
            .map_err(|error| DockerfileError::at(self.first_lines(), format!("{}: {error}", self.written)))
    }
}

/// What a stage starts from.
#[derive(Debug, Clone)]
pub(crate) enum Base {
    Scratch,
    Stage(usize),
    Image {
        reference: Reference,
        context: Option<ContextImage>,
        /// The client's OCI layout that it is in; `None` for a registry.
        layout: Option<String>,
        resolved: Option<Box<Resolved>>,
    },
    /// A directory of the client, under the name of a context.
    Local {
        context: String,
        local: String,
    },
    /// Whatever a named context stands for otherwise.
    Graph(GraphBase),
}

/// The named context that an image comes from, in the words in which it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ContextImage {
    /// The context.
    pub(crate) title: String,
    /// The image, as the client wrote it.
    pub(crate) written: String,
}

/// A base that is made by a graph of its own.
#[derive(Debug, Clone)]
pub(crate) struct GraphBase {
    pub(crate) definition: Arc<Definition>,
    /// The source that is all there is to it, if it is one.
    pub(crate) source: Option<Box<SourceOp>>,
    /// The image config that comes with it.
    pub(crate) config: Option<Bytes>,
}

/// What is known of a base image once it was looked up.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// The reference that was resolved, which policies may have chosen.
    pub(crate) reference: String,
    pub(crate) digest: Digest,
    /// Its config as it came.
    pub(crate) config: Bytes,
    /// Its config, understood.
    pub(crate) image: Arc<ImageConfig>,
}

/// An instruction with what it refers to.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) instruction: Arc<Instruction>,
    pub(crate) is_trigger: bool,
    /// The stage behind `COPY --from`.
    pub(crate) from: Option<usize>,
    /// The stage behind each `RUN --mount`.
    pub(crate) mounts: Vec<Option<usize>>,
}

/// An image that has to be looked up.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) stage: usize,
    pub(crate) reference: String,
    pub(crate) platform: Platform,
    pub(crate) context: Option<ContextImage>,
    pub(crate) layout: Option<String>,
}

impl Plan {
    /// Plans the build of `file` for `platform`; `host` is the platform that is built on. What checks find on the way
    /// joins `found`, also if it fails.
    pub(crate) fn new(
        file: &Dockerfile,
        options: &Options,
        platform: &Platform,
        host: &Platform,
        found: &mut Findings,
    ) -> Result<Self, DockerfileError> {
        let args = GlobalArgs::new(file, options, platform, host)?;
        let mut plan = Self {
            stages: Vec::new(),
            declared: file.stages.len(),
            target: 0,
            wants_all_stages: options.wants_all_stages(),
            args,
            platform: Arc::new(platform.clone()),
            named: HashMap::new(),
            images: HashMap::new(),
            uses: Vec::new(),
            shows_labels: false,
            invalid: None,
            budget: Budget::default(),
        };
        if let Some(defaults) = GlobalArgs::defaults(file, options, platform, host) {
            for stage in &file.stages {
                checks::default_base(stage, &defaults, found);
            }
        }
        for index in 0..file.stages.len() {
            plan.check_from(&file.stages[index], found);
            let stage = plan.stage(file, options, index, host)?;
            if let Some(name) = &stage.name {
                plan.named.entry(name.clone()).or_default().push(index);
            }
            plan.stages.push(stage);
        }
        plan.target = plan.find_target(&options.target)?;
        let mut implicit = false;
        for index in 0..plan.declared {
            if !plan.stages[index].replaced {
                let triggers = plan.inherited_triggers(file, index)?;
                let own = file.stages[index]
                    .instructions
                    .iter()
                    .cloned()
                    .map(|instruction| (instruction, false));
                let steps: Vec<_> = triggers.into_iter().map(|trigger| (trigger, true)).chain(own).collect();
                implicit |= plan.add_steps(options, index, steps, usize::MAX)?;
            }
        }
        plan.shows_labels = implicit || plan.declared > 1;
        for index in 0..plan.declared {
            if let Base::Graph(GraphBase {
                config: Some(config), ..
            }) = &plan.stages[index].base
            {
                let image = plan.stages[index].image(config)?;
                plan.add_triggers(options, index, &image)?;
            }
        }
        plan.settle()?;
        Ok(plan)
    }

    /// The bases that are graphs of their own, as far as they are needed.
    pub(crate) fn graphs_mut(&mut self) -> impl Iterator<Item = &mut GraphBase> {
        let reachable = self.stages.iter_mut().filter(|stage| stage.reachable);
        reachable.filter_map(|stage| match &mut stage.base {
            Base::Graph(graph) => Some(graph),
            _ => None,
        })
    }

    fn find_target(&self, target: &str) -> Result<usize, DockerfileError> {
        let last = self
            .stages
            .len()
            .checked_sub(1)
            .ok_or_else(|| DockerfileError::whole("dockerfile contains no stages to build"))?;
        if target.is_empty() {
            return Ok(last);
        }
        let lower = target.to_lowercase();
        let found = self.named.get(&lower).and_then(|stages| stages.last().copied());
        found.ok_or_else(|| {
            let near = suggestion(&lower, self.stages.iter().filter_map(|stage| stage.name.as_deref()));
            DockerfileError::whole(format!("target stage {} could not be found{near}", quote(target)))
        })
    }

    /// The triggers that a stage takes over from another stage of the file.
    fn inherited_triggers(
        &mut self,
        file: &Dockerfile,
        index: usize,
    ) -> Result<Vec<Arc<Instruction>>, DockerfileError> {
        let Base::Stage(base) = self.stages[index].base else {
            return Ok(Vec::new());
        };
        if self.stages[base].replaced {
            return Ok(Vec::new());
        }
        let lines = file.stages[index].instruction.lines;
        let triggers = file.stages[base]
            .instructions
            .iter()
            .filter_map(|instruction| match &instruction.kind {
                Kind::Onbuild(text) => Some(text),
                _ => None,
            });
        triggers.map(|text| self.trigger(text, lines)).collect()
    }

    /// Reads a trigger that fires in the stage at `lines`.
    fn trigger(&mut self, text: &str, lines: Lines) -> Result<Arc<Instruction>, DockerfileError> {
        // The text is kept in several forms, beside a good deal of other things.
        self.budget.charge(4 * text.len() + 512, lines)?;
        let read = Instruction::from_trigger(text, lines);
        read.map(Arc::new)
            .map_err(|message| DockerfileError::at(lines, message))
    }

    /// Resolves what `instructions` refer to and puts them in front of (`at` 0) or behind what the stage has. Returns
    /// whether there was a reference that is no stage of the file.
    fn add_steps(
        &mut self,
        options: &Options,
        index: usize,
        instructions: Vec<(Arc<Instruction>, bool)>,
        at: usize,
    ) -> Result<bool, DockerfileError> {
        let mut implicit = false;
        let mut steps = Vec::with_capacity(instructions.len());
        for (instruction, is_trigger) in instructions {
            let lines = instruction.lines;
            let (mut from, mut mounts) = (None, Vec::new());
            match &instruction.kind {
                Kind::Copy(copy) if let Some(name) = copy.from.as_deref().filter(|name| !name.contains('$')) => {
                    from = Some(self.copy_source(options, index, name, lines)?);
                }
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        mounts.push(match &mount.from {
                            Some(name) => Some(self.mount_source(options, index, name, lines)?),
                            None => None,
                        });
                        implicit |= mounts
                            .last()
                            .is_none_or(|stage| stage.is_none_or(|stage| stage >= self.declared));
                    }
                }
                _ => {}
            }
            implicit |= from.is_some_and(|stage| stage >= self.declared);
            steps.push(Step {
                instruction,
                is_trigger,
                from,
                mounts,
            });
        }
        let own = &mut self.stages[index].steps;
        let at = at.min(own.len());
        own.splice(at..at, steps);
        Ok(implicit)
    }

    /// Works out what is needed, after references were added.
    ///
    /// # Errors
    /// If stages need each other, or the name of an image is none.
    pub(crate) fn settle(&mut self) -> Result<(), DockerfileError> {
        self.check_cycles()?;
        if let Some(invalid) = self.invalid.take() {
            return Err(invalid);
        }
        self.stages.iter_mut().for_each(|stage| stage.reachable = false);
        self.mark_reachable();
        Ok(())
    }

    /// Marks the stages that the target needs, and those only, unless all are of interest.
    fn mark_reachable(&mut self) {
        let mut pending = if self.wants_all_stages {
            (0..self.declared).collect()
        } else {
            vec![self.target]
        };
        while let Some(index) = pending.pop() {
            if std::mem::replace(&mut self.stages[index].reachable, true) {
                continue;
            }
            pending.extend(self.dependencies(index));
        }
    }

    /// The stages that a stage needs.
    pub(crate) fn dependencies(&self, index: usize) -> Vec<usize> {
        let stage = &self.stages[index];
        let base = match stage.base {
            Base::Stage(base) => Some(base),
            _ => None,
        };
        let steps = stage
            .steps
            .iter()
            .flat_map(|step| step.from.into_iter().chain(step.mounts.iter().flatten().copied()));
        base.into_iter().chain(steps).collect()
    }

    /// Images of needed stages that nothing is known of yet.
    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        let wanted = self
            .stages
            .iter()
            .enumerate()
            .filter_map(|(index, stage)| match &stage.base {
                Base::Image {
                    reference,
                    context,
                    layout,
                    resolved: None,
                } if stage.reachable => Some(Wanted {
                    stage: index,
                    reference: reference.to_string(),
                    platform: Platform::clone(&stage.platform),
                    context: context.clone(),
                    layout: layout.clone(),
                }),
                _ => None,
            });
        wanted.collect()
    }

    /// Takes what was found out about a stage's image. Triggers it carries join the stage.
    pub(crate) fn resolved(
        &mut self,
        options: &Options,
        index: usize,
        found: Box<Resolved>,
    ) -> Result<(), DockerfileError> {
        let image = Arc::clone(&found.image);
        let lines = self.stages[index].first_lines();
        if let Base::Image {
            reference, resolved, ..
        } = &mut self.stages[index].base
        {
            if found.reference != reference.to_string() {
                let unparsed = |_| DockerfileError::at(lines, format!("failed to parse ref \"{}\"", found.reference));
                *reference = Reference::parse(&found.reference).map_err(unparsed)?;
            }
            *resolved = Some(found);
        }
        self.add_triggers(options, index, &image)
    }

    /// Bases a stage on what policies put in the place of its image, as if the named context had asked for that.
    pub(crate) fn replaced(&mut self, options: &Options, index: usize, instead: &str) -> Result<(), DockerfileError> {
        let stage = &mut self.stages[index];
        if let Base::Image {
            context: Some(context), ..
        } = &stage.base
        {
            let context = NamedContext::instead(options, &context.title, instead);
            let context = context.map_err(|cause| DockerfileError::at(stage.first_lines(), cause))?;
            stage.base = context.base;
        }
        Ok(())
    }

    /// Has the triggers in the config of a base fire. Where a context stands in for a stage there is nothing to join but
    /// the stages that are based on it.
    fn add_triggers(&mut self, options: &Options, index: usize, image: &ImageConfig) -> Result<(), DockerfileError> {
        let triggers = image.triggers();
        if index >= self.declared || triggers.is_empty() {
            return Ok(());
        }
        let stages: Vec<usize> = if self.stages[index].replaced {
            let is_based = |stage: &usize| matches!(self.stages[*stage].base, Base::Stage(base) if base == index);
            (0..self.declared).filter(is_based).collect()
        } else {
            vec![index]
        };
        for stage in stages {
            let lines = self.stages[stage].first_lines();
            let steps = triggers
                .iter()
                .map(|text| Ok((self.trigger(text, lines)?, true)))
                .collect::<Result<_, _>>()?;
            self.shows_labels |= self.add_steps(options, stage, steps, 0)?;
        }
        Ok(())
    }
}
