//! What the kernel counted in a control group.
//!
//! The names are those of version 2; what version 1 counts has other names, and is in other directories. See the kernel's
//! `admin-guide/cgroup-v2` and `admin-guide/cgroup-v1`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use cairn_solver::usage::{Consumption, UsageSample};

use super::counters::{number, pressure, read};

/// Where a number is: its name, its file, its key in that, and what a unit of it is. The first that is there counts.
type Place = (&'static str, &'static str, &'static str, u64);

const MICROSECOND: u64 = 1_000;

const CPU: &[Place] = &[
    ("usageNanos", "cpu.stat", "usage_usec", MICROSECOND),
    ("userNanos", "cpu.stat", "user_usec", MICROSECOND),
    ("systemNanos", "cpu.stat", "system_usec", MICROSECOND),
    ("nrPeriods", "cpu.stat", "nr_periods", 1),
    ("nrThrottled", "cpu.stat", "nr_throttled", 1),
    ("throttledNanos", "cpu.stat", "throttled_usec", MICROSECOND),
];
const CPU_V1: &[Place] = &[
    ("usageNanos", "cpuacct.usage", "", 1),
    ("userNanos", "cpuacct.usage_user", "", 1),
    ("systemNanos", "cpuacct.usage_sys", "", 1),
    ("nrPeriods", "cpu.stat", "nr_periods", 1),
    ("nrThrottled", "cpu.stat", "nr_throttled", 1),
    ("throttledNanos", "cpu.stat", "throttled_time", 1),
];
const MEMORY: &[Place] = &[
    ("swapBytes", "memory.swap.current", "", 1),
    ("anon", "memory.stat", "anon", 1),
    ("file", "memory.stat", "file", 1),
    ("kernel", "memory.stat", "kernel", 1),
    ("kernelStack", "memory.stat", "kernel_stack", 1),
    ("pageTables", "memory.stat", "pagetables", 1),
    ("sock", "memory.stat", "sock", 1),
    ("vmalloc", "memory.stat", "vmalloc", 1),
    ("shmem", "memory.stat", "shmem", 1),
    ("fileMapped", "memory.stat", "file_mapped", 1),
    ("fileDirty", "memory.stat", "file_dirty", 1),
    ("fileWriteback", "memory.stat", "file_writeback", 1),
    ("slab", "memory.stat", "slab", 1),
    ("pgscan", "memory.stat", "pgscan", 1),
    ("pgsteal", "memory.stat", "pgsteal", 1),
    ("pgfault", "memory.stat", "pgfault", 1),
    ("pgmajfault", "memory.stat", "pgmajfault", 1),
    ("peak", "memory.peak", "", 1),
    ("lowEvents", "memory.events", "low", 1),
    ("highEvents", "memory.events", "high", 1),
    ("maxEvents", "memory.events", "max", 1),
    ("oomEvents", "memory.events", "oom", 1),
    ("oomKillEvents", "memory.events", "oom_kill", 1),
];
const MEMORY_V1: &[Place] = &[
    ("swapBytes", "memory.stat", "total_swap", 1),
    ("anon", "memory.stat", "total_rss", 1),
    ("file", "memory.stat", "total_cache", 1),
    ("kernel", "memory.kmem.usage_in_bytes", "", 1),
    ("shmem", "memory.stat", "total_shmem", 1),
    ("fileMapped", "memory.stat", "total_mapped_file", 1),
    ("fileDirty", "memory.stat", "total_dirty", 1),
    ("fileWriteback", "memory.stat", "total_writeback", 1),
    ("pgfault", "memory.stat", "total_pgfault", 1),
    ("pgmajfault", "memory.stat", "total_pgmajfault", 1),
    ("peak", "memory.max_usage_in_bytes", "", 1),
    ("maxEvents", "memory.failcnt", "", 1),
    ("oomKillEvents", "memory.oom_control", "oom_kill", 1),
];
const PIDS: &[Place] = &[("current", "pids.current", "", 1)];

/// What is added up over all disks: its name, and its key in version 2 (`8:0 rbytes=1 wbytes=2`).
const IO: &[(&str, &str)] = &[
    ("readBytes", "rbytes"),
    ("writeBytes", "wbytes"),
    ("discardBytes", "dbytes"),
    ("readIOs", "rios"),
    ("writeIOs", "wios"),
    ("discardIOs", "dios"),
];
/// The same in version 1 (`8:0 Read 1`): also the file.
const IO_V1: &[(&str, &str, &str)] = &[
    ("readBytes", "blkio.throttle.io_service_bytes_recursive", "Read"),
    ("writeBytes", "blkio.throttle.io_service_bytes_recursive", "Write"),
    ("discardBytes", "blkio.throttle.io_service_bytes_recursive", "Discard"),
    ("readIOs", "blkio.throttle.io_serviced_recursive", "Read"),
    ("writeIOs", "blkio.throttle.io_serviced_recursive", "Write"),
    ("discardIOs", "blkio.throttle.io_serviced_recursive", "Discard"),
];

/// What was used until now in a group, which is in each of `dirs` that there is: one with version 2, one for every
/// hierarchy with version 1, or both. `None` if there is no such group. Blocks for a moment.
pub(crate) fn measure(dirs: &[PathBuf]) -> Option<UsageSample> {
    let mut files = Files {
        dirs,
        read: BTreeMap::new(),
    };
    let sample = UsageSample {
        at: SystemTime::now(),
        cpu: files.consumption(&[CPU_V1, CPU], "cpu.pressure"),
        memory: files.consumption(&[MEMORY_V1, MEMORY], "memory.pressure"),
        io: files.io(),
        pids: files.consumption(&[PIDS], "pids.pressure"),
    };
    let parts = [&sample.cpu, &sample.memory, &sample.io, &sample.pids];
    parts.iter().any(|part| !part.is_empty()).then_some(sample)
}

/// The files of a group, each read once.
struct Files<'a> {
    dirs: &'a [PathBuf],
    read: BTreeMap<&'static str, Vec<String>>,
}

