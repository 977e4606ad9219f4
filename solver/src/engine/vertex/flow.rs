//! How keys flow from inputs to what uses them.
//!
//! Identifying has no task per vertex: whoever brings the last part of a vertex's key identifies it, and goes on with
//! what waited for that. Tasks exist only for what takes time: resolving a source, digesting contents that are not
//! remembered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::node::{Identified, Node};
use crate::cache_key::{self, Dependency, InputPart};
use crate::engine::build::Inner;
use crate::llb::Op;
use crate::worker::{ContentSelector, WorkerError};
use crate::{Digest, SolveError};

/// An input of a vertex.
#[derive(Clone, Copy)]
pub(super) struct User {
    node: u32,
    position: u32,
}

/// What can be done at once.
enum Step {
    /// This input of a vertex is identified.
    Part(User),
    /// All parts of this vertex's key are there.
    Whole(u32),
}

/// Steps after which others get their turn.
const STEPS_AT_ONCE: usize = 256;

impl Inner {
    /// Asks for the key of a vertex, unless somebody has.
    pub(super) fn start_identify(self: &Arc<Self>, node: &Arc<Node>) {
        let mut steps = Vec::new();
        let mut pending = vec![node.clone()];
        while let Some(node) = pending.pop() {
            if !node.want_identity() {
                continue;
            }
            if matches!(node.vertex.op, Op::Source(_) | Op::Build(_)) {
                self.start_alone(node);
                continue;
            }
            if node.inputs.is_empty() {
                steps.push(Step::Whole(node.number));
            }
            for (position, want) in (0..).zip(&node.inputs) {
                let input = self.at(want.node);
                let user = User {
                    node: node.number,
                    position,
                };
                if !input.add_user(user) {
                    steps.push(Step::Part(user));
                } else if !input.is_identity_wanted() {
                    pending.push(input);
                }
            }
        }
        self.start_flow(steps);
    }

    /// Starts to identify a vertex whose key is not made of its inputs' keys.
    fn start_alone(self: &Arc<Self>, node: Arc<Node>) {
        let inner = self.clone();
        self.spawn(async move {
            let outcome = match &node.vertex.op {
                Op::Build(op) => inner.guard(&node, inner.identify_nested(&node, op)).await,
                _ => inner.guard(&node, inner.identify_source(&node)).await,
            };
            inner.flow(node.identify(outcome)).await;
        });
    }

    fn start_flow(self: &Arc<Self>, steps: Vec<Step>) {
        if !steps.is_empty() {
            let inner = self.clone();
            self.spawn(async move { inner.flow(steps).await });
        }
    }

