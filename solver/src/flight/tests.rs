//! Single flight: examples, every order of a few calls, and many threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Barrier, Semaphore};

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

/// What can happen to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Client joins the first time, then leaves.
    Client(usize),
    /// The work at hand comes to its end.
    Finish,
}

/// Calls `check` with every order of `moves`, in which equal ones are not told apart.
fn every_order(moves: &mut Vec<(Move, usize)>, so_far: &mut Vec<Move>, check: &mut impl FnMut(&[Move])) {
    let mut is_last = true;
    for n in 0..moves.len() {
        if moves[n].1 == 0 {
            continue;
        }
        is_last = false;
        moves[n].1 -= 1;
        so_far.push(moves[n].0);
        every_order(moves, so_far, check);
        so_far.pop();
        moves[n].1 += 1;
    }
    if is_last {
        check(so_far);
    }
}

/// Plays one order of moves, and lets tasks take `turns` turns after each.
async fn play(order: &[Move], turns: usize) {
    let flight: Flight<(), usize, usize> = Flight::default();
    let (finish, works) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients: [Option<Ticket<(), usize, usize>>; 3] = [None, None, None];
    let mut has_left = [false; 3];
    for happens in order {
        match happens {
            Move::Finish => finish.add_permits(1),
            Move::Client(n) => match clients[*n].take() {
                None => {
                    assert!(!has_left[*n]);
                    let others: Vec<usize> = clients.iter().flatten().map(|ticket| *ticket.shared()).collect();
                    let (ticket, has_started) = flight.join(
                        (),
                        || works.fetch_add(1, Ordering::SeqCst),
                        |number, cancel| {
                            let finish = finish.clone();
                            async move {
                                tokio::select! {
                                    biased;
                                    () = cancel.cancelled() => usize::MAX,
                                    permit = finish.acquire() => {
                                        permit.unwrap().forget();
                                        number
                                    }
                                }
                            }
                        },
                    );
                    assert!(
                        !ticket.call.cancel.is_cancelled(),
                        "joined work that is given up: {order:?}"
                    );
                    let newest = works.load(Ordering::SeqCst) - 1;
                    assert_eq!(*ticket.shared(), newest, "joined old work: {order:?}");
                    assert!(has_started || others.contains(&newest), "{order:?}");
                    clients[*n] = Some(ticket);
                }
                Some(ticket) => {
                    let call = ticket.call.clone();
                    drop(ticket);
                    has_left[*n] = true;
                    let is_wanted = clients.iter().flatten().any(|other| Arc::ptr_eq(&other.call, &call));
                    assert_eq!(call.cancel.is_cancelled(), !is_wanted, "{order:?}");
                }
            },
        }
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
    // Whoever is still there gets the outcome of what was joined.
    finish.add_permits(clients.len());
    for ticket in clients.iter().flatten() {
        assert_eq!(ticket.wait().await, Ok(*ticket.shared()), "{order:?}");
    }
    drop(clients);
    flight.landed().await;
    assert_eq!((flight.len(), flight.tickets(), flight.tasks()), (0, 0, 0), "{order:?}");
}

#[test]
fn every_order_of_joining_leaving_and_finishing_is_sound() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut played = 0;
    for leaving in 0..8_usize {
        // Clients leave, or stay until the end.
        let moves = (0..3).map(|n| (Move::Client(n), 1 + (leaving >> n & 1)));
        let mut moves: Vec<_> = moves.chain([(Move::Finish, 1)]).collect();
        every_order(&mut moves, &mut Vec::new(), &mut |order| {
            for turns in [0, 1, 4] {
                runtime.block_on(play(order, turns));
                played += 1;
            }
        });
    }
    assert!(played > 1_000, "{played}");
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
