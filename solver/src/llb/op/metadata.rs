//! What is known about a vertex besides its op.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known about a vertex besides its op. Not part of its digest.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OpMetadata {
    /// Runs it even when its result is known.
    pub ignore_cache: bool,
    /// Free-form text; `llb.customname` is the display name.
    pub description: Labels,
    /// Overrides whether its result is recorded in cache exports.
    pub export_cache: Option<bool>,
    /// Groups vertices into one step for display.
    pub progress_group: Option<Arc<ProgressGroup>>,
    /// Limits for a process.
    pub resources: Option<Box<LinuxResources>>,
    /// Capability ids the op needs.
    pub caps: std::collections::BTreeSet<String>,
}

/// A few texts by name, in the order of the names.
///
/// Every vertex has some, and a map of the standard library takes half a kilobyte as soon as there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<(Cow<'static, str>, Arc<str>)>);

impl Labels {
    /// Name of the text that users are shown for a vertex.
    pub const CUSTOM_NAME: &str = "llb.customname";

    /// The text of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.position(name).ok().map(|at| &self.0[at].1)
    }

    /// Sets a text, in place of an earlier one of that name.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, text: impl Into<Arc<str>>) {
        let (name, text) = (name.into(), text.into());
        match self.position(&name) {
            Ok(at) => self.0[at].1 = text,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (name, text));
            }
        }
    }

    /// Names and texts, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Cow<'static, str>, &Arc<str>)> {
        self.0.iter().map(|(name, text)| (name, text))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_ref().cmp(name))
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(texts: I) -> Self {
        let texts = texts.into_iter().map(|(name, text)| {
            let name = if name == Self::CUSTOM_NAME {
                Cow::Borrowed(Self::CUSTOM_NAME)
            } else {
                Cow::Owned(name)
            };
            (name, Arc::from(text))
        });
        let sorted: BTreeMap<Cow<'static, str>, Arc<str>> = texts.collect();
        let mut texts = Vec::with_capacity(sorted.len());
        texts.extend(sorted);
        Self(texts)
    }
}

/// A group of vertices shown as one step.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProgressGroup {
    /// Identity.
    pub id: String,
    /// Name shown.
    pub name: String,
    /// Whether the group is shown only if a member that is not weak is.
    pub weak: bool,
}

/// Control group limits.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LinuxResources {
    /// Bytes.
    pub memory: i64,
    /// Bytes; -1 is unlimited.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: u64,
    /// Microseconds.
    pub cpu_period: u64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// CPUs, such as `0-2`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
}
