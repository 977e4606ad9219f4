//! What clients change about records: they pin, complete and delete them.

use cairn_proto::control::UpdateBuildHistoryRequest;
use tonic::Code;

use super::table::Kept;
use super::{History, HistoryError, expiry};
use crate::failure::Failure;

/// Most of all room for records that pinned ones may take: one part of this many.
const PINNED_PART: u64 = 2;

impl History {
    /// Pins, unpins, completes or deletes a record.
    ///
    /// # Errors
    /// If there is none of that id, or it cannot be changed.
    pub(crate) async fn update(&self, request: UpdateBuildHistoryRequest) -> Result<(), Failure> {
        let history = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _writing = history.0.writing.lock();
            if request.delete {
                return history.delete(&request.r#ref);
            }
            // A build that is not known or still runs has no trace to wait for.
            if request.finalize {
                let stored = history.store_trace(&request.r#ref);
                return stored.map_err(|error| Failure::new(Code::Internal, error.to_string()));
            }
            history.pin(&request.r#ref, request.pinned)
        });
        task.await
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?
    }

    fn delete(&self, id: &str) -> Result<(), Failure> {
        let table = self.0.table.lock();
        if table.finished.contains_key(id) {
            drop(table);
            self.remove(&[id.to_owned()]);
            return Ok(());
        }
        if table.running.contains_key(id) {
            let message = format!("build {id} is running and cannot be deleted from history");
            return Err(Failure::new(Code::FailedPrecondition, message));
        }
        Err(no_record(id))
    }

    fn pin(&self, id: &str, pinned: bool) -> Result<(), Failure> {
        let mut record = {
            let table = self.0.table.lock();
            let kept = table.finished.get(id).ok_or_else(|| no_record(id))?;
            let pinned_bytes = |part: fn(&Kept) -> u64| {
                let others = table.finished.values().filter(|other| other.record.pinned);
                others.map(part).sum::<u64>() + part(kept)
            };
            let is_too_much = pinned_bytes(|kept| kept.bytes) > expiry::MAX_RECORD_BYTES / PINNED_PART
                || pinned_bytes(Kept::blob_bytes) > expiry::MAX_BLOB_BYTES / PINNED_PART;
            if pinned && !kept.record.pinned && is_too_much {
                let message = format!("build {id} cannot be pinned: pinned records take up too much room already");
                return Err(Failure::new(Code::ResourceExhausted, message));
            }
            (*kept.record).clone()
        };
        record.pinned = pinned;
        record.generation = record.generation.saturating_add(1);
        let fail = |error: HistoryError| Failure::new(Code::Internal, error.to_string());
        self.0.store.write(&record).map_err(fail)?;
        self.insert(record);
        Ok(())
    }
}

fn no_record(id: &str) -> Failure {
    // Clients show this text.
    Failure::new(
        Code::NotFound,
        format!("failed to retrieve ref {id}: file does not exist"),
    )
}
