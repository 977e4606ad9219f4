//! Stand-ins for what flights synchronise with, of which the model checker decides who goes on at every step. Each does
//! what its original promises, and no more than single flight uses of it.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Poll, Waker};

use shuttle::sync::{Mutex, MutexGuard};

pub(super) use shuttle::sync::atomic::AtomicUsize;

/// Tasks that wait for something.
#[derive(Default)]
struct Waiters(Vec<Waker>);

/// Waits until `done` finds in the state what it looks for.
async fn until<S, T>(state: &Mutex<S>, waiters: fn(&mut S) -> &mut Waiters, done: impl Fn(&mut S) -> Option<T>) -> T {
    poll_fn(|context| {
        let mut state = state.lock().unwrap();
        match done(&mut state) {
            Some(found) => Poll::Ready(found),
            None => {
                waiters(&mut state).0.push(context.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

/// Changes the state, then wakes who waits for a change.
fn change<S>(state: &Mutex<S>, waiters: fn(&mut S) -> &mut Waiters, work: impl FnOnce(&mut S)) {
    let mut locked = state.lock().unwrap();
    work(&mut locked);
    let woken = std::mem::take(&mut waiters(&mut locked).0);
    drop(locked);
    woken.into_iter().for_each(Waker::wake);
}

/// A map of one shard: any two keys share a lock, as they may in the original.
pub(super) struct DashMap<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for DashMap<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

pub(super) struct Place<'a, K, V> {
    map: MutexGuard<'a, HashMap<K, V>>,
    key: K,
}

pub(super) enum Entry<'a, K, V> {
    Occupied(Place<'a, K, V>),
    Vacant(Place<'a, K, V>),
}

impl<K: Hash + Eq, V> DashMap<K, V> {
    pub(super) fn entry(&self, key: K) -> Entry<'_, K, V> {
        let map = self.0.lock().unwrap();
        match map.contains_key(&key) {
            true => Entry::Occupied(Place { map, key }),
            false => Entry::Vacant(Place { map, key }),
        }
    }

    pub(super) fn remove_if(&self, key: &K, is_meant: impl FnOnce(&K, &V) -> bool) {
        let mut map = self.0.lock().unwrap();
        if map.get(key).is_some_and(|value| is_meant(key, value)) {
            map.remove(key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, V> DashMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl<'a, K: Hash + Eq, V> Place<'a, K, V> {
    pub(super) fn get(&self) -> &V {
        &self.map[&self.key]
    }

    /// Gives the lock back, as the original does with what it returns.
    pub(super) fn insert(mut self, value: V) -> MutexGuard<'a, HashMap<K, V>> {
        self.map.insert(self.key, value);
        self.map
    }

    pub(super) fn remove(mut self) -> Option<V> {
        self.map.remove(&self.key)
    }
}

#[derive(Clone, Default)]
pub(super) struct CancellationToken(Arc<Mutex<Cancellation>>);

#[derive(Default)]
struct Cancellation {
    has_fired: bool,
    waiters: Waiters,
}

impl CancellationToken {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn cancel(&self) {
        change(&self.0, |state| &mut state.waiters, |state| state.has_fired = true);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.lock().unwrap().has_fired
    }

    pub(super) async fn cancelled(&self) {
        until(
            &self.0,
            |state| &mut state.waiters,
            |state| state.has_fired.then_some(()),
        )
        .await;
    }
}

/// A value that is set once. What waits for it gets it as a copy: nothing else of the original is of use here.
pub(super) struct SetOnce<T>(Mutex<(Option<T>, Waiters)>);

impl<T: Clone> SetOnce<T> {
    pub(super) async fn wait(&self) -> T {
        until(&self.0, |(_, waiters)| waiters, |(value, _)| value.clone()).await
    }
}

impl<T> SetOnce<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new((None, Waiters::default())))
    }

    pub(super) fn set(&self, value: T) -> Result<(), ()> {
        let mut outcome = Err(());
        change(
            &self.0,
            |(_, waiters)| waiters,
            |(place, _)| {
                if place.is_none() {
                    *place = Some(value);
                    outcome = Ok(());
                }
            },
        );
        outcome
    }
}

#[derive(Clone, Default)]
pub(super) struct TaskTracker(Arc<Mutex<Tasks>>);

#[derive(Default)]
struct Tasks {
    running: usize,
    is_closed: bool,
    waiters: Waiters,
}

thread_local! {
    /// Set by a task that panics, and read right after it was polled.
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

/// Ends the task: what it holds is dropped, in the order in which a panic drops it. A real one would have every other
/// task of the model, which share one thread, believe that it panics.
pub(super) async fn panic() {
    PANICS.set(true);
    std::future::pending::<()>().await;
}

pub(super) struct Running(TaskTracker);

impl Drop for Running {
    fn drop(&mut self) {
        let tasks = &self.0;
        change(&tasks.0, |tasks| &mut tasks.waiters, |tasks| tasks.running -= 1);
    }
}

impl TaskTracker {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted = self.token();
        let mut task = Box::pin(task);
        drop(shuttle::future::spawn(async move {
            poll_fn(|context| match task.as_mut().poll(context) {
                Poll::Pending if PANICS.take() => Poll::Ready(()),
                other => other,
            })
            .await;
            drop(task);
            drop(counted);
        }));
    }

    /// Counts as a task until it is dropped.
    pub(super) fn token(&self) -> Running {
        self.0.lock().unwrap().running += 1;
        Running(self.clone())
    }

    pub(super) fn close(&self) {
        change(&self.0, |tasks| &mut tasks.waiters, |tasks| tasks.is_closed = true);
    }

    pub(super) async fn wait(&self) {
        let is_over = |tasks: &mut Tasks| (tasks.is_closed && tasks.running == 0).then_some(());
        until(&self.0, |tasks| &mut tasks.waiters, is_over).await;
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().running
    }
}
