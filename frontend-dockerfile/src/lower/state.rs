//! What instructions change.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_solver::llb::OpMetadata;

use crate::image::ImageConfig;
use crate::location::Lines;

use super::arena::NodeId;
use super::env::Env;
use super::names::StepNames;
use super::scan;

/// A stage so far.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    /// Its files; `None` is an empty root.
    pub(super) root: Option<NodeId>,
    /// The image it would become.
    pub(super) image: ImageConfig,
    /// Variables, arguments included.
    pub(super) env: Env,
    /// Working directory, absolute.
    pub(super) cwd: String,
    pub(super) args: Args,
    /// Commands given in this very stage.
    pub(super) commands: Commands,
    /// Whether the working directory was set in this file.
    pub(super) has_workdir: bool,
    /// Numbers its steps.
    pub(super) names: StepNames,
    /// Whether its steps are run whatever is known of them.
    pub(super) ignore_cache: bool,
}

/// Where commands of which only the last one counts were given.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Commands {
    pub(super) cmd: Option<Lines>,
    pub(super) entrypoint: Option<Lines>,
    pub(super) healthcheck: Option<Lines>,
}

/// Arguments in the order in which they were first declared, with their own values.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    places: HashMap<String, usize>,
    declared: Vec<(String, Option<String>)>,
}

impl Args {
    pub(super) fn declares(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The value that an argument was declared with.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.declared[*self.places.get(name)?].1.as_deref()
    }

    pub(super) fn all(&self) -> &[(String, Option<String>)] {
        &self.declared
    }

    fn declare(&mut self, name: &str, value: Option<String>) {
        match self.places.get(name) {
            Some(&place) => {
                let known = &mut self.declared[place].1;
                *known = value.or(known.take());
            }
            None => {
                self.places.insert(name.to_owned(), self.declared.len());
                self.declared.push((name.to_owned(), value));
            }
        }
    }

    /// About how much memory a copy takes.
    pub(super) fn weight(&self) -> usize {
        self.declared.len() * 200
    }
}

impl StageState {
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = &value
            && !scan::is_switch(name)
        {
            self.env.set(name, value);
        }
        self.args.declare(name, value);
    }

    /// About how much memory a copy takes.
    pub(super) fn weight(&self) -> usize {
        self.env.weight() + self.image.weight() + self.args.weight()
    }

    /// Metadata of the process behind an instruction.
    pub(super) fn metadata(&self, name: String, command: &Arc<str>) -> OpMetadata {
        let mut metadata = OpMetadata {
            ignore_cache: self.ignore_cache,
            ..OpMetadata::named(name)
        };
        metadata
            .description
            .insert("com.docker.dockerfile.v1.command", Arc::clone(command));
        metadata
    }
}
