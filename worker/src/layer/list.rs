//! Lists of layers that stay while they are looked at.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::record::LayerId;
use super::transient::Transient;

/// How many lists each layer is in. The lock also orders pruning against taking hold.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<LayerId, usize>>);

/// The counts, locked: nobody takes hold of anything meanwhile.
pub(super) type HeldCounts<'a> = MutexGuard<'a, HashMap<LayerId, usize>>;

impl Holds {
    pub(super) fn lock(&self) -> HeldCounts<'_> {
        self.0.lock()
    }

    /// Takes hold of `ids`.
    pub(super) fn hold(self: &Arc<Self>, ids: Vec<LayerId>) -> LayerList {
        self.hold_locked(&mut self.0.lock(), ids)
    }

    /// Takes hold while the counts are locked anyway.
    pub(super) fn hold_locked(self: &Arc<Self>, counts: &mut HeldCounts<'_>, ids: Vec<LayerId>) -> LayerList {
        self.hold_as(counts, ids, None)
    }

    /// The same for a result that goes with the last one who holds it.
    pub(super) fn hold_transient(
        self: &Arc<Self>,
        counts: &mut HeldCounts<'_>,
        ids: Vec<LayerId>,
        transient: Arc<Transient>,
    ) -> LayerList {
        self.hold_as(counts, ids, Some(transient))
    }

    fn hold_as(
        self: &Arc<Self>,
        counts: &mut HeldCounts<'_>,
        ids: Vec<LayerId>,
        transient: Option<Arc<Transient>>,
    ) -> LayerList {
        for id in &ids {
            *counts.entry(id.clone()).or_default() += 1;
        }
        LayerList(Arc::new(Held {
            ids,
            holds: self.clone(),
            _transient: transient,
        }))
    }
}

/// Layers, bottom first, kept from being pruned for as long as a clone of this lives. A layer may be in it more than once,
/// as in images: steps that change nothing all make the same one.
#[derive(Clone)]
pub struct LayerList(Arc<Held>);

struct Held {
    ids: Vec<LayerId>,
    holds: Arc<Holds>,
    /// Dropped after the layers are given free.
    _transient: Option<Arc<Transient>>,
}

impl LayerList {
    /// The layers, bottom first.
    pub fn ids(&self) -> &[LayerId] {
        &self.0.ids
    }

    /// Whether it is a file system with nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.ids.is_empty()
    }

    /// The layer on top.
    pub fn top(&self) -> Option<&LayerId> {
        self.0.ids.last()
    }

    /// The layers that a mount is made of, bottom first, each once.
    ///
    /// A layer that comes twice counts where it comes last: whatever it holds wins over all below, so that the earlier
    /// occurrence shows nowhere.
    pub(super) fn mounted(&self) -> Vec<&LayerId> {
        let mut seen = HashSet::new();
        let mut ids: Vec<&LayerId> = self.ids().iter().rev().filter(|id| seen.insert(*id)).collect();
        ids.reverse();
        ids
    }

    /// Lays `others` over this, in order.
    pub fn merge(&self, others: &[Self]) -> Self {
        let all = self.ids().iter().chain(others.iter().flat_map(|other| other.ids()));
        self.0.holds.hold(all.cloned().collect())
    }

    /// The lowest `count` layers.
    pub fn bottom(&self, count: usize) -> Self {
        self.0.holds.hold(self.ids().iter().take(count).cloned().collect())
    }

    /// The layers above the lowest `count`.
    pub fn above(&self, count: usize) -> Self {
        self.0.holds.hold(self.ids().iter().skip(count).cloned().collect())
    }
}

impl fmt::Debug for LayerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl PartialEq for LayerList {
    fn eq(&self, other: &Self) -> bool {
        self.ids() == other.ids()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.holds.lock();
        for id in &self.ids {
            if let Some(count) = counts.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(id);
                }
            }
        }
    }
}