impl Files<'_> {
    /// The texts of all files of a name: where both versions are in use, some are there twice.
    fn texts(&mut self, name: &'static str) -> &[String] {
        let dirs = self.dirs.iter();
        self.read
            .entry(name)
            .or_insert_with(|| dirs.filter_map(|dir| read(&dir.join(name))).collect())
    }

    /// What the first version says that knows anything.
    fn consumption(&mut self, versions: &[&[Place]], pressure_file: &'static str) -> Consumption {
        let counted = versions.iter().map(|places| self.counters(places));
        let mut counted: Vec<_> = counted.collect();
        // Where the kernel counts by one version, it knows next to nothing by the other.
        counted.sort_by_key(|counters| std::cmp::Reverse(counters.len()));
        Consumption {
            counters: counted.into_iter().next().unwrap_or_default(),
            pressure: self.texts(pressure_file).iter().find_map(|text| pressure(text)),
        }
    }

    fn counters(&mut self, places: &[Place]) -> BTreeMap<&'static str, u64> {
        let mut counters = BTreeMap::new();
        for &(name, file, key, unit) in places {
            let found = self.texts(file).iter().find_map(|text| number(text, key));
            if let Some(found) = found {
                counters.entry(name).or_insert(found.saturating_mul(unit));
            }
        }
        counters
    }

    fn io(&mut self) -> Consumption {
        let mut counters = BTreeMap::new();
        for &(name, key) in IO {
            let lines = self.texts("io.stat").iter().flat_map(|text| text.lines());
            let values = lines.filter_map(|line| {
                let mut fields = line.split_ascii_whitespace().filter_map(|field| field.split_once('='));
                fields.find(|(field, _)| *field == key)?.1.parse::<u64>().ok()
            });
            add(&mut counters, name, values);
        }
        for &(name, file, kind) in IO_V1 {
            let lines = self.texts(file).iter().flat_map(|text| text.lines());
            let values = lines.filter_map(|line| {
                let mut words = line.split_ascii_whitespace().skip(1);
                (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
            });
            add(&mut counters, name, values);
        }
        Consumption {
            counters,
            pressure: self.texts("io.pressure").iter().find_map(|text| pressure(text)),
        }
    }
}