    /// Takes steps, and those that they make possible.
    async fn flow(self: &Arc<Self>, mut steps: Vec<Step>) {
        let mut taken = 0_usize;
        while let Some(step) = steps.pop() {
            self.take(&step, &mut steps);
            taken += 1;
            if taken.is_multiple_of(STEPS_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes a step. A panic in it fails its vertex, so that nobody waits for a key that will not come.
    fn take(self: &Arc<Self>, step: &Step, next: &mut Vec<Step>) {
        let (Step::Part(User { node, .. }) | Step::Whole(node)) = *step;
        let node = self.at(node);
        let outcome = catch_unwind(AssertUnwindSafe(|| match step {
            Step::Part(user) => self.add_identified(&node, user.position as usize),
            Step::Whole(_) => Some(Ok(self.identify(&node))),
        }));
        let outcome = outcome.unwrap_or_else(|_| {
            let error = node.error(WorkerError::Failed("internal error: the solver panicked".to_owned()));
            self.report_failed(&node, &error);
            Some(Err(error))
        });
        if let Some(outcome) = outcome {
            next.extend(node.identify(outcome));
        }
    }

    /// Adds what an identified input contributes. Returns what this makes of the vertex, if that is certain now.
    fn add_identified(self: &Arc<Self>, node: &Arc<Node>, position: usize) -> Option<Result<Identified, SolveError>> {
        let want = node.inputs[position];
        let input = self.at(want.node);
        let identified = match input.identity.get()? {
            Ok(identified) => identified,
            Err(error) => return Some(Err(error.clone())),
        };
        let dependency = node.dependency(position)?;
        let (part, is_fresh) = match dependency {
            Dependency::Identity => {
                let (key, output) = (identified.key, want.output);
                (InputPart::Identity { key, output }, identified.fresh)
            }
            Dependency::Content(selectors) => {
                let remembered = self.remembered_content(want, identified, &selectors);
                let digests = match remembered {
                    Some(digests) => Ok(digests),
                    None => self.content_now_or_later(node, position, selectors)?,
                };
                match digests {
                    Ok(digests) => (InputPart::Content(digests), false),
                    Err(error) => return Some(Err(error)),
                }
            }
        };
        node.add_part(position, part, is_fresh).then(|| Ok(self.identify(node)))
    }

    /// Has the contents of an input digested. What that takes may be there already; if not (`None`), a task waits for
    /// it, and goes on with what becomes possible. Each input by itself: one that must be made for this must not wait
    /// for the others to be identified.
    fn content_now_or_later(
        self: &Arc<Self>,
        node: &Arc<Node>,
        position: usize,
        selectors: Vec<ContentSelector>,
    ) -> Option<Result<Vec<Digest>, SolveError>> {
        let (inner, of) = (self.clone(), node.clone());
        let mut digests = Box::pin(async move { inner.guard(&of, inner.content_of(&of, position, &selectors)).await });
        // The task polls it again, and is then the one to be woken.
        if let Poll::Ready(digests) = digests.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(digests);
        }
        let (inner, node) = (self.clone(), node.clone());
        self.spawn(async move {
            let steps = match digests.await {
                Err(error) => node.identify(Err(error)),
                Ok(digests) => {
                    let is_whole = node.add_part(position, InputPart::Content(digests), false);
                    is_whole.then_some(Step::Whole(node.number)).into_iter().collect()
                }
            };
            inner.flow(steps).await;
        });
        None
    }
}

impl Node {
    /// Whether the key is wanted for the first time; then it is noted how much is to be found out about inputs.
    fn want_identity(&self) -> bool {
        let mut identifying = self.identifying.lock();
        if identifying.is_wanted {
            return false;
        }
        identifying.is_wanted = true;
        identifying.missing = self.inputs.len();
        true
    }

    fn is_identity_wanted(&self) -> bool {
        self.identifying.lock().is_wanted
    }

    /// Has `user` told when this is identified; refused if it is already.
    fn add_user(&self, user: User) -> bool {
        let mut identifying = self.identifying.lock();
        let is_open = self.identity.get().is_none();
        if is_open {
            identifying.users.push(user);
        }
        is_open
    }

    /// How this depends on an input, which is asked once of each; `None` if nobody needs to know any more.
    fn dependency(&self, position: usize) -> Option<Dependency> {
        let mut identifying = self.identifying.lock();
        if self.identity.get().is_some() {
            return None;
        }
        let dependencies = identifying
            .dependencies
            .get_or_insert_with(|| cache_key::dependencies(&self.vertex));
        let dependency = dependencies.get_mut(position)?;
        Some(std::mem::replace(dependency, Dependency::Identity))
    }

    /// Adds a part of the key; `true` if it was the last one missing.
    fn add_part(&self, position: usize, part: InputPart, is_fresh: bool) -> bool {
        let mut identifying = self.identifying.lock();
        if self.identity.get().is_some() {
            return false;
        }
        if identifying.parts.is_empty() {
            identifying.parts.resize_with(self.inputs.len(), || None);
        }
        let Some(place) = identifying.parts.get_mut(position) else {
            return false;
        };
        if place.replace(part).is_some() {
            return false;
        }
        identifying.is_fresh |= is_fresh;
        identifying.missing -= 1;
        identifying.missing == 0
    }

    /// The parts of the key, and whether one is of an input that has to run again.
    pub(super) fn take_parts(&self) -> (Vec<InputPart>, bool) {
        let mut identifying = self.identifying.lock();
        let parts = std::mem::take(&mut identifying.parts);
        (parts.into_iter().flatten().collect(), identifying.is_fresh)
    }

    /// Says what this was identified as; the first word counts. Returns what can be done now.
    fn identify(&self, outcome: Result<Identified, SolveError>) -> Vec<Step> {
        let mut identifying = self.identifying.lock();
        if self.identity.set(outcome).is_err() {
            return Vec::new();
        }
        identifying.parts = Vec::new();
        identifying.dependencies = None;
        let users = std::mem::take(&mut identifying.users);
        users.into_iter().map(Step::Part).collect()
    }
}
