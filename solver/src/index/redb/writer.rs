//! The thread that writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redb::Database;

use super::file::File;
use super::pending::{Batch, Pending};
use super::{IndexLimits, compact, tables};

/// Shortest time between two attempts to write after one failed: opening anew may have to read the whole file.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub(super) file: Arc<File>,
    pub(super) pending: Arc<Pending>,
    pub(super) limits: IndexLimits,
    failed: Option<(Instant, String)>,
}

impl Writer {
    pub(super) fn new(file: Arc<File>, pending: Arc<Pending>, limits: IndexLimits) -> Self {
        Self {
            file,
            pending,
            limits,
            failed: None,
        }
    }

    /// Commits whatever has gathered, until the index is closed.
    pub(super) fn run(mut self) {
        let pending = self.pending.clone();
        let _ended = pending.end_on_drop();
        while let Some(batch) = pending.next() {
            let outcome = self.commit(&batch);
            pending.settle(&batch, outcome);
            if pending.take_compaction()
                && let Err(error) = compact::compact(&mut self)
            {
                tracing::warn!(error, "the cache index is not compacted");
            }
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), String> {
        let outcome = match &self.failed {
            Some((when, error)) if when.elapsed() < RETRY_AFTER => Err(error.clone()),
            Some(_) => self.file.reopen().and_then(|()| self.write(batch)),
            None => self.write(batch),
        };
        match &outcome {
            Ok(()) => self.failed = None,
            Err(error)
                if self
                    .failed
                    .as_ref()
                    .is_none_or(|(when, _)| when.elapsed() >= RETRY_AFTER) =>
            {
                tracing::error!(error, writes = batch.len(), "failed to write the cache index");
                self.failed = Some((Instant::now(), error.clone()));
            }
            Err(_) => {}
        }
        outcome
    }

    fn write(&self, batch: &Batch) -> Result<(), String> {
        // There may be nothing but a request to compact.
        if batch.len() == 0 {
            return Ok(());
        }
        self.file.write(|database| self.write_to(database, batch))
    }

    fn write_to(&self, database: &Database, batch: &Batch) -> Result<(), Box<dyn std::error::Error>> {
        let (file, limits) = (&self.file, &self.limits);
        tables::commit(database, batch, &file.last_known, limits, file.size())
    }

    /// Commits what is due to the file and to `copy` too. `false` if the index is being closed.
    pub(super) fn serve(&mut self, copy: &Database) -> Result<bool, String> {
        let pending = self.pending.clone();
        if pending.is_closed() {
            return Ok(false);
        }
        let Some(batch) = pending.due() else {
            return Ok(true);
        };
        let outcome = self.commit(&batch);
        // Before anybody takes it for committed: the copy takes the place of the file.
        let copied = self.write_to(copy, &batch).map_err(|error| error.to_string());
        pending.settle(&batch, outcome.clone());
        outcome.and(copied).map(|()| true)
    }
}
