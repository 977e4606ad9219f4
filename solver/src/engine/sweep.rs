//! Records whose results are gone: why they are, and clearing them out.

use crate::engine::Engine;
use crate::index::{IndexError, Millis, Removal, Removed};
use crate::worker::WorkerError;

/// Records that are looked at before others get their turn.
const BATCH: usize = 256;

/// What clearing out came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records looked at.
    pub records: usize,
    /// Records forgotten: their results are gone.
    pub forgotten: usize,
    /// What else was removed from the index, because nothing referred to it.
    pub strays: usize,
}

/// Why clearing out stopped.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The worker does not say what it has.
    #[error("failed to look for a recorded result: {0}")]
    Worker(#[from] WorkerError),
}

impl Engine {
    /// Takes note that the worker has removed results, so that those found missing from now on can be explained.
    pub fn removed(&self, how: Removed) {
        *self.last_removal.lock() = Some(Removal { at: Millis::now(), how });
    }

    /// The explanation for a result that is found missing now: the last time that results were removed.
    pub(super) fn removal_now(&self) -> Removal {
        self.last_removal.lock().unwrap_or_else(|| Removal {
            at: Millis::now(),
            how: Removed::Lost,
        })
    }

    /// Forgets all records whose results the worker does not have, and puts right what else is amiss in the index.
    ///
    /// Takes its time: others come first after every few hundred records.
    ///
    /// # Errors
    /// [`SweepError`]; what was forgotten until then stays so.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn sweep(&self) -> Result<Swept, SweepError> {
        let mut swept = Swept::default();
        let mut after = None;
        loop {
            let index = self.index.clone();
            let records = blocking(move || index.scan(after.as_ref(), BATCH)).await?;
            let Some((last, _)) = records.last() else { break };
            after = Some(*last);
            swept.records += records.len();
            for (key, outputs) in &records {
                let mut is_whole = true;
                for id in outputs.iter().flatten() {
                    is_whole = is_whole && self.worker.has(id).await?;
                }
                if !is_whole {
                    self.forget(key, outputs, self.removal_now());
                    swept.forgotten += 1;
                }
            }
            tokio::task::yield_now().await;
        }
        let index = self.index.clone();
        swept.strays = blocking(move || index.repair()).await?;
        Ok(swept)
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.unwrap_or_else(|error| {
        Err(IndexError::Access {
            what: "use the index",
            message: error.to_string(),
        })
    })
}