/// Adds up what there is; nothing is not zero.
fn add(counters: &mut BTreeMap<&'static str, u64>, name: &'static str, values: impl Iterator<Item = u64>) {
    if let Some(sum) = values.reduce(u64::saturating_add) {
        counters.insert(name, sum);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
        dir.to_owned()
    }

    const PRESSURE: &str =
        "some avg10=0.10 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";

    fn v2(dir: &Path) -> PathBuf {
        let files = [
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 2\nnr_throttled 1\nthrottled_usec 4\n",
            ),
            ("cpu.pressure", PRESSURE),
            (
                "memory.stat",
                "anon 100\nfile 200\nkernel_stack 16\nslab 3\npgfault 9\n",
            ),
            ("memory.peak", "4096\n"),
            ("memory.events", "low 0\nhigh 0\nmax 1\noom 0\noom_kill 0\n"),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=10 wbytes=20\n7:0 \n",
            ),
            ("pids.current", "3\n"),
        ];
        write(dir, &files)
    }

    #[test]
    fn a_group_of_version_2_is_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let sample = measure(&[v2(&dir.path().join("g"))]).unwrap();
        assert_eq!(sample.cpu.counters["usageNanos"], 30_000);
        assert_eq!(sample.cpu.counters["throttledNanos"], 4_000);
        assert_eq!(sample.cpu.pressure.unwrap().some.total, 5);
        assert_eq!(
            (sample.memory.counters["peak"], sample.memory.counters["anon"]),
            (4096, 100)
        );
        assert_eq!(sample.memory.pressure, None);
        assert_eq!(
            (sample.io.counters["readBytes"], sample.io.counters["writeBytes"]),
            (11, 22)
        );
        assert_eq!(sample.io.counters["discardIOs"], 6);
        assert_eq!(sample.pids.counters["current"], 3);
    }

    #[test]
    fn a_group_of_version_1_is_in_many_directories() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = "8:0 Read 7\n8:0 Write 8\n8:0 Discard 0\n8:0 Total 15\n8:16 Read 1\nTotal 16\n";
        let parts: [(&str, &[(&str, &str)]); 6] = [
            (
                "cpu",
                &[("cpu.stat", "nr_periods 1\nnr_throttled 0\nthrottled_time 77\n")],
            ),
            (
                "cpuacct",
                &[
                    ("cpuacct.usage", "5\n"),
                    ("cpuacct.usage_user", "3\n"),
                    ("cpuacct.usage_sys", "2\n"),
                ],
            ),
            (
                "memory",
                &[
                    ("memory.stat", "rss 1\ntotal_rss 2\n"),
                    ("memory.max_usage_in_bytes", "9\n"),
                ],
            ),
            ("blkio", &[("blkio.throttle.io_service_bytes_recursive", bytes)]),
            ("pids", &[("pids.current", "1\n")]),
            // Version 2 beside it, which counts next to nothing then.
            (
                "unified",
                &[
                    ("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n"),
                    ("cpu.pressure", PRESSURE),
                ],
            ),
        ];
        let dirs: Vec<PathBuf> = parts
            .iter()
            .map(|(name, files)| write(&dir.path().join(name), files))
            .collect();
        let sample = measure(&dirs).unwrap();
        let cpu = ["usageNanos", "userNanos", "systemNanos", "throttledNanos"].map(|name| sample.cpu.counters[name]);
        assert_eq!(cpu, [5, 3, 2, 77]);
        assert!(sample.cpu.pressure.is_some());
        assert_eq!((sample.memory.counters["anon"], sample.memory.counters["peak"]), (2, 9));
        assert_eq!(
            (sample.io.counters["readBytes"], sample.io.counters["writeBytes"]),
            (8, 8)
        );
        assert_eq!(sample.io.counters.get("readIOs"), None);
        assert_eq!(sample.pids.counters["current"], 1);
    }

    #[test]
    fn of_a_group_that_is_not_there_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(measure(&[dir.path().join("none"), dir.path().to_owned()]), None);
        assert_eq!(measure(&[]), None);
    }

    #[test]
    fn samples_have_the_names_that_statements_use() {
        let dir = tempfile::tempdir().unwrap();
        let sample = measure(&[v2(&dir.path().join("g"))]).unwrap();
        let json = serde_json::to_value(&sample).unwrap();
        assert_eq!(json["cpuStat"]["usageNanos"], 30_000);
        assert_eq!(json["cpuStat"]["pressure"]["some"]["avg10"], 0.1);
        assert_eq!(json["memoryStat"]["peak"], 4096);
        assert_eq!(json["pidsStat"], serde_json::json!({ "current": 3 }));
        assert!(json.get("at").is_none());
    }
}
