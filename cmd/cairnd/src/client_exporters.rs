//! Exporters that the client adds once there is a result.

use std::collections::BTreeMap;

use cairn_proto::control::SolveRequest;
use cairn_session::exporter::{finalize_export, find_exporters};
use cairn_session::{LOOKUP_TIMEOUT, Session, SessionError};
use cairn_solver::{FrontendRefs, FrontendResult, WorkerError};
use cairn_worker::service::{Exporter, ExporterRequest};
use tonic::Code;

use crate::daemon::Daemon;
use crate::failure::Failure;

/// Most exporters that a client may add to one build.
const MAX_ADDED: usize = 64;

/// The client that may add exporters to a build.
#[derive(Default)]
pub(crate) struct ExportingClient {
    /// Id of its session, if it wants to be asked.
    id: Option<String>,
    /// The session, once it was asked.
    session: Option<Session>,
}

impl ExportingClient {
    /// The client of a request.
    pub(crate) fn of(request: &SolveRequest) -> Self {
        let is_wanted = request.enable_session_exporter && !request.session.is_empty();
        Self {
            id: is_wanted.then(|| request.session.clone()),
            session: None,
        }
    }

    /// What the client adds to the `known` exporters of a build with this result. A client that is gone adds nothing.
    pub(crate) async fn find(
        &mut self,
        daemon: &Daemon,
        result: &FrontendResult,
        known: usize,
    ) -> Result<Vec<Box<dyn Exporter>>, Failure> {
        let Some(id) = &self.id else {
            return Ok(Vec::new());
        };
        let session = match daemon.sessions.get(id, LOOKUP_TIMEOUT).await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%error, "the client adds no exporters");
                return Ok(Vec::new());
            }
        };
        let refs = match &result.refs {
            FrontendRefs::Single(_) => Vec::new(),
            FrontendRefs::Platforms(refs) => refs.keys().cloned().collect(),
        };
        let added = find_exporters(&session, result.metadata.clone(), refs).await;
        let added = added.map_err(|error| failure(&error))?;
        if added.len() > MAX_ADDED {
            let message = format!("the client adds more than {MAX_ADDED} exporters");
            return Err(Failure::new(Code::InvalidArgument, message));
        }
        let exporters = (known..).zip(added).map(|(index, exporter)| {
            daemon.worker.exporter(&ExporterRequest {
                index,
                kind: exporter.kind,
                attrs: exporter.attrs,
                session: session.id().to_owned(),
            })
        });
        let exporters = exporters.collect::<Result<_, WorkerError>>()?;
        self.session = Some(session);
        Ok(exporters)
    }

    /// Tells the client what came of all exporters, if it was asked for any.
    pub(crate) async fn finalize(&self, response: &BTreeMap<String, String>) -> Result<(), Failure> {
        match &self.session {
            None => Ok(()),
            Some(session) => {
                let told = finalize_export(session, response.clone()).await;
                told.map_err(|error| failure(&error))
            }
        }
    }
}

fn failure(error: &SessionError) -> Failure {
    Failure::new(error.code(), error.to_string())
}
