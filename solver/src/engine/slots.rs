//! Slots: how many processes run at a time, and which is the next.
//!
//! Slots go to builds in turn: the build that has the fewest is served first, among equals the one that has waited
//! longest since it was last served. So a build waits for at most as many grants as there are builds, however much
//! another one has queued. Within a build the vertex with the longest chain of others on top of it comes first, as the
//! end of the build depends on it most; since a build is finite, all get their turn.
//!
//! Work that several builds share waits in the queue of each of them, and is served when the first of these would be.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Names a build among those of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BuildId(pub(super) u64);

/// On whose behalf, and how urgently, a slot is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) build: BuildId,
    /// Most slots the build may have at a time.
    pub(super) limit: usize,
    /// Length of the chain of vertices that wait for this one.
    pub(super) urgency: u32,
}

/// All slots of an engine.
#[derive(Clone)]
pub(super) struct Slots(Arc<Mutex<State>>);

struct State {
    free: usize,
    taken: usize,
    next: u64,
    builds: BTreeMap<BuildId, Queue>,
    requests: HashMap<u64, Request>,
}

/// What one build has and wants. There is none for a build that has and wants nothing.
#[derive(Default)]
struct Queue {
    taken: usize,
    /// When it was last served, by the count of grants.
    served: u64,
    /// Urgency, request and claim: the most urgent first, then the oldest.
    waiting: BTreeSet<(Reverse<u32>, u64, u64)>,
    limit: usize,
}

/// One piece of work that may need a slot.
struct Request {
    /// By number: a build may have several vertices that turn out to be the same work.
    claims: BTreeMap<u64, Claim>,
    /// Where the slot is sent to; `None` before the work has asked for it.
    asked: Option<oneshot::Sender<Slot>>,
}

/// Work that may need a slot. Dropping it withdraws it.
pub(super) struct SlotRequest {
    slots: Slots,
    number: u64,
}

/// A build's interest in such work. Dropping it gives the interest up.
pub(super) struct SlotClaim {
    slots: Slots,
    request: u64,
    number: u64,
}

/// A slot. Dropping it gives it back.
pub(super) struct Slot {
    slots: Slots,
    build: BuildId,
}

impl Slots {
    /// `limit` slots, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: limit.max(1),
            taken: 0,
            next: 0,
            builds: BTreeMap::new(),
            requests: HashMap::new(),
        })))
    }

    /// A request that does not ask for anything yet.
    pub(super) fn request(&self) -> SlotRequest {
        let mut state = self.0.lock();
        state.next += 1;
        let number = state.next;
        let request = Request {
            claims: BTreeMap::new(),
            asked: None,
        };
        state.requests.insert(number, request);
        SlotRequest {
            slots: self.clone(),
            number,
        }
    }

    /// Number of slots in use, and of requests that are not served or withdrawn.
    pub(super) fn count(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.taken, state.requests.len())
    }

    /// Hands out what is free. Slots are sent without the lock: a receiver that is gone gives its slot back at once.
    fn dispatch(&self) {
        while let Some((sender, slot)) = {
            let mut state = self.0.lock();
            let grant = state.grant();
            grant.map(|(sender, build)| {
                let slots = self.clone();
                (sender, Slot { slots, build })
            })
        } {
            drop(sender.send(slot));
        }
    }
}

impl State {
    /// Takes the request out that is the next to be served.
    fn grant(&mut self) -> Option<(oneshot::Sender<Slot>, BuildId)> {
        if self.free == 0 {
            return None;
        }
        let wants = self
            .builds
            .iter()
            .filter(|(_, queue)| !queue.waiting.is_empty() && queue.taken < queue.limit);
        let (&build, _) = wants.min_by_key(|(_, queue)| (queue.taken, queue.served))?;
        self.next += 1;
        let now = self.next;
        let queue = self.builds.get_mut(&build)?;
        let &(_, number, _) = queue.waiting.first()?;
        queue.taken += 1;
        queue.served = now;
        self.free -= 1;
        self.taken += 1;
        let request = self.requests.remove(&number)?;
        for (claimed, claim) in &request.claims {
            self.leave_queue(number, *claimed, claim);
        }
        Some((request.asked?, build))
    }

