//! Arguments before the first stage, and those that are always there.

use std::collections::{BTreeMap, BTreeSet};

use cairn_solver::Platform;

use crate::budget::Budget;
use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::expand::{Expander, Variables};
use crate::instruction::Kind;
use crate::options::Options;
use crate::platform;

/// What names mean outside of stages.
#[derive(Debug, Clone)]
pub(crate) struct GlobalArgs {
    values: BTreeMap<String, String>,
    pub(crate) expander: Expander,
    /// Arguments that the file declares.
    declared: BTreeMap<String, Declared>,
}

/// How the file declares an argument.
#[derive(Debug, Clone)]
struct Declared {
    /// Whether it was given there, or has a default.
    has_value: bool,
    /// Names that its default refers to.
    needs: BTreeSet<String>,
}

impl Variables for GlobalArgs {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

impl GlobalArgs {
    pub(super) fn new(
        file: &Dockerfile,
        options: &Options,
        target: &Platform,
        host: &Platform,
    ) -> Result<Self, DockerfileError> {
        let stage = match options.target.as_str() {
            "" => file
                .stages
                .last()
                .and_then(|stage| stage.from.name.as_deref())
                .unwrap_or("default"),
            target => target,
        };
        let automatic = platform::arguments("BUILD", host)
            .into_iter()
            .chain(platform::arguments("TARGET", target))
            .chain([("TARGETSTAGE".to_owned(), stage.to_owned())]);
        let values = automatic.map(|(name, value)| match options.build_args.get(&name) {
            Some(given) => (name, given.clone()),
            None => (name, value),
        });
        let mut args = Self {
            values: values.collect(),
            expander: Expander::new(file.directives.escape_char()),
            declared: BTreeMap::new(),
        };
        let mut budget = Budget::default();
        for instruction in &file.global_args {
            let Kind::Arg(declared) = &instruction.kind else {
                continue;
            };
            for arg in declared {
                let given = options.build_args.get(&arg.name).cloned();
                let mut needs = BTreeSet::new();
                let value = match (given, &arg.default) {
                    (Some(given), _) => Some(given),
                    (None, Some(default)) => {
                        let expanded = args.expander.expand(default, &args);
                        budget.charge_expansion(&expanded, instruction.lines)?;
                        let expanded =
                            expanded.map_err(|error| DockerfileError::at(instruction.lines, error.to_string()))?;
                        needs = expanded.matched.into_iter().map(str::to_owned).collect();
                        Some(expanded.value.into_owned())
                    }
                    (None, None) => None,
                };
                let has_value = value.is_some();
                args.declared.insert(arg.name.clone(), Declared { has_value, needs });
                if let Some(value) = value {
                    args.values.insert(arg.name.clone(), value);
                }
            }
        }
        Ok(args)
    }

    /// The arguments as they would be without any build argument; `None` if they could not be worked out then.
    pub(super) fn defaults(file: &Dockerfile, options: &Options, target: &Platform, host: &Platform) -> Option<Self> {
        let options = Options {
            target: options.target.clone(),
            ..Options::default()
        };
        Self::new(file, &options, target, host).ok()
    }

    /// Whether the file declares an argument of that name before its first stage.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.declared.contains_key(name)
    }

    /// The value that the file or the build gives to an argument, other than what is always there.
    pub(crate) fn own_value(&self, name: &str) -> Option<&str> {
        self.declared.get(name).filter(|declared| declared.has_value)?;
        self.get(name)
    }

    /// The names that the default of an argument refers to.
    pub(crate) fn needs(&self, name: &str) -> BTreeSet<String> {
        self.declared
            .get(name)
            .map(|declared| declared.needs.clone())
            .unwrap_or_default()
    }

    /// Names that have a value.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Names that the file may use, with a value or without.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        let without = self.declared.keys().filter(|name| !self.values.contains_key(*name));
        self.names().chain(without.map(String::as_str))
    }

    /// Replaces (or removes) an argument whose value had to be worked out.
    pub(crate) fn replace(&mut self, name: &str, value: Option<String>) {
        match value {
            Some(value) if self.declared.contains_key(name) => {
                self.values.insert(name.to_owned(), value);
            }
            _ => {
                self.values.remove(name);
            }
        }
    }
}
