//! The environment in an image config.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// `NAME=value`, in the order in which names first came up.
#[derive(Debug, Clone, Default)]
pub(super) struct EnvList {
    entries: Vec<Arc<str>>,
    /// Where the value of a name is; the first, if a base image has several.
    places: HashMap<Arc<str>, usize>,
}

impl EnvList {
    /// The strings of a JSON array.
    pub(super) fn from_json(value: &Value) -> Self {
        let mut list = Self::default();
        for entry in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some((name, _)) = entry.split_once('=') {
                list.places.entry(name.into()).or_insert(list.entries.len());
            }
            list.entries.push(entry.into());
        }
        list
    }

    pub(super) fn to_json(&self) -> Value {
        self.entries.iter().map(|entry| Value::from(&**entry)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names and values. What has no `=` is a name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
    }

    /// Sets a variable, in place if there is one of that name.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let entry = [name, "=", value].concat().into();
        match self.places.get(name) {
            Some(&place) => self.entries[place] = entry,
            None => {
                self.places.insert(name.into(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    /// About how much memory a copy of it takes. The texts are shared.
    pub(super) fn weight(&self) -> usize {
        self.entries.len() * 64
    }
}
