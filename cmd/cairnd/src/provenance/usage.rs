//! What was used of the machine, as it is stated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use cairn_solver::Digest;
use cairn_solver::usage::{CpuTimes, Usage, UsageSample};
use cairn_worker::usage::{MachineSample, Sampler, machine};
use jiff::Timestamp;
use serde::Serialize;

use super::Settings;
use crate::jobs::Job;

/// Sees what a build uses, if its client wants to know. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Watch(Option<Arc<Sampler<MachineSample>>>);

impl Watch {
    /// Begins to watch if that is wanted.
    pub(crate) fn of(settings: Option<&Settings>) -> Self {
        let is_wanted = settings.is_some_and(|settings| settings.captures_usage);
        Self(is_wanted.then(|| Arc::new(Sampler::start(machine))))
    }

    /// Whether it is wanted.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What was seen of a build by now.
    pub(super) async fn seen(&self, job: &Job) -> Seen {
        let Some(machine) = &self.0 else {
            return Seen::default();
        };
        Seen {
            steps: job.build.usage(),
            machine: machine.taken().await.into_iter().map(Timed::of_machine).collect(),
        }
    }
}

/// What was used.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// By steps that ran.
    pub(super) steps: HashMap<Digest, Usage>,
    /// By everything on the machine.
    pub(super) machine: Vec<Timed<MachineSample>>,
}

/// What a step used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ResourceUsage {
    samples: Vec<Timed<UsageSample>>,
    #[serde(rename = "sysCPUStat", skip_serializing_if = "Option::is_none")]
    machine: Option<CpuTimes>,
}

impl From<&Usage> for ResourceUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            samples: usage.samples.iter().cloned().map(Timed::of_step).collect(),
            machine: usage.machine,
        }
    }
}

/// A sample, with its time in front.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Timed<T> {
    timestamp: Timestamp,
    #[serde(flatten)]
    sample: T,
}

impl Timed<UsageSample> {
    fn of_step(sample: UsageSample) -> Self {
        Self {
            timestamp: timestamp(sample.at),
            sample,
        }
    }
}

impl Timed<MachineSample> {
    fn of_machine(sample: MachineSample) -> Self {
        Self {
            timestamp: timestamp(sample.at),
            sample,
        }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use cairn_solver::usage::Consumption;
    use serde_json::json;

    use super::*;

    #[test]
    fn samples_are_stated_with_their_times() {
        let sample = UsageSample {
            at: SystemTime::UNIX_EPOCH,
            cpu: Consumption {
                counters: [("usageNanos", 5)].into(),
                pressure: None,
            },
            memory: Consumption::default(),
            io: Consumption::default(),
            pids: Consumption::default(),
        };
        let usage = Usage {
            samples: vec![sample],
            machine: Some(CpuTimes {
                user: 1.5,
                ..CpuTimes::default()
            }),
        };
        let json = serde_json::to_value(ResourceUsage::from(&usage)).unwrap();
        assert_eq!(
            json["samples"],
            json!([{ "timestamp": "1970-01-01T00:00:00Z", "cpuStat": { "usageNanos": 5 } }])
        );
        assert_eq!(json["sysCPUStat"]["user"], 1.5);
    }
}
