//! Letting sources into a build: what policies say of them, before anything is made of them.
//!
//! A definition goes through here whenever it is loaded, and what its sources were rewritten to is loaded in its place.
//! So everything after it, keys and caches above all, knows only what will really be used.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::build::Inner;
use super::facts::SourceFacts;
use crate::llb::{self, Definition, FoundSource};
use crate::policy::{Judgement, Policy, PolicyError, RawSource};
use crate::{Platform, SolveError};

/// How often whoever judges sources is asked about one.
const MAX_ROUNDS: usize = 10;

/// A source, what it is for, and what has to let pass whatever is put in its place.
type Question = (RawSource, Option<Platform>, Vec<Itself>);

/// A policy, which equals nothing but itself.
#[derive(Clone)]
pub(super) struct Itself(Arc<Policy>);

impl PartialEq for Itself {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Itself {}

impl Hash for Itself {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// What became of sources that were judged: definitions are loaded more than once.
pub(super) type Judged = Mutex<HashMap<Question, Arc<OnceCell<RawSource>>>>;

impl Inner {
    /// A definition as policies want it; `None` if it may be used as it is.
    ///
    /// # Errors
    /// [`SolveError::Policy`] if a source is refused.
    pub(super) async fn admit(self: &Arc<Self>, definition: &Definition) -> Result<Option<Definition>, SolveError> {
        let policies = self.policies(definition.policies());
        if definition.is_empty() || policies.is_empty() && self.options.judge.is_none() {
            return Ok(None);
        }
        let mut replaced = {
            let (definition, policies) = (definition.clone(), policies.clone());
            self.aside(move || {
                let found = llb::sources(&definition)?.into_iter();
                let passed = found.map(|found| {
                    let changed = Policy::apply_all(&policies, &found.source).map_err(SolveError::Policy)?;
                    Ok((found, changed))
                });
                passed.collect::<Result<Vec<(FoundSource, Option<RawSource>)>, SolveError>>()
            })
            .await?
        };
        if self.options.judge.is_some() {
            for (found, changed) in &mut replaced {
                let source = changed.as_ref().unwrap_or(&found.source);
                let judged = self.judge(source, found.platform.as_ref(), &policies).await;
                let judged = judged.map_err(|error| match error {
                    SolveError::ResolvePolicy(error) => SolveError::Policy(error),
                    error => error,
                })?;
                *changed = Some(judged).filter(|judged| *judged != found.source);
            }
        }
        let replaced = replaced.into_iter();
        let replaced: HashMap<_, _> = replaced
            .filter_map(|(found, changed)| Some((found.vertex, changed?)))
            .collect();
        if replaced.is_empty() {
            return Ok(None);
        }
        let definition = definition.clone();
        let rewritten = self.aside(move || Ok(llb::with_sources(&definition, &replaced)?));
        rewritten.await.map(Some)
    }

    /// What policies make of a source that is asked about on its own.
    ///
    /// # Errors
    /// [`SolveError::ResolvePolicy`] if it is refused.
    pub(super) async fn admit_source(
        self: &Arc<Self>,
        source: &RawSource,
        platform: Option<&Platform>,
        more: &[Arc<Policy>],
    ) -> Result<RawSource, SolveError> {
        let policies = self.policies(more);
        let passed = self.apply(&policies, source).await?;
        match self.options.judge {
            None => Ok(passed),
            Some(_) => self.judge(&passed, platform, &policies).await,
        }
    }

    /// Whether policies let a source pass as it is, and nobody else has a say in that.
    pub(super) async fn lets_pass(self: &Arc<Self>, source: &RawSource, more: &[Arc<Policy>]) -> bool {
        let policies = self.policies(more);
        self.options.judge.is_none()
            && self
                .apply(&policies, source)
                .await
                .is_ok_and(|passed| passed == *source)
    }

    fn policies(&self, more: &[Arc<Policy>]) -> Vec<Arc<Policy>> {
        self.options.policies.iter().chain(more).cloned().collect()
    }

    async fn apply(&self, policies: &[Arc<Policy>], source: &RawSource) -> Result<RawSource, SolveError> {
        if policies.is_empty() {
            return Ok(source.clone());
        }
        let (policies, source) = (policies.to_vec(), source.clone());
        self.aside(move || match Policy::apply_all(&policies, &source) {
            Ok(changed) => Ok(changed.unwrap_or(source)),
            Err(error) => Err(SolveError::ResolvePolicy(error)),
        })
        .await
    }

    /// Has a source judged that all policies let pass, and what is put in its place as well.
    async fn judge(
        self: &Arc<Self>,
        source: &RawSource,
        platform: Option<&Platform>,
        policies: &[Arc<Policy>],
    ) -> Result<RawSource, SolveError> {
        let Some(judge) = &self.options.judge else {
            return Ok(source.clone());
        };
        let under = policies.iter().cloned().map(Itself).collect();
        let question = (source.clone(), platform.cloned(), under);
        let cell = self.judged.lock().entry(question).or_default().clone();
        let ask = async || {
            let facts = SourceFacts::new(self.clone());
            let mut rounds = MAX_ROUNDS;
            let mut source = source.clone();
            loop {
                match judge.judge(&source, platform, &facts, &mut rounds).await? {
                    Judgement::Allow => return Ok(source),
                    Judgement::Convert(_) if rounds == 0 => {
                        let message = "too many policy requests".to_owned();
                        return Err(SolveError::ResolvePolicy(PolicyError::Judge(message)));
                    }
                    Judgement::Convert(changed) => source = self.apply(policies, &changed).await?,
                }
            }
        };
        tokio::select! {
            judged = cell.get_or_try_init(ask) => judged.cloned(),
            () = self.cancel.cancelled() => Err(SolveError::Cancelled),
        }
    }
}
