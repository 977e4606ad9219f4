//! What names in a Dockerfile refer to.

use std::sync::Arc;

use cairn_solver::Platform;

use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::gofmt::quote;
use crate::location::Lines;
use crate::options::Options;
use crate::platform;
use crate::suggest::suggestion;
use cairn_solver::Reference;

use super::{Base, NamedContext, Plan, PlannedStage};

impl Plan {
    /// Plans one stage of the file, without its instructions.
    pub(super) fn stage(
        &mut self,
        file: &Dockerfile,
        options: &Options,
        index: usize,
        host: &Platform,
    ) -> Result<PlannedStage, DockerfileError> {
        let stage = &file.stages[index];
        let lines = stage.instruction.lines;
        let fail = |message: String| DockerfileError::at(lines, message);
        let expanded = self.args.expander.expand(&stage.from.base, &self.args);
        self.budget.charge_expansion(&expanded, lines)?;
        let name = expanded.map_err(|error| fail(error.to_string()))?.value.into_owned();
        let platform = self.stage_platform(stage.from.platform.as_deref(), host, lines)?;
        if name.is_empty() {
            return Err(fail(format!("base name ({}) should not be blank", stage.from.base)));
        }
        let asked = platform.map_or_else(|| self.platform.clone(), Arc::new);
        let own = match &stage.from.name {
            Some(name) => NamedContext::find(options, name, &asked).map_err(fail)?,
            None => None,
        };
        let replaced = own.is_some();
        let base = match own {
            Some(context) => context.base,
            None => self.base(options, &name, &asked, lines)?,
        };
        let platform = match &base {
            Base::Stage(base) => self.stages[*base].platform.clone(),
            // There is nothing in scratch that could be of a platform.
            Base::Scratch => self.platform.clone(),
            _ => asked,
        };
        Ok(PlannedStage {
            name: stage.from.name.clone(),
            label: stage.from.name.clone().unwrap_or_else(|| format!("stage-{index}")),
            base,
            written: name,
            platform,
            lines,
            has_place: true,
            text: stage.instruction.text.clone(),
            steps: Vec::new(),
            replaced,
            reachable: false,
        })
    }

    /// The platform that `FROM --platform` asks for. What is not said of it is as on `host`.
    fn stage_platform(
        &mut self,
        written: Option<&str>,
        host: &Platform,
        lines: Lines,
    ) -> Result<Option<Platform>, DockerfileError> {
        let Some(written) = written else { return Ok(None) };
        let fail = |message: String| DockerfileError::at(lines, message);
        let expanded = self.args.expander.expand(written, &self.args);
        self.budget.charge_expansion(&expanded, lines)?;
        let expanded = expanded.map_err(|error| fail(format!("failed to process arguments for platform : {error}")))?;
        if expanded.value.is_empty() {
            let near = expanded
                .unmatched
                .iter()
                .map(|name| suggestion(name, self.args.names()))
                .find(|near| !near.is_empty());
            return Err(fail(format!(
                "empty platform value from expression {written}{}",
                near.unwrap_or_default()
            )));
        }
        let parsed = platform::parse(&expanded.value, host);
        parsed
            .map(Some)
            .map_err(|cause| fail(format!("failed to parse platform {written}: {cause}")))
    }

    fn base(
        &mut self,
        options: &Options,
        name: &str,
        platform: &Platform,
        lines: Lines,
    ) -> Result<Base, DockerfileError> {
        // Only earlier stages are in the plan at this point.
        if let Some(&earlier) = self.named.get(name).and_then(|stages| stages.last()) {
            return Ok(Base::Stage(earlier));
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        let context = NamedContext::find(options, name, platform);
        if let Some(context) = context.map_err(|message| DockerfileError::at(lines, message))? {
            return Ok(context.base);
        }
        Ok(self.image(name, lines))
    }

    /// An image of a registry. If `name` cannot be one, that is remembered.
    fn image(&mut self, name: &str, lines: Lines) -> Base {
        match Reference::parse(name) {
            Ok(reference) => Base::Image {
                reference,
                context: None,
                layout: None,
                resolved: None,
            },
            Err(cause) => {
                let message = format!("failed to parse stage name {}: {cause}", quote(name));
                self.invalid.get_or_insert_with(|| DockerfileError::at(lines, message));
                Base::Scratch
            }
        }
    }

    /// What `COPY --from=name` in stage `index` refers to.
    pub(super) fn copy_source(
        &mut self,
        options: &Options,
        index: usize,
        name: &str,
        lines: Lines,
    ) -> Result<usize, DockerfileError> {
        let digits = name.strip_prefix(['-', '+']).unwrap_or(name);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            let number: Option<usize> = name.parse().ok();
            let found = number.and_then(|number| match number.checked_sub(self.declared) {
                None => Some(number),
                Some(use_of) => self.uses.get(use_of).copied(),
            });
            return found.ok_or_else(|| DockerfileError::at(lines, format!("invalid stage index {name}")));
        }
        let source = self.mount_source(options, index, name, lines)?;
        let stage = &mut self.stages[source];
        if !stage.has_place {
            stage.has_place = true;
            stage.lines = lines;
        }
        Ok(source)
    }

    /// What `RUN --mount=from=name` in stage `index` refers to: a stage, a context or an image, but never an index.
    pub(super) fn mount_source(
        &mut self,
        options: &Options,
        index: usize,
        name: &str,
        lines: Lines,
    ) -> Result<usize, DockerfileError> {
        match self.find_stage(name, index) {
            Some(stage) => Ok(stage),
            None => {
                let stage = self.implicit(options, name, lines)?;
                self.uses.push(stage);
                Ok(stage)
            }
        }
    }

    /// The nearest stage of that name at or before `index`, else one behind it.
    fn find_stage(&self, name: &str, index: usize) -> Option<usize> {
        let named = self.named.get(&name.to_lowercase())?;
        let before = named.partition_point(|stage| *stage <= index);
        named[..before].last().or_else(|| named[before..].first()).copied()
    }

    /// The stage that stands for a context or image which is used without a `FROM`.
    fn implicit(&mut self, options: &Options, name: &str, lines: Lines) -> Result<usize, DockerfileError> {
        if let Some(&known) = self.images.get(name) {
            return Ok(known);
        }
        let context =
            NamedContext::find(options, name, &self.platform).map_err(|message| DockerfileError::at(lines, message))?;
        let base = match context {
            Some(context) => context.base,
            None if name == "scratch" => Base::Scratch,
            None => self.image(name, lines),
        };
        self.stages.push(PlannedStage {
            name: None,
            label: name.to_owned(),
            base,
            written: name.to_owned(),
            platform: self.platform.clone(),
            lines,
            has_place: false,
            text: Arc::default(),
            steps: Vec::new(),
            replaced: false,
            reachable: false,
        });
        let index = self.stages.len() - 1;
        self.images.insert(name.to_owned(), index);
        Ok(index)
    }
}
