//! Flags of instructions: `--name=value`.

use crate::suggest::suggestion;
use crate::syntax::FlagWord;

const TRUE: &str = "true";

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
pub(crate) struct Flags<'a> {
    given: Vec<(&'static str, &'a str)>,
}

impl<'a> Flags<'a> {
    /// Checks flags against what the instruction takes.
    pub(crate) fn parse(words: &'a [FlagWord], spec: &FlagSpec) -> Result<Self, String> {
        let mut flags = Self::default();
        for word in words {
            flags.add(&word.text, spec)?;
        }
        Ok(flags)
    }

    fn add(&mut self, word: &'a str, spec: &FlagSpec) -> Result<(), String> {
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
            (FlagKind::Switch, None) => TRUE,
            (FlagKind::Switch, Some(value)) => match value {
                "" => return Err(format!("missing a value on flag: --{name}")),
                value if value.eq_ignore_ascii_case(TRUE) => TRUE,
                value if value.eq_ignore_ascii_case("false") => "false",
                _ => return Err(format!("expecting boolean value for flag --{name}, not: {value}")),
            },
            (_, None) => return Err(format!("missing a value on flag: --{name}")),
            (_, Some(value)) => value,
        };
        self.given.push((known, value));
        Ok(())
    }

    /// The value of a flag; an empty one counts as not given.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.list(name).last().filter(|value| !value.is_empty())
    }

    /// The value of a flag, also if it is empty.
    pub(crate) fn given(&self, name: &str) -> Option<&'a str> {
        self.list(name).last()
    }

    /// All values of a flag.
    pub(crate) fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let given = self.given.iter().filter(move |(given, _)| *given == name);
        given.map(|(_, value)| *value)
    }

    /// A switch, if it was given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == TRUE)
    }
}
