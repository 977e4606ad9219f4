//! Between the solver's types and those on the wire.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_proto::control::{self, StatusResponse, UsageRecord as WireRecord};
use cairn_proto::{fsutil, pb, types};
use cairn_session::mode;
use cairn_solver::llb::{Definition, ProgressGroup, SourceFile, SourceRange};
use cairn_solver::progress::{Event, Log, Status, VertexState, Warning};
use cairn_solver::worker::{FileStat, WorkerInfo};
use cairn_solver::{Device, Platform};
use cairn_worker::service::UsageRecord;

use crate::config::GcPolicySection;
use crate::failure::wire_source_info;

/// Most log bytes in one message.
const MAX_LOG_BYTES: usize = 1 << 20;

/// Puts events into as few messages as their size allows.
///
/// Within a message, only the last state of each vertex and action is kept.
pub(crate) fn status_responses(events: Vec<Event>) -> Vec<StatusResponse> {
    let mut messages = Vec::new();
    let mut batch = Batch::default();
    for event in events {
        batch.add(event);
        if batch.log_bytes >= MAX_LOG_BYTES {
            messages.push(std::mem::take(&mut batch).response);
        }
    }
    messages.push(batch.response);
    messages
}

#[derive(Default)]
struct Batch {
    response: StatusResponse,
    /// Position of each action's state in the response.
    statuses: BTreeMap<(String, String), usize>,
    log_bytes: usize,
}

impl Batch {
    fn add(&mut self, event: Event) {
        match event {
            // Every interval of a vertex counts, so none of its states is dropped.
            Event::Vertex(state) => self.response.vertexes.push(vertex(state)),
            Event::Status(digest, state) => {
                let state = status(digest.to_string(), *state);
                let key = (state.vertex.clone(), state.id.clone());
                match self.statuses.get(&key) {
                    Some(&position) => self.response.statuses[position] = state,
                    None => {
                        self.statuses.insert(key, self.response.statuses.len());
                        self.response.statuses.push(state);
                    }
                }
            }
            Event::Log(digest, entry) => {
                self.log_bytes += entry.data.len();
                self.response.logs.push(log(digest.to_string(), entry));
            }
            Event::Warning(vertex, finding) => {
                let vertex = vertex.map(|digest| digest.to_string()).unwrap_or_default();
                self.response.warnings.push(warning(vertex, *finding));
            }
        }
    }
}

fn vertex(state: VertexState) -> control::Vertex {
    control::Vertex {
        digest: state.vertex.digest.to_string(),
        inputs: state.vertex.inputs.iter().map(ToString::to_string).collect(),
        name: state.vertex.name.to_string(),
        cached: state.cached,
        started: state.started.map(timestamp),
        completed: state.completed.map(timestamp),
        error: state.error,
        progress_group: state.vertex.group.as_deref().map(progress_group),
    }
}

fn progress_group(group: &ProgressGroup) -> pb::ProgressGroup {
    pb::ProgressGroup {
        id: group.id.clone(),
        name: group.name.clone(),
        weak: group.weak,
    }
}

fn status(vertex: String, state: Status) -> control::VertexStatus {
    control::VertexStatus {
        id: state.id,
        vertex,
        name: state.name,
        current: state.current,
        total: state.total,
        timestamp: Some(timestamp(state.timestamp)),
        started: state.started.map(timestamp),
        completed: state.completed.map(timestamp),
    }
}

fn log(vertex: String, entry: Log) -> control::VertexLog {
    control::VertexLog {
        vertex,
        timestamp: Some(timestamp(entry.timestamp)),
        stream: entry.stream.into(),
        msg: entry.data,
    }
}

fn warning(vertex: String, finding: Warning) -> control::VertexWarning {
    control::VertexWarning {
        vertex,
        level: finding.level,
        short: finding.short,
        detail: finding.detail,
        url: finding.url,
        info: finding.file.as_ref().map(wire_source_info),
        ranges: finding.ranges.iter().map(range).collect(),
    }
}

fn range(range: &SourceRange) -> pb::Range {
    let position = |line: u32, character: u32| pb::Position {
        line: i32::try_from(line).unwrap_or(i32::MAX),
        character: i32::try_from(character).unwrap_or(i32::MAX),
    };
    pb::Range {
        start: Some(position(range.start_line, range.start_character)),
        end: Some(position(range.end_line, range.end_character)),
    }
}

