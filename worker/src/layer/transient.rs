//! Results that go with the last one who holds them: what a failed step left, for those who want to look into it.

use std::sync::{Arc, Weak};

use cairn_solver::ResultId;
use jiff::Timestamp;

use super::error::LayerError;
use super::list::{HeldCounts, LayerList};
use super::metadata::{Changes, LAYERS, RESULTS};
use super::record::{LayerId, LayerRecord, ResultRecord};
use super::store::{Inner, LayerStore, result_id};

/// Removes a result and its top layer when it is dropped.
pub(super) struct Transient {
    id: ResultId,
    top: LayerId,
    /// The store may be closed before; then the next one removes it.
    store: Weak<Inner>,
}

impl Drop for Transient {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.transients.lock().remove(&self.id);
            store.background.forget(self.id.clone(), self.top.clone());
        }
    }
}

impl LayerStore {
    /// Records a list as a result that is removed, along with its top layer, when nobody holds the list any more. The
    /// returned list is to be held instead. A list that is a result already stays one.
    ///
    /// The top layer must be in no other result.
    pub fn record_transient(&self, list: &LayerList) -> Result<(ResultId, LayerList), LayerError> {
        let id = result_id(list.ids());
        let Some(top) = list.top().filter(|_| !self.has(&id).unwrap_or(true)) else {
            return Ok((self.record_result(list)?, list.clone()));
        };
        let record = ResultRecord {
            layers: list.ids().to_vec(),
            created: Timestamp::now(),
            transient: true,
        };
        self.inner
            .db
            .write_soon(|changes| changes.put(RESULTS, id.as_str(), &record))?;
        let transient = Arc::new(Transient {
            id: id.clone(),
            top: top.clone(),
            store: Arc::downgrade(&self.inner),
        });
        let known = Arc::downgrade(&transient);
        self.inner.transients.lock().insert(id.clone(), known);
        let mut counts = self.inner.holds.lock();
        let held = self.inner.holds.hold_transient(&mut counts, record.layers, transient);
        Ok((id, held))
    }
}

/// Takes a result that nobody holds out of the records, and its top layer. `false` if somebody holds that after all.
pub(super) fn forget(
    counts: &HeldCounts<'_>,
    changes: &mut Changes,
    id: &ResultId,
    top: &LayerId,
) -> Result<bool, LayerError> {
    if counts.contains_key(top) {
        return Ok(false);
    }
    changes.remove(RESULTS, id.as_str())?;
    let is_known = changes.get::<LayerRecord>(LAYERS, top.as_str())?.is_some();
    if is_known {
        changes.remove(LAYERS, top.as_str())?;
    }
    Ok(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Describe;
    use crate::sys::is_root_or_skip;

    fn changed(store: &LayerStore, parents: &LayerList) -> LayerList {
        let writable = store.prepare(parents).unwrap();
        std::fs::write(writable.path().join("f"), "x").unwrap();
        writable.commit(&Describe::default()).unwrap()
    }

    #[test]
    fn a_transient_result_goes_with_its_last_holder_or_with_the_store() {
        if !is_root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path()).unwrap();
        let made = changed(&store, &store.scratch());
        let top = made.top().unwrap().clone();
        let (id, held) = store.record_transient(&made).unwrap();
        drop(made);
        let pinned = store.pin(&id).unwrap().expect("it is held");
        drop(held);
        store.inner.background.settle();
        assert!(store.has(&id).unwrap(), "whoever pinned it holds it too");
        drop(pinned);
        store.inner.background.settle();
        assert!(!store.has(&id).unwrap());
        assert!(store.layer(&top).unwrap().is_none());
        assert!(store.pin(&id).unwrap().is_none());
        assert!(!dir.path().join("layers").join(top.as_str()).exists());

        let made = changed(&store, &store.scratch());
        let kept = store.record_result(&made).unwrap();
        let (same, held) = store.record_transient(&made).unwrap();
        assert_eq!(same, kept);
        drop((made, held));
        store.inner.background.settle();
        assert!(store.has(&kept).unwrap(), "what is a result stays one");

        let made = changed(&store, &store.scratch());
        let (left, held) = store.record_transient(&made).unwrap();
        drop(store);
        drop((made, held));
        let store = LayerStore::open(dir.path()).unwrap();
        assert!(
            !store.has(&left).unwrap(),
            "what a killed daemon leaves goes at the next start"
        );
        assert!(store.has(&kept).unwrap());
    }
}
