//! Single flight under a model checker, which decides at every step who goes on. It runs the very code that is shipped,
//! on the stand-ins in `sync`; a schedule that goes wrong is printed, and can be played again.

mod sync;

#[path = "single.rs"]
#[expect(
    clippy::duplicate_mod,
    reason = "the same code, which synchronises with what is beside this file"
)]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "not all that callers outside use is of use here"
)]
mod single;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use shuttle::future::{block_on, spawn, yield_now};
use shuttle::rand::{Rng as _, thread_rng};

use self::single::{Flight, Lost, Ticket};
use self::sync::CancellationToken;

/// How work ends, unless it is given up before.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// At once.
    Short,
    /// After others had their turn.
    Long,
    /// By a panic.
    Panics,
    /// Not before it is given up, which takes it a while to notice.
    Endless,
}

/// What a caller does with its ticket.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// Waits for the outcome.
    Waits,
    /// Begins to wait, and gives up after a while.
    GivesUp,
    /// Leaves at once.
    Leaves,
    /// Waits for the outcome, leaves, and comes again.
    Returns,
}

/// What work that was given up ends with. Nobody may see it.
const GIVEN_UP: usize = usize::MAX;

#[derive(Default)]
struct Model {
    flight: Flight<u8, usize, usize>,
    /// Pieces of work so far; each has its number, from 1.
    begun: AtomicUsize,
    /// Work that runs.
    running: Mutex<Vec<(usize, CancellationToken)>>,
    /// Work that panicked.
    panicked: Mutex<Vec<usize>>,
}

/// Takes work off the list of what runs, however it ends.
struct Over(Arc<Model>, usize);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.running.lock().unwrap().retain(|(number, _)| *number != self.1);
    }
}

impl Model {
    fn join(self: &Arc<Self>, work: Work) -> Ticket<u8, usize, usize> {
        let number = || self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let start = |number, cancel: CancellationToken| {
            let others: Vec<_> = self.running.lock().unwrap().clone();
            let is_wanted = others.iter().any(|(_, cancel)| !cancel.is_cancelled());
            assert!(!is_wanted, "work begins while other work of its key is wanted");
            self.running.lock().unwrap().push((number, cancel.clone()));
            let over = Over(self.clone(), number);
            async move { over.0.work(work, number, &cancel).await }
        };
        let (ticket, _) = self.flight.join(0, number, start);
        let is_given_up = ticket.call.cancel.is_cancelled();
        assert!(!is_given_up, "work was joined that is being given up");
        ticket
    }

    async fn work(&self, work: Work, number: usize, cancel: &CancellationToken) -> usize {
        match work {
            Work::Short => return number,
            Work::Long => {
                for _ in 0..2 {
                    yield_now().await;
                    if cancel.is_cancelled() {
                        return GIVEN_UP;
                    }
                }
                return number;
            }
            Work::Panics => {
                yield_now().await;
                self.panicked.lock().unwrap().push(number);
                sync::panic().await;
            }
            Work::Endless => {
                cancel.cancelled().await;
                yield_now().await;
            }
        }
        GIVEN_UP
    }

    async fn wait(&self, ticket: &Ticket<u8, usize, usize>) {
        let number = *ticket.shared();
        match ticket.wait().await {
            Ok(outcome) => assert_eq!(
                outcome, number,
                "an outcome of other work, or of work that was given up"
            ),
            Err(Lost) => assert!(self.panicked.lock().unwrap().contains(&number), "an outcome was lost"),
        }
    }

    async fn call(self: Arc<Self>, caller: Caller, work: Work) {
        let ticket = self.join(work);
        match caller {
            Caller::Waits => self.wait(&ticket).await,
            Caller::Leaves => {}
            Caller::GivesUp => {
                let mut wait = Box::pin(self.wait(&ticket));
                if futures_util::poll!(&mut wait).is_pending() {
                    yield_now().await;
                }
            }
            Caller::Returns => {
                self.wait(&ticket).await;
                let before = *ticket.shared();
                drop(ticket);
                let again = self.join(Work::Short);
                assert!(*again.shared() > before, "work was joined that had ended");
                self.wait(&again).await;
            }
        }
    }
}

/// Lets callers loose on one key. Each brings the work that is done if it comes first.
fn run(callers: &[(Caller, Work)]) {
    let model = Arc::<Model>::default();
    block_on(async {
        let call = |&(caller, work)| spawn(model.clone().call(caller, work));
        let calls: Vec<_> = callers.iter().map(call).collect();
        for call in calls {
            call.await.unwrap();
        }
        assert!(model.flight.is_empty(), "nobody is interested any more");
        model.flight.landed().await;
    });
    let flight = &model.flight;
    assert_eq!((flight.len(), flight.tickets(), flight.tasks()), (0, 0, 0));
    assert!(model.running.lock().unwrap().is_empty());
}

const CALLERS: [Caller; 4] = [Caller::Waits, Caller::GivesUp, Caller::Leaves, Caller::Returns];
const WORKS: [Work; 4] = [Work::Short, Work::Long, Work::Panics, Work::Endless];

/// Any callers that come to an end: nobody waits for work that has none.
fn any(count: usize) -> Vec<(Caller, Work)> {
    let mut random = thread_rng();
    let mut any = || (CALLERS[random.gen_range(0..4)], WORKS[random.gen_range(0..4)]);
    let mut callers: Vec<_> = (0..count).map(|_| any()).collect();
    let waits = |(caller, _): &(Caller, Work)| matches!(caller, Caller::Waits | Caller::Returns);
    if callers.iter().any(waits) {
        let endless = callers.iter_mut().filter(|(_, work)| matches!(work, Work::Endless));
        endless.for_each(|(_, work)| *work = Work::Long);
    }
    callers
}

#[test]
fn callers_share_work_soundly_in_any_schedule() {
    for callers in 1..6 {
        shuttle::check_random(move || run(&any(callers)), 800);
    }
    // Few changes of who goes on, each at a place where it may matter: what is wrong needs no more, mostly. There have to
    // be several who can.
    for callers in 2..6 {
        shuttle::check_pct(move || run(&any(callers)), 800, 3);
    }
}
