//! `cairn workers`.

use std::time::Duration;

use cairn_client::Client;
use cairn_proto::pb::Platform;
use cairn_proto::types::{GcPolicy, WorkerRecord};

use super::Failure;
use crate::args::WorkersArgs;
use crate::quantity;
use crate::ui::{self, table, text::clean};

/// Lists the daemon's workers.
pub(super) async fn run(client: &Client, args: WorkersArgs) -> Result<(), Failure> {
    let workers = client.list_workers(args.filters).await?;
    let text = if args.verbose {
        workers.iter().map(verbose).collect()
    } else {
        brief(&workers)
    };
    Ok(ui::print(&text)?)
}

fn brief(workers: &[WorkerRecord]) -> String {
    let row = |worker: &WorkerRecord| {
        let version = worker.buildkit_version.as_ref();
        let version = version.map(|version| clean(&version.version)).unwrap_or_default();
        vec![clean(&worker.id), platforms(worker), version]
    };
    let rows: Vec<Vec<String>> = workers.iter().map(row).collect();
    table::render(&["ID", "PLATFORMS", "VERSION"], &rows)
}

fn verbose(worker: &WorkerRecord) -> String {
    let mut text = table::pairs(&[("ID", clean(&worker.id)), ("Platforms", platforms(worker))]);
    if let Some(version) = &worker.buildkit_version {
        let words = [&version.package, &version.version, &version.revision];
        let words: Vec<String> = words
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| clean(word))
            .collect();
        text.push_str(&table::pairs(&[("Version", words.join(" "))]));
    }
    text.push_str("Labels:\n");
    for (key, value) in &worker.labels {
        text.push_str(&format!("  {}: {}\n", clean(key), clean(value)));
    }
    if !worker.cdi_devices.is_empty() {
        text.push_str("Devices:\n");
    }
    for device in &worker.cdi_devices {
        let allowed = if device.auto_allow { " (always allowed)" } else { "" };
        text.push_str(&format!("  {}{allowed}\n", clean(&device.name)));
        for (key, value) in &device.annotations {
            text.push_str(&format!("    {}: {}\n", clean(key), clean(value)));
        }
    }
    for (number, policy) in worker.gc_policy.iter().enumerate() {
        text.push_str(&format!("Cleaning rule {number}:\n"));
        for (key, value) in rule(policy) {
            text.push_str(&format!("  {key}: {value}\n"));
        }
    }
    text + "\n"
}

fn rule(policy: &GcPolicy) -> Vec<(&'static str, String)> {
    let mut rule = vec![("all", policy.all.to_string())];
    if !policy.filters.is_empty() {
        let filters: Vec<String> = policy.filters.iter().map(|filter| clean(filter)).collect();
        rule.push(("filters", filters.join(", ")));
    }
    if let Ok(nanos @ 1..) = u64::try_from(policy.keep_duration) {
        rule.push(("keep duration", quantity::seconds(Duration::from_nanos(nanos))));
    }
    let spaces = [
        ("reserved space", policy.reserved_space),
        ("max used space", policy.max_used_space),
        ("min free space", policy.min_free_space),
    ];
    for (key, bytes) in spaces {
        if let Ok(bytes @ 1..) = u64::try_from(bytes) {
            rule.push((key, quantity::size(bytes)));
        }
    }
    rule
}

fn platforms(worker: &WorkerRecord) -> String {
    let platforms: Vec<String> = worker.platforms.iter().map(platform).collect();
    platforms.join(",")
}

fn platform(platform: &Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    let parts: Vec<String> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| clean(part))
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use cairn_proto::types::BuildkitVersion;

    use super::*;

    fn worker() -> WorkerRecord {
        let platform = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
            ..Platform::default()
        };
        WorkerRecord {
            id: "w1".into(),
            labels: [("executor".to_owned(), "oci".to_owned())].into(),
            platforms: vec![platform("amd64", ""), platform("arm", "v7")],
            gc_policy: vec![GcPolicy {
                filters: vec!["type==source.local".into()],
                keep_duration: 172_800_000_000_000,
                max_used_space: 512_000_000,
                ..GcPolicy::default()
            }],
            buildkit_version: Some(BuildkitVersion {
                version: "v0.31.0".into(),
                ..BuildkitVersion::default()
            }),
            ..WorkerRecord::default()
        }
    }

    #[test]
    fn workers_make_a_table() {
        insta::assert_snapshot!(brief(&[worker()]), @r"
        ID   PLATFORMS                  VERSION
        w1   linux/amd64,linux/arm/v7   v0.31.0
        ");
    }

    #[test]
    fn labels_and_rules_can_be_shown() {
        insta::assert_snapshot!(verbose(&worker()), @r"
        ID:         w1
        Platforms:  linux/amd64,linux/arm/v7
        Version:  v0.31.0
        Labels:
          executor: oci
        Cleaning rule 0:
          all: false
          filters: type==source.local
          keep duration: 172800.0s
          max used space: 512MB

        ");
    }
}
