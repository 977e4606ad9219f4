//! Secrets from the clients that wait for a piece of work.

use cairn_session::{LOOKUP_TIMEOUT, Secret, secrets};
use cairn_solver::SessionGroup;
use cairn_solver::worker::WorkerError;

use super::{EmbeddedWorker, failed};

impl EmbeddedWorker {
    /// Asks one client after another; `None` if none has a secret of that id.
    pub(super) async fn secret(&self, id: &str, sessions: &SessionGroup) -> Result<Option<Secret>, WorkerError> {
        let mut failure = None;
        for session in sessions.ids() {
            let found = match self.0.sessions.get(&session, LOOKUP_TIMEOUT).await {
                Ok(session) => secrets::get_secret(&session, id).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(Some(secret)) => return Ok(Some(secret)),
                Ok(None) => {}
                Err(error) => failure = Some(failed(&error)),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}
