//! What is used of the machine as a whole.

use std::path::Path;
use std::time::SystemTime;

use cairn_solver::usage::{CpuTimes, Pressure};
use serde::Serialize;

use super::counters::{number, pressure, read};

/// Seconds in a tick of the kernel's clock for programs: it is 100 Hz on all platforms (`USER_HZ`).
const TICK: f64 = 0.01;
/// Where the kernel tells.
const PROC: &str = "/proc";

/// What was used until some moment; in JSON, a member of statements about builds, with its time beside it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSample {
    /// That moment.
    #[serde(skip)]
    pub at: SystemTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_stat: Option<CpuTimes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proc_stat: Option<Processes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_stat: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_pressure: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_pressure: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io_pressure: Option<Pressure>,
}

/// What became of processes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Processes {
    context_switches: u64,
    process_created: u64,
    processes_running: u64,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Memory {
    total: Option<u64>,
    free: Option<u64>,
    available: Option<u64>,
    buffers: Option<u64>,
    cached: Option<u64>,
    active: Option<u64>,
    inactive: Option<u64>,
    swap: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    slab: Option<u64>,
}

/// What was used until now. Blocks for a moment.
pub fn machine() -> Option<MachineSample> {
    machine_in(Path::new(PROC))
}

/// What processors did since something was measured. Blocks for a moment.
pub fn cpu_times_since(before: &MachineSample) -> Option<CpuTimes> {
    let now = machine()?.cpu_stat?;
    Some(difference(&now, &before.cpu_stat?))
}

fn machine_in(proc: &Path) -> Option<MachineSample> {
    let stat = read(&proc.join("stat"));
    let memory = read(&proc.join("meminfo"));
    let stalls = |name: &str| read(&proc.join("pressure").join(name)).and_then(|text| pressure(&text));
    let sample = MachineSample {
        at: SystemTime::now(),
        cpu_stat: stat.as_deref().and_then(cpu_times),
        proc_stat: stat.as_deref().and_then(processes),
        memory_stat: memory.as_deref().map(memory_of),
        cpu_pressure: stalls("cpu"),
        memory_pressure: stalls("memory"),
        io_pressure: stalls("io"),
    };
    (sample.cpu_stat.is_some() || sample.memory_stat.is_some()).then_some(sample)
}

/// The first line of `/proc/stat`: all processors together.
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut ticks = line.split_ascii_whitespace().map(str::parse::<f64>);
    // Older kernels tell less.
    let mut next = || ticks.next().and_then(Result::ok).map_or(0.0, |ticks| ticks * TICK);
    Some(rounded(CpuTimes {
        user: next(),
        nice: next(),
        system: next(),
        idle: next(),
        iowait: next(),
        irq: next(),
        softirq: next(),
        steal: next(),
        guest: next(),
        guest_nice: next(),
    }))
}

fn processes(stat: &str) -> Option<Processes> {
    Some(Processes {
        context_switches: number(stat, "ctxt")?,
        process_created: number(stat, "processes")?,
        processes_running: number(stat, "procs_running")?,
    })
}

fn memory_of(text: &str) -> Memory {
    let kib = |key| number(text, key);
    Memory {
        total: kib("MemTotal"),
        free: kib("MemFree"),
        available: kib("MemAvailable"),
        buffers: kib("Buffers"),
        cached: kib("Cached"),
        active: kib("Active"),
        inactive: kib("Inactive"),
        swap: kib("SwapCached"),
        dirty: kib("Dirty"),
        writeback: kib("Writeback"),
        slab: kib("Slab"),
    }
}

fn difference(now: &CpuTimes, before: &CpuTimes) -> CpuTimes {
    // Counters of waiting can go back.
    let since = |part: fn(&CpuTimes) -> f64| (part(now) - part(before)).max(0.0);
    rounded(CpuTimes {
        user: since(|times| times.user),
        nice: since(|times| times.nice),
        system: since(|times| times.system),
        idle: since(|times| times.idle),
        iowait: since(|times| times.iowait),
        irq: since(|times| times.irq),
        softirq: since(|times| times.softirq),
        steal: since(|times| times.steal),
        guest: since(|times| times.guest),
        guest_nice: since(|times| times.guest_nice),
    })
}

/// In whole milliseconds, as products of ticks are not exact.
fn rounded(times: CpuTimes) -> CpuTimes {
    let round = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    CpuTimes {
        user: round(times.user),
        nice: round(times.nice),
        system: round(times.system),
        idle: round(times.idle),
        iowait: round(times.iowait),
        irq: round(times.irq),
        softirq: round(times.softirq),
        steal: round(times.steal),
        guest: round(times.guest),
        guest_nice: round(times.guest_nice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let stat = "cpu  123 7 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1\nctxt 5\nprocesses 6\nprocs_running 7\n";
        std::fs::write(dir.path().join("stat"), stat).unwrap();
        std::fs::write(
            dir.path().join("meminfo"),
            "MemTotal:  1000 kB\nCached:  10 kB\nSwapCached: 2 kB\n",
        )
        .unwrap();
        std::fs::create_dir(dir.path().join("pressure")).unwrap();
        let stalls = "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n";
        std::fs::write(dir.path().join("pressure/cpu"), stalls).unwrap();
        let json = serde_json::to_value(machine_in(dir.path()).unwrap()).unwrap();
        assert_eq!(json["cpuStat"]["user"], 1.23);
        assert_eq!(
            (&json["cpuStat"]["softirq"], &json["cpuStat"]["guestNice"]),
            (&0.07.into(), &0.1.into())
        );
        assert_eq!(json["procStat"]["processCreated"], 6);
        assert_eq!(
            (&json["memoryStat"]["cached"], &json["memoryStat"]["swap"]),
            (&10.into(), &2.into())
        );
        assert_eq!(json["cpuPressure"]["some"]["total"], 5);
        assert!(json.get("ioPressure").is_none());
        assert_eq!(machine_in(&dir.path().join("none")), None);
    }

    #[test]
    fn times_between_two_moments_are_never_negative() {
        let (before, now) = (
            cpu_times("cpu  100 0 0 0 50\n").unwrap(),
            cpu_times("cpu  130 0 0 0 40\n").unwrap(),
        );
        let since = difference(&now, &before);
        assert_eq!((since.user, since.iowait), (0.3, 0.0));
    }
}
