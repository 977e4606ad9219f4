//! What collection must leave alone: trees somebody holds, and files and objects on their way into a tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::identity::TreeDigest;

/// Anything stored by hash: a file or a directory object.
pub(super) type Key = [u8; 32];

/// Shared by a store, its trees and its transfers.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    trees: HashMap<TreeDigest, usize>,
    arriving: HashMap<Key, usize>,
    /// While a collection runs: what arrived in a tree since it looked at the trees.
    arrived: Option<HashSet<Key>>,
}

impl Pins {
    pub(super) fn pin(&self, tree: TreeDigest) {
        *self.0.lock().trees.entry(tree).or_default() += 1;
    }

    pub(super) fn unpin(&self, tree: &TreeDigest) {
        release(&mut self.0.lock().trees, tree);
    }

    /// Registers the start of a collection. Everything that arrives from now on is left alone by it.
    pub(super) fn begin_collection(&self) -> HashSet<TreeDigest> {
        let mut state = self.0.lock();
        state.arrived = Some(HashSet::new());
        state.trees.keys().copied().collect()
    }

    /// The trees that are held now.
    pub(super) fn trees(&self) -> HashSet<TreeDigest> {
        self.0.lock().trees.keys().copied().collect()
    }

    pub(super) fn end_collection(&self) {
        self.0.lock().arrived = None;
    }

    /// Calls `remove` unless `key` is on its way into a tree, and keeps it from getting there meanwhile.
    pub(super) fn unless_arriving<T>(&self, key: &Key, remove: impl FnOnce() -> T) -> Option<T> {
        let state = self.0.lock();
        let is_new = state.arrived.as_ref().is_some_and(|arrived| arrived.contains(key));
        if is_new || state.arriving.contains_key(key) {
            return None;
        }
        Some(remove())
    }
}

/// The files and objects that one transfer has stored or found, until they are in a tree.
#[derive(Debug)]
pub(super) struct Arriving {
    pins: Arc<Pins>,
    keys: Mutex<HashSet<Key>>,
}

impl Arriving {
    pub(super) fn new(pins: Arc<Pins>) -> Self {
        Self {
            pins,
            keys: Mutex::default(),
        }
    }

    /// Registers a key. To be called before looking whether it is there.
    pub(super) fn register(&self, key: Key) {
        if self.keys.lock().insert(key) {
            *self.pins.0.lock().arriving.entry(key).or_default() += 1;
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let state = &mut *self.pins.0.lock();
        for key in self.keys.get_mut().drain() {
            release(&mut state.arriving, &key);
            if let Some(arrived) = &mut state.arrived {
                arrived.insert(key);
            }
        }
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
