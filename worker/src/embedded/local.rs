//! Clients' directories.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_session::filesync::{self, DirRequest};
use cairn_session::fsutil::{Selection, TransferError, TransferLimits};
use cairn_session::{LOOKUP_TIMEOUT, Session, SessionError};
use cairn_solver::llb::LocalSource;
use cairn_solver::worker::{CallContext, Ref, ResolvedSource, WorkerError};
use tonic::Code;

use super::results::tree_id;
use super::{EmbeddedWorker, blocking, failed};
use crate::causes::with_causes;
use crate::tree::{ListingReceiver, SourceKey, Tree};

impl EmbeddedWorker {
    /// Receives a directory: asks its own session if it names one, and then whoever else waits for it.
    pub(super) async fn receive_directory(
        &self,
        source: &LocalSource,
        context: &CallContext,
    ) -> Result<ResolvedSource, WorkerError> {
        let mut candidates = Vec::from_iter(source.session.clone());
        candidates.extend(
            context
                .sessions
                .ids()
                .into_iter()
                .filter(|id| Some(id) != source.session.as_ref()),
        );
        let mut failure = WorkerError::Failed(format!(
            "could not access local files without session: {}",
            SessionError::NoSessions
        ));
        for id in candidates {
            let outcome = match self.0.sessions.get(&id, LOOKUP_TIMEOUT).await {
                Ok(session) => self.receive_from(&session, source, context).await,
                Err(error) => Err(failed(&error)),
            };
            match outcome {
                Ok(tree) => return Ok(resolved(source, tree)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn receive_from(
        &self,
        session: &Session,
        source: &LocalSource,
        context: &CallContext,
    ) -> Result<Tree, WorkerError> {
        let name = source.dir_name();
        let request = DirRequest {
            name: name.clone(),
            selection: Selection {
                include: source.include.clone(),
                exclude: source.exclude.clone(),
                follow: source.follow_paths.clone(),
            },
        };
        let status = context
            .progress
            .begin_action(format!("transferring {}:", source.name), "transferring");
        let progress = Box::new(move |bytes| status.update(bytes, 0));
        let key = SourceKey::new(&name, &source.shared_key_hint, session.shared_key());
        let key = if source.metadata_only { key.of_list() } else { key };
        let (trees, differ) = (self.0.trees.clone(), source.differ);
        let mut receiver = blocking(move || {
            let receiver = trees.receive(key, differ, Some(progress));
            receiver.map_err(|error| failed(&error))
        })
        .await?;
        let limits = TransferLimits::default();
        let tree = if source.metadata_only {
            let wanted = &source.metadata_exceptions;
            let mut listing =
                ListingReceiver::new(receiver, wanted).map_err(|error| WorkerError::Invalid(error.to_string()))?;
            let received = filesync::receive(session, &request, &limits, &mut listing).await;
            received.map_err(not_received)?;
            listing.into_tree()
        } else {
            let received = filesync::receive(session, &request, &limits, &mut receiver).await;
            received.map_err(not_received)?;
            receiver.into_tree()
        };
        self.0.trees_to_sync.notify_one();
        tree.ok_or_else(|| WorkerError::Failed(format!("the transfer of directory {name:?} did not complete")))
    }
}

fn not_received(error: TransferError) -> WorkerError {
    match error {
        TransferError::Session(SessionError::Unsupported { .. }) => {
            WorkerError::Failed(format!("no local sources enabled: {}", with_causes(&error)))
        }
        TransferError::Stream(status) if status.code() == Code::NotFound => {
            WorkerError::NoDirectory(with_causes(&TransferError::Stream(status)))
        }
        error => failed(&error),
    }
}

fn resolved(source: &LocalSource, tree: Tree) -> ResolvedSource {
    let id = tree_id(tree.digest());
    ResolvedSource {
        pin: id.as_str().to_owned(),
        parts: BTreeMap::from([("directory".to_owned(), source.name.clone())]),
        result: Some(Ref::new(id, Arc::new(tree))),
    }
}