    fn join_queue(&mut self, request: u64, number: u64, claim: &Claim) {
        let now = self.next;
        let queue = self.builds.entry(claim.build).or_insert_with(|| Queue {
            // As if it had just been served: a build that comes back does not overtake those that wait.
            served: now,
            ..Queue::default()
        });
        queue.limit = claim.limit.max(1);
        queue.waiting.insert((Reverse(claim.urgency), request, number));
    }

    fn leave_queue(&mut self, request: u64, number: u64, claim: &Claim) {
        if let Some(queue) = self.builds.get_mut(&claim.build) {
            queue.waiting.remove(&(Reverse(claim.urgency), request, number));
        }
        self.tidy(claim.build);
    }

    fn tidy(&mut self, build: BuildId) {
        let is_unused = |queue: &Queue| queue.taken == 0 && queue.waiting.is_empty();
        if self.builds.get(&build).is_some_and(is_unused) {
            self.builds.remove(&build);
        }
    }
}

impl SlotRequest {
    /// Notes that a build is interested. Interest in work that has its slot, or needs none, changes nothing.
    pub(super) fn claim(&self, claim: Claim) -> SlotClaim {
        let mut state = self.slots.0.lock();
        state.next += 1;
        let number = state.next;
        if let Some(request) = state.requests.get_mut(&self.number) {
            request.claims.insert(number, claim);
            if request.asked.is_some() {
                state.join_queue(self.number, number, &claim);
            }
        }
        drop(state);
        self.slots.dispatch();
        SlotClaim {
            slots: self.slots.clone(),
            request: self.number,
            number,
        }
    }

    /// Waits for a slot; `None` if the request was served already.
    ///
    /// # Cancel safety
    /// Cancel safe: a slot that comes too late is given back. The request can be made only once.
    pub(super) async fn slot(&self) -> Option<Slot> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.slots.0.lock();
            let request = state.requests.get_mut(&self.number)?;
            request.asked = Some(sender);
            let claims = request.claims.clone();
            for (number, claim) in &claims {
                state.join_queue(self.number, *number, claim);
            }
        }
        self.slots.dispatch();
        receiver.await.ok()
    }
}

impl Drop for SlotRequest {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        if let Some(request) = state.requests.remove(&self.number) {
            for (number, claim) in &request.claims {
                state.leave_queue(self.number, *number, claim);
            }
        }
    }
}

