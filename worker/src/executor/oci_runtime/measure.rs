//! Measuring what a process uses, while it runs and when it has ended.

use std::path::PathBuf;
use std::sync::Arc;

use cairn_solver::usage::{Meter, Usage, UsageSample};

use crate::usage::{MachineSample, Sampler, cpu_times_since, machine, measure};

/// A run that is measured.
pub(super) struct Measurement {
    meter: Arc<Meter>,
    samples: Sampler<UsageSample>,
    /// What the machine had done before.
    before: Option<MachineSample>,
}

impl Measurement {
    /// Begins with a run whose group will be in these directories.
    pub(super) async fn start(meter: Arc<Meter>, dirs: Vec<PathBuf>) -> Self {
        Self {
            meter,
            before: blocking(machine).await,
            samples: Sampler::start(move || measure(&dirs)),
        }
    }

    /// Measures for the last time, before the group is removed, and notes everything.
    pub(super) async fn finish(self) {
        let before = self.before;
        let usage = Usage {
            samples: self.samples.taken().await,
            machine: blocking(move || cpu_times_since(&before?)).await,
        };
        if !usage.samples.is_empty() {
            self.meter.note(usage);
        }
    }
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(look).await.ok().flatten()
}
