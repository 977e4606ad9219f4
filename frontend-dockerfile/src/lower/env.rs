//! The variables of a stage.

use std::collections::{BTreeMap, HashMap};

use crate::expand::Variables;

/// Variables in the order in which they were last set.
#[derive(Debug, Clone, Default)]
pub(super) struct Env {
    values: HashMap<String, (u64, String)>,
    order: BTreeMap<u64, String>,
    next: u64,
}

impl Env {
    pub(super) fn set(&mut self, key: &str, value: &str) {
        let at = self.next;
        self.next += 1;
        if let Some((before, _)) = self.values.insert(key.to_owned(), (at, value.to_owned())) {
            self.order.remove(&before);
        }
        self.order.insert(at, key.to_owned());
    }

    /// Names that have a value.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.order.values().map(String::as_str)
    }

    /// `NAME=value`, for processes.
    pub(super) fn entries(&self) -> Vec<String> {
        self.order
            .values()
            .map(|key| format!("{key}={}", self.values[key].1))
            .collect()
    }

    /// About how much memory it takes.
    pub(super) fn weight(&self) -> usize {
        self.values
            .iter()
            .map(|(key, (_, value))| key.len() + value.len() + 64)
            .sum()
    }
}

impl Variables for Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
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
