//! Telling processes where their spans are collected.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use cairn_solver::TraceContext;
use cairn_solver::llb::ExecOp;

use super::EmbeddedWorker;
use crate::executor::HostMount;
use crate::sys::mounts::Restrictions;

/// Where processes find the collector's socket.
const SOCKET: &str = "/dev/otel-grpc.sock";
/// What has OpenTelemetry's libraries send spans there.
const VARIABLES: [&str; 3] = [
    "OTEL_TRACES_EXPORTER=otlp",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix:///dev/otel-grpc.sock",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
];
/// The variable that says which span is the parent of theirs, and what it was called before there was a standard.
const PARENTS: [&str; 2] = ["OTEL_TRACE_PARENT", "TRACEPARENT"];
/// What begins like this says where spans go, of whatever kind.
const EXPORTER: &str = "OTEL_EXPORTER_OTLP_";

impl EmbeddedWorker {
    /// What makes the collector visible in a container; `None` if there is none, or it has gone.
    pub(super) fn collector(&self) -> Option<HostMount> {
        let socket = self.0.trace_socket.as_deref()?;
        if !is_socket(socket) {
            tracing::warn!(path = %socket.display(), "the socket for spans of steps is gone: they are given none");
            return None;
        }
        Some(HostMount {
            source: socket.to_owned(),
            dest: PathBuf::from(SOCKET),
            restrictions: Restrictions {
                readonly: false,
                nosuid: true,
                nodev: true,
                noexec: true,
            },
            is_recursive: false,
        })
    }
}

/// Tells a process which sees the collector where its spans belong. What it was told by its own variables counts.
pub(super) fn tell(op: &mut ExecOp, trace: TraceContext) {
    let said = |name: &str| {
        let is_it = |entry: &str| entry.split('=').next() == Some(name);
        op.env.iter().any(|entry| is_it(entry)) || op.secret_env.iter().any(|secret| secret.name == name)
    };
    let names = op.env.iter().map(String::as_str);
    let mut names = names.chain(op.secret_env.iter().map(|secret| secret.name.as_str()));
    // Half of one and half of the other would send spans to neither.
    let sends_elsewhere = said("OTEL_TRACES_EXPORTER") || names.any(|name| name.starts_with(EXPORTER));
    let mut told = Vec::new();
    if !sends_elsewhere {
        told.extend(VARIABLES.map(str::to_owned));
    }
    // One name of its own is enough: the other must not contradict it.
    if !PARENTS.iter().any(|name| said(name)) {
        told.extend(PARENTS.map(|name| format!("{name}={trace}")));
    }
    op.env.extend(told);
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use cairn_solver::llb::SecretEnv;

    use super::*;

    #[test]
    fn what_a_process_was_told_by_its_own_variables_counts() {
        let trace = TraceContext::new([1; 16], [2; 8]);
        let parents = PARENTS.map(|name| format!("{name}={trace}"));
        let all: Vec<&str> = VARIABLES
            .into_iter()
            .chain(parents.iter().map(String::as_str))
            .collect();
        for (env, secret, want) in [
            (&[][..], "", &all[..]),
            (&["OTEL_SERVICE_NAME=x"], "", &all),
            (&["OTEL_TRACES_EXPORTER=none"], "", &all[3..]),
            (&["OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317"], "", &all[3..]),
            (&[], "OTEL_EXPORTER_OTLP_HEADERS", &all[3..]),
            (&["TRACEPARENT=mine"], "", &all[..3]),
            (&[], "TRACEPARENT", &all[..3]),
            (&["OTEL_TRACE_PARENT=mine"], "", &all[..3]),
        ] {
            let mut op = ExecOp {
                env: env.iter().map(|&entry| entry.to_owned()).collect(),
                ..ExecOp::default()
            };
            if !secret.is_empty() {
                op.secret_env.push(SecretEnv {
                    id: "s".to_owned(),
                    name: secret.to_owned(),
                    optional: false,
                });
            }
            tell(&mut op, trace);
            assert_eq!(op.env[env.len()..], *want, "{env:?} {secret}");
        }
    }
}
