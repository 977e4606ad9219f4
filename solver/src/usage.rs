//! What steps use of the machine, measured for those who want to know.
//!
//! In JSON, these are the members of statements about builds; a sample's time is written beside them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;

/// What a process and its children used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// In the order of time, the last at the end. Few of what took long, however long that was.
    pub samples: Vec<UsageSample>,
    /// What the processors of the whole machine did meanwhile, in seconds.
    pub machine: Option<CpuTimes>,
}

/// What was used until some moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageSample {
    /// That moment.
    #[serde(skip)]
    pub at: SystemTime,
    /// Processors.
    #[serde(rename = "cpuStat", skip_serializing_if = "Consumption::is_empty")]
    pub cpu: Consumption,
    /// Memory.
    #[serde(rename = "memoryStat", skip_serializing_if = "Consumption::is_empty")]
    pub memory: Consumption,
    /// Disks.
    #[serde(rename = "ioStat", skip_serializing_if = "Consumption::is_empty")]
    pub io: Consumption,
    /// Processes.
    #[serde(rename = "pidsStat", skip_serializing_if = "Consumption::is_empty")]
    pub pids: Consumption,
}

/// What was used of one thing: whatever the kernel counts of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Consumption {
    /// By names such as `usageNanos` and `peak`, in the units that these say; bytes where they say none.
    #[serde(flatten)]
    pub counters: BTreeMap<&'static str, u64>,
    /// How much was waited for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

impl Consumption {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.pressure.is_none()
    }
}

/// How much was waited for something, as the kernel's pressure stall information says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// By some process.
    pub some: Stall,
    /// By all at the same time.
    pub full: Stall,
}

/// Time spent waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Percent of the last ten seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// In all, in microseconds.
    pub total: u64,
}

/// What processors did, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuTimes {
    /// Ran programs.
    pub user: f64,
    /// Ran programs that had stepped back.
    pub nice: f64,
    /// Ran the kernel.
    pub system: f64,
    /// Had nothing to do.
    pub idle: f64,
    /// Had nothing to do but wait for disks.
    pub iowait: f64,
    /// Served interrupts.
    pub irq: f64,
    /// Did what interrupts had put off.
    #[serde(rename = "softirq")]
    pub softirq: f64,
    /// Were taken by other machines on the same hardware.
    pub steal: f64,
    /// Ran guests.
    pub guest: f64,
    /// Ran guests that had stepped back.
    pub guest_nice: f64,
}

/// Where a worker notes what a process used, if anybody wants to know.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Option<Usage>>);

impl Meter {
    /// Notes it, in the place of what was noted before.
    pub fn note(&self, usage: Usage) {
        *self.0.lock() = Some(usage);
    }

    /// What was noted.
    pub fn read(&self) -> Option<Usage> {
        self.0.lock().clone()
    }
}
