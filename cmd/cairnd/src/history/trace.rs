//! The trace of a build, which is added to its record when its client had the time to send its own spans.

use std::time::Duration;

use super::{History, HistoryError};
use crate::traces;

/// How long the spans of a client are waited for after its build.
const PATIENCE: Duration = Duration::from_secs(3);

impl History {
    /// Stores the trace of a build that has ended; at once if nobody could wait for it.
    pub(super) fn store_trace_later(&self, id: String) {
        let history = self.clone();
        if tokio::runtime::Handle::try_current().is_err() {
            return history.try_store_trace(&id);
        }
        // Awaited when the history is closed, which ends the waiting.
        self.0.late.spawn(async move {
            let closing = history.0.closing.clone();
            // Nobody listens any more, or it is time.
            let _either = tokio::time::timeout(PATIENCE, closing.cancelled()).await;
            let task = tokio::task::spawn_blocking(move || {
                let _writing = history.0.writing.lock();
                history.try_store_trace(&id);
            });
            if let Err(error) = task.await {
                tracing::error!(%error, "the trace of a build is not stored");
            }
        });
    }

    fn try_store_trace(&self, id: &str) {
        if let Err(error) = self.store_trace(id) {
            tracing::warn!(build = id, %error, "the trace of a build is not stored");
        }
    }

    /// Stores the trace of a build that has ended, unless that is done already. Blocks; called while `writing` is held.
    pub(super) fn store_trace(&self, id: &str) -> Result<(), HistoryError> {
        let (solve, record) = {
            let mut table = self.0.table.lock();
            let Some(solve) = table.traced.remove(id) else {
                return Ok(());
            };
            let Some(kept) = table.finished.get(id) else {
                return Ok(());
            };
            (solve, kept.record.clone())
        };
        let mut record = (*record).clone();
        let spans = solve.render(&record);
        record.trace = Some(self.0.store.put(traces::MEDIA_TYPE, &spans)?);
        record.generation = record.generation.saturating_add(1);
        self.0.store.write(&record)?;
        self.insert(record);
        Ok(())
    }
}
