//! Single flight on what it really synchronises with: examples, and many threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Barrier;

use super::*;

#[tokio::test]
async fn many_callers_share_one_run() {
    let flight: Flight<u32, (), u32> = Flight::default();
    let runs = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Barrier::new(2));
    let tickets: Vec<_> = (0..10)
        .map(|_| {
            let (runs, gate) = (runs.clone(), gate.clone());
            flight.join(
                7,
                || (),
                |(), _| async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    gate.wait().await;
                    42
                },
            )
        })
        .collect();
    assert_eq!(tickets.iter().filter(|(_, started)| *started).count(), 1);
    gate.wait().await;
    for (ticket, _) in &tickets {
        assert_eq!(ticket.wait().await, Ok(42));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(flight.is_empty());
}

#[tokio::test]
async fn what_need_not_wait_takes_no_task() {
    let flight: Flight<u32, (), u32> = Flight::default();
    let (ticket, _) = flight.join(7, || (), |(), _| async { 42 });
    assert_eq!((flight.len(), flight.tasks()), (0, 0));
    let (other, started) = flight.join(7, || (), |(), _| async { 43 });
    assert!(started);
    assert_eq!((ticket.wait().await, other.wait().await), (Ok(42), Ok(43)));
}

#[tokio::test]
async fn work_that_was_given_up_is_waited_for() {
    let flight: Flight<u32, (), ()> = Flight::default();
    let cleaned = Arc::new(AtomicUsize::new(0));
    let seen = cleaned.clone();
    let (ticket, _) = flight.join(
        7,
        || (),
        |(), cancel| async move {
            cancel.cancelled().await;
            tokio::task::yield_now().await;
            seen.fetch_add(1, Ordering::SeqCst);
        },
    );
    drop(ticket);
    assert!(flight.is_empty());
    flight.landed().await;
    assert_eq!(cleaned.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_last_to_leave_cancels() {
    let flight: Flight<u32, (), bool> = Flight::default();
    let (done, finished) = tokio::sync::oneshot::channel();
    let (first, _) = flight.join(
        1,
        || (),
        |(), cancel| async move {
            cancel.cancelled().await;
            let _ = done.send(());
            true
        },
    );
    let (second, started) = flight.join(1, || (), |(), _| async { false });
    assert!(!started);
    drop(first);
    assert!(!second.call.cancel.is_cancelled());
    drop(second);
    finished.await.unwrap();
    let (third, started) = flight.join(1, || (), |(), _| async { true });
    assert!(started);
    assert_eq!(third.wait().await, Ok(true));
}

#[tokio::test]
async fn a_panic_is_an_error_for_everyone_and_frees_the_key() {
    let flight: Flight<u32, (), u32> = Flight::default();
    let (ticket, _) = flight.join(1, || (), |(), _| async { panic!("on purpose") });
    assert_eq!(ticket.wait().await, Err(Lost));
    let (again, started) = flight.join(1, || (), |(), _| async { 5 });
    assert!(started);
    assert_eq!(again.wait().await, Ok(5));
}

#[test]
fn many_threads_get_outcomes_and_leave_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .unwrap();
    runtime.block_on(async {
        let flight: Arc<Flight<usize, (), usize>> = Arc::default();
        let wanted: Arc<[AtomicUsize; 3]> = Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..8_usize {
            let (flight, wanted) = (flight.clone(), wanted.clone());
            tasks.spawn(async move {
                for round in 0..500_usize {
                    let key = (client + round * 7) % 3;
                    let wanted = wanted.clone();
                    let (ticket, _) = flight.join(
                        key,
                        || (),
                        |(), cancel| {
                            wanted[key].fetch_add(1, Ordering::SeqCst);
                            async move {
                                for _ in 0..round % 4 {
                                    tokio::task::yield_now().await;
                                }
                                drop(cancel);
                                wanted[key].fetch_sub(1, Ordering::SeqCst);
                                key
                            }
                        },
                    );
                    if round % 3 > 0 {
                        assert_eq!(ticket.wait().await, Ok(key));
                    }
                    if round % 5 == 0 {
                        tokio::task::yield_now().await;
                    }
                    drop(ticket);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        flight.landed().await;
        assert_eq!((flight.len(), flight.tickets(), flight.tasks()), (0, 0, 0));
        assert!(wanted.iter().all(|count| count.load(Ordering::SeqCst) == 0));
    });
}
