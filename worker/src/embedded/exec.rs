//! Running processes.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_session::{LOOKUP_TIMEOUT, secrets};
use cairn_solver::llb::{ExecOp, MountKind, Vertex};
use cairn_solver::worker::{CallContext, Ref, WorkerError};

use super::log::LogSink;
use super::{EmbeddedWorker, blocking, failed};
use crate::executor::{ExecRequest, Grants};

impl EmbeddedWorker {
    /// Runs a process, when there is a slot for it.
    pub(super) async fn run(
        &self,
        op: &ExecOp,
        vertex: &Vertex,
        inputs: &[Option<Ref>],
        context: &CallContext,
    ) -> Result<Vec<Option<Ref>>, WorkerError> {
        if op
            .mounts
            .iter()
            .any(|mount| matches!(&mount.kind, MountKind::Ssh(grant) if !grant.optional))
        {
            return Err(WorkerError::Unsupported(
                "forwarding ssh agents is not supported by this worker".to_owned(),
            ));
        }
        if let Some(device) = op.devices.iter().find(|device| !device.optional) {
            return Err(WorkerError::Unsupported(format!(
                "devices are not supported by this worker: {}",
                device.name
            )));
        }
        let _slot = tokio::select! {
            slot = self.0.slots.acquire() => slot.map_err(|_| WorkerError::Cancelled)?,
            () = context.cancel.cancelled() => return Err(WorkerError::Cancelled),
        };
        let grants = tokio::select! {
            grants = self.secrets(op, context) => grants?,
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
        let request = ExecRequest {
            op: op.clone(),
            resources: vertex.metadata.resources.clone().unwrap_or_default(),
            inputs: lists,
            grants,
        };
        let sink = Arc::new(LogSink::new(context.progress.clone()));
        let outcome = self.0.runner.run(request, sink.clone(), &context.cancel).await;
        sink.finish(outcome.is_err());
        let outputs = outcome.map_err(WorkerError::from)?;
        let worker = self.clone();
        blocking(move || outputs.iter().map(|list| worker.record(list)).collect()).await
    }

    /// Asks the clients for the secrets that a process needs. Missing ones are left out; whether that is an error is
    /// decided where they are used.
    async fn secrets(&self, op: &ExecOp, context: &CallContext) -> Result<Grants, WorkerError> {
        let mounted = op.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret(grant) => Some(grant.id.as_str()),
            _ => None,
        });
        let wanted: BTreeSet<&str> = mounted
            .chain(op.secret_env.iter().map(|secret| secret.id.as_str()))
            .collect();
        let mut grants = Grants::default();
        for id in wanted {
            for session in context.sessions.ids() {
                let session = self.0.sessions.get(&session, LOOKUP_TIMEOUT).await;
                let session = session.map_err(|error| failed(&error))?;
                let secret = secrets::get_secret(&session, id)
                    .await
                    .map_err(|error| failed(&error))?;
                if let Some(secret) = secret {
                    grants.secrets.insert(id.to_owned(), secret.expose().to_vec());
                    break;
                }
            }
        }
        Ok(grants)
    }
}
