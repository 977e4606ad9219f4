//! The thread that writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::redb::Database;

use super::file::File;
use super::pending::{Batch, Pending};
use super::tables::Writes;
use super::uses::{Uses, next_number};
use super::{IndexLimits, compact, tables};

/// Shortest time between two attempts to write after one failed: opening anew may have to read the whole file.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub(super) file: Arc<File>,
    pub(super) pending: Arc<Pending>,
    pub(super) uses: Arc<Uses>,
    pub(super) limits: IndexLimits,
    /// Rows of what is known, after the last commit.
    rows: Option<u64>,
    failed: Option<(Instant, String)>,
}

impl Writer {
    pub(super) fn new(file: Arc<File>, pending: Arc<Pending>, uses: Arc<Uses>, limits: IndexLimits) -> Self {
        Self {
            file,
            pending,
            uses,
            limits,
            rows: None,
            failed: None,
        }
    }

    /// Commits whatever has gathered, until the index is closed.
    pub(super) fn run(mut self) {
        let pending = self.pending.clone();
        let _ended = pending.end_on_drop();
        while let Some(batch) = pending.next() {
            let outcome = self.commit_all(&batch);
            pending.settle(&batch, outcome);
            if pending.take_compaction()
                && let Err(error) = compact::compact(&mut self)
            {
                tracing::warn!(error, "the cache index is not compacted");
            }
        }
        // Uses alone are not waited for.
        if let Err(error) = self.commit_all(&Batch::default()) {
            tracing::warn!(error, "failed to write down which records were used");
        }
    }

    /// Commits a batch, and with it which records were used if that is due.
    fn commit_all(&mut self, batch: &Batch) -> Result<(), String> {
        let has_room = self
            .rows
            .is_some_and(|rows| rows + batch.known_rows() < self.limits.records)
            && self.file.size() <= self.limits.bytes;
        // What is to be evicted is to be known before it is.
        let is_wanted = !has_room || self.uses.is_due() || self.pending.is_closed();
        let used = if is_wanted { self.uses.take() } else { Vec::new() };
        if self.failed.is_none() && self.file.is_suspect() {
            self.file.reopen()?;
        }
        // There may be nothing but a request to compact.
        if batch.len() == 0 && used.is_empty() {
            return Ok(());
        }
        let outcome = self.commit(&Writes {
            batch,
            first: self.numbers(batch),
            used: &used,
            last: self.file.last_known.load(Ordering::Relaxed),
            limits: Some(&self.limits.clone()),
        });
        if outcome.is_err() {
            self.uses.give_back(used);
        }
        outcome
    }

    /// What is written to the file and to its copy too.
    pub(super) fn writes_to_both<'a>(&self, batch: &'a Batch) -> Writes<'a> {
        Writes {
            batch,
            first: self.numbers(batch),
            used: &[],
            last: self.file.last_known.load(Ordering::Relaxed),
            // What is copied refers to what is yet to be.
            limits: None,
        }
    }

    /// Takes numbers for what a batch adds; returns the first.
    fn numbers(&self, batch: &Batch) -> u64 {
        next_number(&self.file.last_known, batch.known_rows())
    }

    fn commit(&mut self, writes: &Writes<'_>) -> Result<(), String> {
        let write = |file: &File| file.write(|database| tables::commit(database, writes, file.size()));
        let outcome = match &self.failed {
            Some((when, error)) if when.elapsed() < RETRY_AFTER => Err(error.clone()),
            Some(_) => self.file.reopen().and_then(|()| write(&self.file)),
            None => write(&self.file),
        };
        self.rows = outcome.as_ref().ok().copied();
        match &outcome {
            Ok(_) => self.failed = None,
            Err(error)
                if self
                    .failed
                    .as_ref()
                    .is_none_or(|(when, _)| when.elapsed() >= RETRY_AFTER) =>
            {
                tracing::error!(error, writes = writes.batch.len(), "failed to write the cache index");
                self.failed = Some((Instant::now(), error.clone()));
            }
            Err(_) => {}
        }
        outcome.map(drop)
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
        let writes = self.writes_to_both(&batch);
        let outcome = self.commit(&writes);
        // Before anybody takes it for committed: the copy takes the place of the file.
        let copied = tables::commit(copy, &writes, self.file.size()).map_err(|error| error.to_string());
        pending.settle(&batch, outcome.clone());
        outcome.and(copied).map(|_| true)
    }
}
