//! The variables of a stage.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::expand::Variables;

/// Variables in the order in which they were last set.
#[derive(Debug, Clone, Default)]
pub(super) struct Env {
    places: HashMap<Arc<str>, u64>,
    /// `NAME=value`, as processes get it.
    entries: BTreeMap<u64, Arc<str>>,
    next: u64,
    bytes: usize,
}

impl Env {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let at = self.next;
        self.next += 1;
        let before = match self.places.get_mut(name) {
            Some(place) => Some(std::mem::replace(place, at)),
            None => self.places.insert(name.into(), at),
        };
        let before = before.and_then(|before| self.entries.remove(&before));
        let entry: Arc<str> = [name, "=", value].concat().into();
        self.bytes = self.bytes + entry.len() - before.map_or(0, |before| before.len());
        self.entries.insert(at, entry);
    }

    /// Names that have a value.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let entries = self.entries.values();
        entries.map(|entry| entry.split_once('=').map_or(&**entry, |(name, _)| name))
    }

    /// `NAME=value`, for processes.
    pub(super) fn entries(&self) -> Vec<String> {
        self.entries.values().map(|entry| String::from(&**entry)).collect()
    }

    /// About how much memory the entries take.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.entries.len() * 64
    }
}

impl Variables for Env {
    fn get(&self, name: &str) -> Option<&str> {
        let entry = self.entries.get(self.places.get(name)?)?;
        entry.get(name.len() + 1..)
    }
}

/// Variables of which some are not to be seen.
#[derive(Debug)]
pub(super) struct Masked<'a> {
    pub(super) env: &'a Env,
    pub(super) hidden: &'a [&'a str],
}

impl Variables for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if self.hidden.contains(&name) {
            Some("****")
        } else {
            self.env.get(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_assignment_comes_last() {
        let mut env = Env::default();
        for (key, value) in [("B", "1"), ("A", "2"), ("B", "4")] {
            env.set(key, value);
        }
        assert_eq!(env.entries(), ["A=2", "B=4"]);
        assert_eq!(env.get("B"), Some("4"));
    }
}
