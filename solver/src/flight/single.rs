//! The flight itself. Written against the `sync` beside it, whichever that is.

use std::future::Future;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;

use super::sync::{AtomicUsize, CancellationToken, DashMap, Entry, SetOnce, TaskTracker};
use crate::count::{Counted, Counter};

/// Work in progress, by key.
///
/// `S` is what joiners share besides the outcome, such as the progress so far.
pub struct Flight<K, S, V> {
    calls: Calls<K, S, V>,
    /// The tasks of all work, also of work that was given up and still cleans up.
    tasks: TaskTracker,
    tickets: Counter,
}

type Calls<K, S, V> = Arc<DashMap<K, Arc<Call<S, V>>>>;

pub(super) struct Call<S, V> {
    shared: S,
    pub(super) cancel: CancellationToken,
    outcome: SetOnce<Result<V, Lost>>,
    /// Tickets out; changed only while the key's place in the map is locked.
    tickets: AtomicUsize,
}

/// Interest in work. Dropping it gives the interest up.
pub struct Ticket<K: Hash + Eq + Clone, S, V> {
    key: K,
    pub(super) call: Arc<Call<S, V>>,
    calls: Calls<K, S, V>,
    _counted: Counted,
}

/// The work ended without an outcome: it panicked, or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work ended without an outcome")]
pub struct Lost;

impl<K: Hash + Eq, S, V> Default for Flight<K, S, V> {
    fn default() -> Self {
        Self {
            calls: Arc::default(),
            tasks: TaskTracker::new(),
            tickets: Counter::default(),
        }
    }
}

impl<K, S, V> Flight<K, S, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the work under `key`, or starts it.
    ///
    /// `start` gets the shared part and a token that fires when nobody is interested any more; the future it returns
    /// should then clean up and end. Work that has to wait for something runs on a task of its own, so that no waiter
    /// has to poll for it to advance; what need not wait is done here and now. The flag says whether this call started
    /// the work.
    pub fn join<F>(
        &self,
        key: K,
        shared: impl FnOnce() -> S,
        start: impl FnOnce(S, CancellationToken) -> F,
    ) -> (Ticket<K, S, V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let place = match self.calls.entry(key.clone()) {
            Entry::Vacant(place) => place,
            Entry::Occupied(known) => {
                let call = known.get().clone();
                call.tickets.fetch_add(1, Ordering::Relaxed);
                drop(known);
                return (self.ticket(key, call), false);
            }
        };
        let cancel = CancellationToken::new();
        let call = Arc::new(Call {
            shared: shared(),
            cancel: cancel.clone(),
            outcome: SetOnce::new(),
            tickets: AtomicUsize::new(1),
        });
        drop(place.insert(call.clone()));
        let landing = Landing {
            key: key.clone(),
            call: call.clone(),
            calls: self.calls.clone(),
            outcome: Err(Lost),
        };
        // It is somebody's task also while it has none of its own.
        let counted = self.tasks.token();
        let mut work = Box::pin(start(call.shared.clone(), cancel));
        // Nothing has to be told when this can go on: a task polls it again before anything else.
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(outcome)) => landing.end(outcome),
            // Owned by the tickets: the token ends it when the last one goes. An async block would keep room for the
            // work twice.
            Ok(Poll::Pending) => {
                self.tasks.spawn(work.map(|outcome| landing.end(outcome)));
            }
            Err(_) => drop(landing),
        }
        drop(counted);
        (self.ticket(key, call), true)
    }

    fn ticket(&self, key: K, call: Arc<Call<S, V>>) -> Ticket<K, S, V> {
        Ticket {
            key,
            call,
            calls: self.calls.clone(),
            _counted: self.tickets.one(),
        }
    }

    /// Waits until no work runs any more; also work that was given up, which is off the map but may still clean up.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn landed(&self) {
        // Closed only so that the wait ends: work may be started as before.
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Number of keys with work in progress.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Number of tasks, also of those that only clean up.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Number of tickets out.
    pub fn tickets(&self) -> usize {
        self.tickets.get()
    }

    /// Whether nothing is in progress.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

/// The end of some work, also by a panic.
struct Landing<K: Hash + Eq, S, V> {
    key: K,
    call: Arc<Call<S, V>>,
    calls: Calls<K, S, V>,
    outcome: Result<V, Lost>,
}

impl<K: Hash + Eq, S, V> Landing<K, S, V> {
    fn end(mut self, outcome: V) {
        self.outcome = Ok(outcome);
    }
}

impl<K: Hash + Eq, S, V> Drop for Landing<K, S, V> {
    fn drop(&mut self) {
        let call = &self.call;
        // Off the map before the outcome is out: whoever asks later starts anew.
        self.calls.remove_if(&self.key, |_, known| Arc::ptr_eq(known, call));
        // There is no other to set it.
        let _is_first = call.outcome.set(std::mem::replace(&mut self.outcome, Err(Lost)));
    }
}

impl<K: Hash + Eq + Clone, S, V: Clone> Ticket<K, S, V> {
    /// What all who joined share.
    pub fn shared(&self) -> &S {
        &self.call.shared
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`Lost`] if there will be none.
    ///
    /// # Cancel safety
    /// Cancel safe; the interest lasts until the ticket is dropped.
    pub async fn wait(&self) -> Result<V, Lost> {
        self.call.outcome.wait().await.clone()
    }
}

impl<K: Hash + Eq + Clone, S, V> Drop for Ticket<K, S, V> {
    fn drop(&mut self) {
        // The key's place is locked meanwhile, so that nobody joins between the count and the cancellation.
        let place = self.calls.entry(self.key.clone());
        if self.call.tickets.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        // Given up before the key is free: there is never a second piece of work that somebody wants.
        self.call.cancel.cancel();
        match place {
            Entry::Occupied(known) if Arc::ptr_eq(known.get(), &self.call) => drop(known.remove()),
            place => drop(place),
        }
    }
}
