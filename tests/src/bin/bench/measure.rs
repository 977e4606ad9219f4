//! Many measurements of one thing.

use std::time::Duration;

use anyhow::ensure;

/// At least one measurement, sorted.
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn new(mut samples: Vec<Duration>) -> anyhow::Result<Self> {
        ensure!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        Ok(Self(samples))
    }

    /// Measures `count` times.
    pub(crate) fn repeat(count: usize, mut once: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Self> {
        Self::new((0..count).map(|_| once()).collect::<anyhow::Result<Vec<_>>>()?)
    }

    pub(crate) fn min(&self) -> Duration {
        self.0[0]
    }

    pub(crate) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}
