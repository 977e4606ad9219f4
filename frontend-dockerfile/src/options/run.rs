//! Options that apply to every process of a build.

use cairn_solver::llb::{HostIp, LinuxResources, NetMode, Ulimit};

use crate::{csv, gofmt};

/// What applies to every `RUN`.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunOptions {
    /// `add-hosts`
    pub(crate) extra_hosts: Vec<HostIp>,
    /// `force-network-mode`
    pub(crate) network: NetMode,
    /// `hostname`; empty for the default.
    pub(crate) hostname: String,
    /// `shm-size` in bytes; 0 for the default.
    pub(crate) shm_size: u64,
    /// `ulimit`
    pub(crate) ulimits: Vec<Ulimit>,
    /// `cgroup-parent`
    pub(crate) cgroup_parent: String,
    /// `memory` and its like, if any was given.
    pub(crate) resources: Option<LinuxResources>,
}

impl RunOptions {
    /// Sets an option. False if it is none of these.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "add-hosts" => {
                self.extra_hosts = hosts(value).map_err(|cause| format!("failed to parse additional hosts: {cause}"))?
            }
            "force-network-mode" => self.network = network(value)?,
            "hostname" => value.clone_into(&mut self.hostname),
            "shm-size" => self.shm_size = shm_size(value)?,
            "ulimit" => self.ulimits = ulimits(value).map_err(|cause| format!("failed to parse ulimit: {cause}"))?,
            "cgroup-parent" => value.clone_into(&mut self.cgroup_parent),
            _ => return self.limit(key, value),
        }
        Ok(true)
    }

    fn limit(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let fail =
            |rule: &str| format!("failed to parse resource limits: invalid {key} value: {value}: must be {rule}");
        let positive = || {
            value
                .parse::<i64>()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| fail("> 0"))
        };
        let mut limits = self.resources.clone().unwrap_or_default();
        match key {
            "memory" => limits.memory = positive()?,
            "memswap" if value == "-1" => limits.memory_swap = -1,
            "memswap" => limits.memory_swap = positive().map_err(|_| fail("-1 (unlimited) or > 0"))?,
            "cpushares" => limits.cpu_shares = positive()?.unsigned_abs(),
            "cpuperiod" => limits.cpu_period = positive()?.unsigned_abs(),
            "cpuquota" => limits.cpu_quota = positive()?,
            "cpusetcpus" => value.clone_into(&mut limits.cpuset_cpus),
            "cpusetmems" => value.clone_into(&mut limits.cpuset_mems),
            _ => return Ok(false),
        }
        self.resources = Some(limits);
        Ok(true)
    }
}

fn fields(value: &str) -> Result<Vec<String>, String> {
    if value.is_empty() {
        Ok(Vec::new())
    } else {
        csv::record(value)
    }
}

fn hosts(value: &str) -> Result<Vec<HostIp>, String> {
    fields(value)?
        .iter()
        .map(|field| {
            let lower = field.to_lowercase();
            let (host, ip) = lower
                .split_once('=')
                .ok_or_else(|| format!("invalid key-value pair {field}"))?;
            let ip = ip.parse().map_err(|_| format!("failed to parse IP {ip}"))?;
            Ok(HostIp {
                host: host.to_owned(),
                ip,
            })
        })
        .collect()
}

fn network(value: &str) -> Result<NetMode, String> {
    match value {
        "" | "sandbox" => Ok(NetMode::Sandbox),
        "host" => Ok(NetMode::Host),
        "none" => Ok(NetMode::None),
        _ => Err(format!("invalid netmode {value}")),
    }
}

fn shm_size(value: &str) -> Result<u64, String> {
    let number: i64 = value
        .parse()
        .map_err(|error| format!("failed to parse shm size: {}", gofmt::parse_int_error(value, &error)))?;
    u64::try_from(number).map_err(|_| format!("failed to parse shm size: {value} is negative"))
}

/// Limits that processes have.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// No limit at all.
const UNLIMITED: i64 = -1;

fn ulimits(value: &str) -> Result<Vec<Ulimit>, String> {
    fields(value)?
        .iter()
        .map(|field| {
            let invalid = || format!("invalid ulimit argument: {field}");
            let (name, limits) = field.split_once('=').ok_or_else(invalid)?;
            if !ULIMITS.contains(&name) {
                return Err(format!("invalid ulimit type: {name}"));
            }
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            if hard.contains(':') {
                return Err(format!(
                    "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
                ));
            }
            let number = |text: &str| {
                let number = text.parse::<i64>();
                number.map_err(|error| format!("{}: {}", gofmt::parse_int_error(text, &error), invalid()))
            };
            let (soft, hard) = (number(soft)?, number(hard)?);
            let rank = |limit: i64| if limit == UNLIMITED { i64::MAX } else { limit };
            if rank(soft) > rank(hard) {
                return Err(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
                ));
            }
            Ok(Ulimit {
                name: name.to_owned(),
                soft,
                hard,
            })
        })
        .collect()
}