/// A finding that a client reports.
pub(crate) fn warning_from_wire(wire: cairn_proto::gateway::WarnRequest) -> Warning {
    let number = |n: i32| u32::try_from(n).unwrap_or(0);
    Warning {
        // Clients that do not choose a level mean the ordinary one.
        level: if wire.level == 0 { 1 } else { wire.level },
        short: wire.short,
        detail: wire.detail,
        url: wire.url,
        file: wire.info.map(|info| SourceFile {
            filename: info.filename,
            data: info.data,
            language: info.language,
            definition: info.definition.map(|wire| Arc::new(Definition::from_wire(wire))),
        }),
        ranges: wire
            .ranges
            .iter()
            .map(|range| {
                let start = range.start.unwrap_or_default();
                let end = range.end.unwrap_or(start);
                SourceRange {
                    start_line: number(start.line),
                    start_character: number(start.character),
                    end_line: number(end.line),
                    end_character: number(end.character),
                }
            })
            .collect(),
    }
}

/// A point in time on the wire. Times before the epoch do not occur and are sent as the epoch.
pub(crate) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// A worker on the wire.
pub(crate) fn worker_record(
    info: &WorkerInfo,
    devices: &[Device],
    gc: &[GcPolicySection],
    disk: u64,
) -> types::WorkerRecord {
    types::WorkerRecord {
        id: info.id.clone(),
        labels: info.labels.clone(),
        platforms: info.platforms.iter().map(platform).collect(),
        gc_policy: gc.iter().map(|policy| gc_policy(policy, disk)).collect(),
        buildkit_version: Some(version()),
        cdi_devices: devices.iter().map(device).collect(),
    }
}

fn device(device: &Device) -> types::CdiDevice {
    types::CdiDevice {
        name: device.name.clone(),
        auto_allow: device.is_auto_allowed,
        annotations: device.annotations.clone(),
        // None is made when it is asked for.
        on_demand: false,
    }
}

fn gc_policy(policy: &GcPolicySection, disk: u64) -> types::GcPolicy {
    let space = |space: Option<crate::config::DiskSpace>| {
        space.map_or(0, |space| i64::try_from(space.bytes(disk)).unwrap_or(i64::MAX))
    };
    types::GcPolicy {
        all: policy.all,
        keep_duration: nanoseconds(policy.keep_duration.unwrap_or_default()),
        reserved_space: space(policy.reserved_space),
        filters: policy.filters.clone(),
        max_used_space: space(policy.max_used_space),
        min_free_space: space(policy.min_free_space),
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What this daemon is, on the wire.
pub(crate) fn version() -> types::BuildkitVersion {
    types::BuildkitVersion {
        package: "cairn".to_owned(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        revision: String::new(),
        dockerfile_version: cairn_dockerfile::VERSION.to_owned(),
    }
}

/// A platform on the wire.
pub(crate) fn platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// A platform from the wire, normalised.
pub(crate) fn platform_from_wire(wire: &pb::Platform) -> Platform {
    Platform {
        architecture: wire.architecture.clone(),
        os: wire.os.clone(),
        variant: wire.variant.clone(),
        os_version: wire.os_version.clone(),
        os_features: wire.os_features.clone(),
    }
    .normalized()
}

/// A record of something kept, on the wire.
pub(crate) fn usage_record(record: UsageRecord) -> WireRecord {
    #[expect(deprecated, reason = "the field is left empty")]
    WireRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        parent: String::new(),
        created_at: Some(timestamp(record.created_at)),
        last_used_at: record.last_used_at.map(timestamp),
        usage_count: i64::try_from(record.usage_count).unwrap_or(i64::MAX),
        description: record.description,
        record_type: record.record_type,
        shared: record.shared,
        parents: record.parents,
    }
}

/// File metadata on the wire.
pub(crate) fn stat(stat: FileStat) -> fsutil::Stat {
    fsutil::Stat {
        path: stat.path.into_vec(),
        mode: mode::from_unix(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mod_time: stat.mtime_ns,
        linkname: stat.link_target.into_vec(),
        devmajor: stat.device.0.into(),
        devminor: stat.device.1.into(),
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(name, value)| fsutil::Xattr {
                name: name.into_vec(),
                value: value.into(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::warning_from_wire;

    #[test]
    fn warnings_without_a_level_are_ordinary_ones() {
        for (sent, level) in [(0, 1), (1, 1), (3, 3)] {
            let warning = cairn_proto::gateway::WarnRequest {
                level: sent,
                ..Default::default()
            };
            assert_eq!(warning_from_wire(warning).level, level);
        }
    }
}
