//! Running processes.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_solver::llb::{ExecOp, MountKind, Vertex};
use cairn_solver::usage::Meter;
use cairn_solver::worker::{CallContext, FailedState, FailedSubject, Ref, WorkerError};

use super::log::LogSink;
use super::results::with_state;
use super::ssh::{Asked, LentAgent};
use super::{EmbeddedWorker, blocking, failed, spans};
use crate::executor::{Edits, ExecError, ExecRequest, Grants, RunFailure};

impl EmbeddedWorker {
    /// Runs a process.
    pub(super) async fn run(
        &self,
        op: &ExecOp,
        vertex: &Vertex,
        inputs: &[Option<Ref>],
        meter: Option<Arc<Meter>>,
        context: &CallContext,
    ) -> Result<Vec<Option<Ref>>, WorkerError> {
        let devices = self.device_edits(op).await?;
        // The sockets go when this does, after the process.
        let (grants, _agents) = tokio::select! {
            grants = self.grants(op, context) => grants?,
            () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
        };
        let (worker, held) = (self.clone(), inputs.to_vec());
        let lists = blocking(move || {
            let lists = held.iter().map(|input| match input {
                None => Ok(None),
                Some(input) => worker.layers_of(Some(input)).map(Some),
            });
            lists.collect::<Result<Vec<_>, _>>()
        })
        .await?;
        let mounted = op
            .mounts
            .iter()
            .map(|mount| inputs.get(mount.input?).cloned().flatten());
        let went_in: Vec<Option<Ref>> = mounted.collect();
        let (mut op, mut collector) = (op.clone(), None);
        if let Some(trace) = context.trace {
            collector = self.collector();
            if collector.is_some() {
                spans::tell(&mut op, trace);
            }
        }
        let request = ExecRequest {
            op,
            resources: vertex.metadata.resources.as_deref().cloned().unwrap_or_default(),
            inputs: lists,
            grants,
            devices,
            collector,
            meter,
        };
        let sink = Arc::new(LogSink::new(context.progress.clone(), self.0.log_limits));
        let outcome = self.0.runner.run(request, sink.clone(), &context.cancel).await;
        sink.finish(outcome.is_err());
        let worker = self.clone();
        blocking(move || match outcome {
            Ok(outputs) => {
                let made = outputs.iter().map(|list| worker.record(list));
                let made = made.collect::<Result<Vec<_>, WorkerError>>()?;
                // A process may have worked for hours: what it made is not left to the next moment, as small things are.
                worker.0.layers.settle().map_err(|error| failed(&error))?;
                Ok(made)
            }
            Err(RunFailure { error, left: None }) => Err(error.into()),
            Err(RunFailure {
                error,
                left: Some(left),
            }) => {
                let state = worker.left_behind(&left).map(|left| FailedState {
                    inputs: went_in,
                    left,
                    subject: FailedSubject::Whole,
                });
                Err(with_state(error.into(), state))
            }
        })
        .await
    }

    /// What the devices that a process asks for change about its container.
    async fn device_edits(&self, op: &ExecOp) -> Result<Edits, WorkerError> {
        if op.devices.is_empty() {
            return Ok(Edits::default());
        }
        let (worker, asked) = (self.clone(), op.devices.clone());
        blocking(
            move || match (&worker.0.cdi, asked.iter().find(|device| !device.optional)) {
                (Some(cdi), _) => cdi.edits(&asked).map_err(|error| failed(&error)),
                (None, None) => Ok(Edits::default()),
                (None, Some(device)) => Err(WorkerError::Unsupported(format!(
                    "device {}: devices are disabled",
                    device.name
                ))),
            },
        )
        .await
    }

    /// Asks the clients for what a process needs of theirs. A secret that is missing is left out; whether that is an
    /// error is decided where it is used.
    pub(super) async fn grants(
        &self,
        op: &ExecOp,
        context: &CallContext,
    ) -> Result<(Grants, Vec<LentAgent>), WorkerError> {
        let mut wanted = BTreeSet::new();
        for mount in &op.mounts {
            let MountKind::Secret(grant) = &mount.kind else {
                continue;
            };
            if grant.id.is_empty() {
                return Err(WorkerError::Invalid("secret ID missing from mount options".to_owned()));
            }
            wanted.insert(grant.id.as_str());
        }
        for secret in &op.secret_env {
            if secret.id.is_empty() {
                let message = format!("secret ID missing for {:?} environment variable", secret.name);
                return Err(WorkerError::Invalid(message));
            }
            wanted.insert(&secret.id);
        }
        let (mut grants, mut agents) = (Grants::default(), Vec::new());
        for id in wanted {
            if let Some(secret) = self.secret(id, &context.sessions).await? {
                grants.secrets.insert(id.to_owned(), secret.expose().to_vec());
            }
        }
        for (index, mount) in op.mounts.iter().enumerate() {
            let MountKind::Ssh(grant) = &mount.kind else { continue };
            match self.lend_agent(&grant.id, &context.sessions).await? {
                Asked::Lent(agent) => {
                    grants.ssh.insert(index, agent.socket());
                    agents.push(agent);
                }
                Asked::Refused(words) if !grant.optional => return Err(ExecError::no_ssh(&grant.id, &words).into()),
                Asked::Refused(_) => {}
            }
        }
        Ok((grants, agents))
    }
}
