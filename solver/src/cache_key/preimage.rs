//! The parts of a key.

use std::borrow::Cow;
use std::fmt::{self, Display};

use super::CacheKey;
use super::texts::Texts;
use crate::Digest;

/// Version of everything that is hashed here; part of every key, so that a change of rules makes old keys unreachable.
pub(super) const KEY_VERSION: &str = "cairn.key.v1";

/// The named parts that a key is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preimage {
    /// Kind of op.
    pub kind: Cow<'static, str>,
    /// The op's own fields, in order.
    pub fields: Fields,
    /// What each input contributes, in order.
    pub inputs: Vec<InputPart>,
}

impl Preimage {
    /// Hashes the parts.
    pub fn key(&self) -> CacheKey {
        key(&self.kind, &self.fields, &self.inputs)
    }
}

/// What an input contributes to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputPart {
    /// Which output of which key; any change of the input changes the key.
    Identity {
        /// The input's key.
        key: CacheKey,
        /// Which of its outputs.
        output: usize,
    },
    /// The digests of what is read from it, per selector; nothing else of the input matters.
    Content(Vec<Digest>),
}

/// The key of these parts.
pub(super) fn key(kind: &str, fields: &Fields, inputs: &[InputPart]) -> CacheKey {
    let mut texts = Texts::with_capacity(1024);
    texts.put(KEY_VERSION);
    texts.put(kind);
    texts.show(fields.len());
    texts.append(&fields.texts);
    texts.show(inputs.len());
    for input in inputs {
        match input {
            InputPart::Identity { key, output } => {
                texts.put("identity");
                texts.put_hash("blake3:", key.as_bytes());
                texts.show(output);
            }
            InputPart::Content(digests) => {
                texts.put("content");
                texts.show(digests.len());
                for digest in digests {
                    texts.put_hash("sha256:", digest.as_bytes());
                }
            }
        }
    }
    texts.key()
}

/// Fields of an op, in order: names and values by turns. They are kept in the form that is hashed, because large builds
/// have very many of them and most are only hashed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    texts: Texts,
    count: usize,
}

impl Fields {
    /// With room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            texts: Texts::with_capacity(bytes),
            count: 0,
        }
    }

    /// Adds a field.
    pub fn put(&mut self, name: &str, value: impl AsRef<str>) {
        self.texts.put(name);
        self.texts.put(value.as_ref());
        self.count += 1;
    }

    /// Adds a field with a value as it is shown.
    pub(super) fn show(&mut self, name: &str, value: impl Display) {
        self.texts.put(name);
        self.texts.show(value);
        self.count += 1;
    }

    pub(super) fn put_all<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a String>) {
        for value in values {
            self.put(name, value);
        }
    }

    /// Leaves the field out when it is empty: most are.
    pub(super) fn put_set(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.put(name, value);
        }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, "true");
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.texts.iter();
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }
}

impl<Name: AsRef<str>, Value: AsRef<str>> FromIterator<(Name, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Name, Value)>>(fields: I) -> Self {
        let mut all = Self::default();
        for (name, value) in fields {
            all.put(name.as_ref(), value);
        }
        all
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
