//! Flags of instructions: `--name=value`.

use crate::suggest::suggestion;
use crate::syntax::FlagWord;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// A value, at most once.
    Text,
    /// A value, any number of times.
    List,
    /// Nothing, or `true` or `false`.
    Switch,
}

/// The flags an instruction takes.
pub(crate) type FlagSpec = [(&'static str, FlagKind)];

/// Flags with their values.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    /// Checks flags against what the instruction takes.
    pub(crate) fn parse(words: &[FlagWord], spec: &FlagSpec) -> Result<Self, String> {
        let mut flags = Self::default();
        for word in words {
            flags.add(&word.text, spec)?;
        }
        Ok(flags)
    }

    fn add(&mut self, word: &str, spec: &FlagSpec) -> Result<(), String> {
        let body = word.strip_prefix("--").unwrap_or(word);
        let (name, value) = body
            .split_once('=')
            .map_or((body, None), |(name, value)| (name, Some(value)));
        let Some(&(known, kind)) = spec.iter().find(|(known, _)| *known == name) else {
            let near = suggestion(name, spec.iter().map(|(known, _)| *known));
            return Err(format!("unknown flag: --{name}{near}"));
        };
        if kind != FlagKind::List && self.given.iter().any(|(given, _)| *given == known) {
            return Err(format!("duplicate flag specified: --{name}"));
        }
        let value = match (kind, value) {
            (FlagKind::Switch, None) => "true".to_owned(),
            (FlagKind::Switch, Some(value)) => match value.to_ascii_lowercase().as_str() {
                "" => return Err(format!("missing a value on flag: --{name}")),
                value @ ("true" | "false") => value.to_owned(),
                _ => return Err(format!("expecting boolean value for flag --{name}, not: {value}")),
            },
            (_, None) => return Err(format!("missing a value on flag: --{name}")),
            (_, Some(value)) => value.to_owned(),
        };
        self.given.push((known, value));
        Ok(())
    }

    /// The value of a flag; an empty one counts as not given.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.list(name).pop().filter(|value| !value.is_empty())
    }

    /// The value of a flag, also if it is empty.
    pub(crate) fn given(&self, name: &str) -> Option<String> {
        self.list(name).pop()
    }

    /// All values of a flag.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.given
            .iter()
            .filter(|(given, _)| *given == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// A switch, if it was given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }
}