impl Drop for SlotClaim {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        let request = state.requests.get_mut(&self.request);
        if let Some(claim) = request.and_then(|request| request.claims.remove(&self.number)) {
            state.leave_queue(self.request, self.number, &claim);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        state.free += 1;
        state.taken -= 1;
        if let Some(queue) = state.builds.get_mut(&self.build) {
            queue.taken -= 1;
        }
        state.tidy(self.build);
        drop(state);
        self.slots.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;

    fn claim(build: u64, urgency: u32) -> Claim {
        Claim {
            build: BuildId(build),
            limit: usize::MAX,
            urgency,
        }
    }

    /// Work that waits for a slot, with what keeps it waiting.
    struct Waiting {
        _claims: Vec<SlotClaim>,
        slot: BoxFuture<'static, Option<Slot>>,
    }

    fn wait(slots: &Slots, claims: &[Claim]) -> Waiting {
        let request = slots.request();
        let claims = claims.iter().map(|of| request.claim(*of)).collect();
        let mut slot = async move { request.slot().await }.boxed();
        if let Some(slot_now) = (&mut slot).now_or_never() {
            slot = std::future::ready(slot_now).boxed();
        }
        Waiting { _claims: claims, slot }
    }

    impl Waiting {
        fn granted(&mut self) -> Option<Slot> {
            (&mut self.slot).now_or_never().flatten()
        }
    }

    /// The order in which everything is served when one slot goes round.
    fn order(slots: &Slots, mut held: Option<Slot>, waiting: &mut [Waiting]) -> Vec<usize> {
        let mut order = Vec::new();
        while order.len() < waiting.len() {
            drop(held.take());
            for (n, waiting) in waiting.iter_mut().enumerate() {
                if order.contains(&n) {
                    continue;
                }
                if let Some(slot) = waiting.granted() {
                    assert!(held.replace(slot).is_none(), "more slots than there are");
                    order.push(n);
                }
            }
            assert!(held.is_some(), "a slot is free and nobody gets it");
        }
        drop(held);
        assert_eq!(slots.count(), (0, 0));
        assert!(slots.0.lock().builds.is_empty());
        order
    }

    fn held(slots: &Slots) -> Option<Slot> {
        let slot = wait(slots, &[claim(99, 0)]).granted();
        assert!(slot.is_some());
        slot
    }

    #[test]
    fn a_build_gets_its_turn_however_much_another_has_queued() {
        let slots = Slots::new(1);
        let held = held(&slots);
        let mut waiting: Vec<_> = (0..5).map(|_| wait(&slots, &[claim(1, 9)])).collect();
        waiting.push(wait(&slots, &[claim(2, 0)]));
        waiting.push(wait(&slots, &[claim(3, 0)]));
        let order = order(&slots, held, &mut waiting);
        let turn = |of: usize| order.iter().position(|n| *n == of).unwrap();
        assert!(turn(5) < 3 && turn(6) < 3, "{order:?}");
    }

    #[test]
    fn the_longest_chain_comes_first_and_then_the_oldest() {
        let slots = Slots::new(1);
        let held = held(&slots);
        let mut waiting: Vec<_> = [1, 5, 3, 5].map(|urgency| wait(&slots, &[claim(1, urgency)])).into();
        assert_eq!(order(&slots, held, &mut waiting), [1, 3, 2, 0]);
    }

    #[test]
    fn shared_work_is_served_at_the_better_of_its_places() {
        let slots = Slots::new(1);
        let held = held(&slots);
        let mut waiting: Vec<_> = (0..5).map(|_| wait(&slots, &[claim(1, 9)])).collect();
        waiting.push(wait(&slots, &[claim(1, 1), claim(2, 1)]));
        let order = order(&slots, held, &mut waiting);
        assert!(order.iter().position(|n| *n == 5).unwrap() < 2, "{order:?}");
    }

    #[test]
    fn a_build_has_no_more_than_its_limit() {
        let slots = Slots::new(4);
        let narrow = Claim {
            limit: 1,
            ..claim(1, 0)
        };
        let mut waiting: Vec<_> = (0..3).map(|_| wait(&slots, &[narrow])).collect();
        let granted: Vec<_> = waiting.iter_mut().map(Waiting::granted).collect();
        assert_eq!(granted.iter().flatten().count(), 1);
        assert!(wait(&slots, &[claim(2, 0)]).granted().is_some());
    }

    #[test]
    fn what_is_given_up_takes_nothing() {
        let slots = Slots::new(1);
        let held = held(&slots);
        let given_up = wait(&slots, &[claim(1, 9)]);
        let mut next = wait(&slots, &[claim(1, 0)]);
        drop(given_up);
        drop(held);
        assert!(next.granted().is_some());
        assert_eq!(slots.count(), (0, 0));
    }

    #[test]
    fn a_slot_that_comes_too_late_is_given_back() {
        let slots = Slots::new(1);
        let held = held(&slots);
        let late = wait(&slots, &[claim(1, 9)]);
        drop(held);
        assert_eq!(slots.count(), (1, 0));
        drop(late);
        assert_eq!(slots.count(), (0, 0));
    }

    #[test]
    fn interest_is_noted_before_and_after_the_work_asks() {
        let slots = Slots::new(1);
        let held = held(&slots);
        let request = slots.request();
        let first = request.claim(claim(1, 0));
        {
            let mut slot = std::pin::pin!(request.slot());
            assert!((&mut slot).now_or_never().is_none());
            let second = request.claim(claim(2, 0));
            drop(first);
            drop(held);
            assert!(slot.now_or_never().flatten().is_some());
            drop(second);
        }
        assert_eq!(slots.count(), (0, 0));
    }
}
