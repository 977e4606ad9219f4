//! From a step to its causes, and from those to theirs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::differ::{Difference, differences, distance};
use super::sites::{sites, text_of};
use super::{Cause, Explanation, Link};
use crate::cache_key::CacheKey;
use crate::engine::sweep::blocking;
use crate::engine::{Build, Engine};
use crate::index::{BuildSummary, CacheIndex, IndexError, InputEvidence, Known, Removal, Removed, StepRecord, Verdict};
use crate::llb::VertexDigest;
use crate::worker::{Comparison, ContentSelector, ResultId, WorkerError};

/// Changed files that are named for one cause.
const MAX_CHANGES: usize = 20;
/// Steps that one chain is followed through.
const MAX_LINKS: usize = 1_000;
/// Links that are told from each end of a chain.
const TOLD_LINKS: usize = 25;
/// Causes that are told of one step.
const MAX_CAUSES: usize = 50;

/// How much is to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The first cause, and the first of all that led to it.
    Brief,
    /// All causes, and everything in between.
    Full,
}

/// Why a step cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The worker failed to compare results.
    #[error("failed to compare results: {0}")]
    Worker(#[from] WorkerError),
    /// There is no such step.
    #[error("no step {0} in this build")]
    NoStep(String),
}

impl Engine {
    /// Explains steps of a build that is remembered; `wanted` are positions in `steps`.
    ///
    /// # Errors
    /// [`ExplainError`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn explain(
        &self,
        build: &BuildSummary,
        steps: &[StepRecord],
        wanted: &[usize],
        detail: Detail,
    ) -> Result<Vec<Explanation>, ExplainError> {
        let index = self.index.clone();
        // What is not written yet cannot be found; if it cannot be written, what was before is still true.
        if let Err(error) = blocking(move || index.flush()).await {
            tracing::warn!(%error, "explaining without the last writes");
        }
        let mut tracer = Tracer {
            engine: self,
            build,
            steps,
            texts: steps.iter().map(|step| text_of(&step.name)).collect(),
            known: HashMap::new(),
            links: HashMap::new(),
        };
        let mut explanations = Vec::with_capacity(wanted.len());
        for &at in wanted {
            explanations.push(tracer.explain(at, detail).await?);
        }
        Ok(explanations)
    }
}

impl Build {
    /// Explains a step of this build as it stands now.
    ///
    /// # Errors
    /// [`ExplainError`].
    pub async fn explain(&self, vertex: &VertexDigest, scope: &str) -> Result<Explanation, ExplainError> {
        let missing = || ExplainError::NoStep(vertex.to_string());
        let mut record = self.account(BuildSummary {
            scope: scope.to_owned(),
            ..BuildSummary::default()
        });
        // It comes after all that are remembered.
        record.summary.number = u64::MAX;
        let at = record
            .steps
            .iter()
            .position(|step| step.vertex == *vertex)
            .ok_or_else(missing)?;
        let explained = self
            .engine()
            .explain(&record.summary, &record.steps, &[at], Detail::Full)
            .await?;
        explained.into_iter().next().ok_or_else(missing)
    }
}

/// Something to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Point {
    /// What was decided about a step.
    Step(usize),
    /// That something has the second key, and not the first any more.
    Keys(CacheKey, CacheKey),
}

/// A cause, and what explains it in turn.
type Found = (Cause, Option<Point>);

struct Tracer<'a> {
    engine: &'a Engine,
    build: &'a BuildSummary,
    steps: &'a [StepRecord],
    /// What the steps of the build say.
    texts: BTreeSet<String>,
    known: HashMap<CacheKey, Option<Arc<Known>>>,
    /// The first cause of each point that was looked at.
    links: HashMap<Point, (Link, Option<Point>)>,
}

impl Tracer<'_> {
    async fn explain(&mut self, at: usize, detail: Detail) -> Result<Explanation, ExplainError> {
        let step = self.steps.get(at).ok_or_else(|| ExplainError::NoStep(at.to_string()))?;
        let limit = match detail {
            Detail::Brief => 1,
            Detail::Full => MAX_CAUSES,
        };
        let found = self.causes(Point::Step(at), limit).await?;
        let next = found.first().and_then(|(_, next)| *next);
        let (chain, links_left_out) = self.chain(next, detail).await?;
        let place = match step.key {
            Some(key) => self.known(key)?.and_then(|known| known.evidence.place.clone()),
            None => None,
        };
        Ok(Explanation {
            vertex: step.vertex,
            name: step.name.clone(),
            place,
            verdict: step.verdict,
            has_failed: step.has_failed,
            causes: found.into_iter().map(|(cause, _)| cause).collect(),
            chain,
            links_left_out,
        })
    }

    /// Follows first causes to the first of all.
    async fn chain(&mut self, mut next: Option<Point>, detail: Detail) -> Result<(Vec<Link>, usize), ExplainError> {
        let mut chain: Vec<Link> = Vec::new();
        while let Some(point) = next
            && chain.len() < MAX_LINKS
        {
            if !self.links.contains_key(&point) {
                let (causes, after) = self.causes(point, 1).await?.into_iter().next().unzip();
                let link = Link {
                    name: self.name(point)?,
                    causes: causes.into_iter().collect(),
                };
                self.links.insert(point, (link, after.flatten()));
            }
            let (link, after) = &self.links[&point];
            // What is only told by its name explains nothing.
            if link.causes.is_empty() {
                break;
            }
            chain.push(link.clone());
            next = *after;
        }
        let told = match detail {
            Detail::Brief => (0, 1),
            Detail::Full => (TOLD_LINKS, TOLD_LINKS),
        };
        let left_out = chain.len().saturating_sub(told.0 + told.1);
        if left_out > 0 {
            chain.drain(told.0..told.0 + left_out);
        }
        Ok((chain, left_out))
    }

    fn name(&mut self, point: Point) -> Result<String, ExplainError> {
        Ok(match point {
            Point::Step(at) => self.steps[at].name.clone(),
            Point::Keys(_, new) => self.key_name(new)?,
        })
    }

    /// The causes of a point, at most so many.
    async fn causes(&mut self, point: Point, limit: usize) -> Result<Vec<Found>, ExplainError> {
        match point {
            Point::Step(at) => self.step_causes(at, limit).await,
            Point::Keys(old, new) => match (self.known(old)?, self.known(new)?) {
                (Some(old), Some(new)) => self.compared(&old, &new, limit).await,
                _ => Ok(vec![(Cause::Unknown, None)]),
            },
        }
    }

    async fn step_causes(&mut self, at: usize, limit: usize) -> Result<Vec<Found>, ExplainError> {
        let step = &self.steps[at];
        let mut found: Vec<Found> = Vec::new();
        let removed = match step.verdict {
            Verdict::NotNeeded | Verdict::Cached => return Ok(found),
            Verdict::IgnoredCache => {
                found.push((Cause::IgnoredCache, None));
                None
            }
            Verdict::AfterInput(input) => {
                let input = step.inputs.get(input as usize).copied().flatten();
                let input = input.map(|input| input as usize);
                let name = input
                    .and_then(|input| self.steps.get(input))
                    .map(|input| input.name.clone());
                let cause = name.map_or(Cause::Unknown, |name| Cause::Input { name });
                found.push((cause, input.map(Point::Step)));
                None
            }
            Verdict::Received => None,
            Verdict::Ran { removed } => removed,
        };
        let Some(key) = step.key else { return Ok(found) };
        let has_forced = !found.is_empty();
        if found.len() >= limit {
            return Ok(found);
        }
        match removed {
            Some(removal) => found.push((gone(removal), None)),
            None => match self.before(step, key)? {
                // The same as before: if it ran by itself, then because that is not there any more.
                Before::Same if has_forced || step.verdict == Verdict::Received => {}
                Before::Same => found.push((Cause::Gone(None), None)),
                Before::Nothing if has_forced => {}
                Before::Nothing => found.push((Cause::New, None)),
                Before::Other(old, new) => found.extend(self.compared(&old, &new, limit - found.len()).await?),
            },
        }
        Ok(found)
    }

    /// What stood where a step stands, before its build.
    fn before(&mut self, step: &StepRecord, key: CacheKey) -> Result<Before, ExplainError> {
        let Some(new) = self.known(key)? else {
            return Ok(Before::Nothing);
        };
        let place = new.evidence.place.as_ref();
        let mut nearest: Option<(usize, std::cmp::Reverse<u64>, Arc<Known>)> = None;
        for site in sites(&self.build.scope, &step.kind, &step.name, place) {
            for entry in self.index().site(&site)? {
                if entry.first >= self.build.number {
                    continue;
                }
                if entry.key == key {
                    return Ok(Before::Same);
                }
                let Some(old) = self.known(entry.key)? else { continue };
                let has_moved = {
                    let text = text_of(&old.evidence.name);
                    text != text_of(&step.name) && self.texts.contains(&text)
                };
                let rank = (distance(&old, &new), std::cmp::Reverse(entry.last));
                let is_nearer = nearest.as_ref().is_none_or(|(far, last, _)| rank < (*far, *last));
                if !has_moved && is_nearer {
                    nearest = Some((rank.0, rank.1, old));
                }
            }
        }
        Ok(nearest.map_or(Before::Nothing, |(_, _, old)| Before::Other(old, new)))
    }

    /// What differs between two versions, each with where to look further.
    async fn compared(&mut self, old: &Known, new: &Known, limit: usize) -> Result<Vec<Found>, ExplainError> {
        let differences = differences(old, new);
        if differences.is_empty() && new.preimage.kind == "source" {
            return Ok(self
                .directory(old, new)
                .await?
                .into_iter()
                .map(|cause| (cause, None))
                .collect());
        }
        let mut found = Vec::new();
        for difference in differences.into_iter().take(limit) {
            found.push(match difference {
                Difference::Own(cause) => (cause, None),
                Difference::Input(position) => self.input(old, new, position)?,
                Difference::Content(position, selector) => self.content(old, new, position, selector).await?,
            });
        }
        Ok(found)
    }

    fn input(&mut self, old: &Known, new: &Known, position: usize) -> Result<Found, ExplainError> {
        let (old, new) = (old.evidence.inputs.get(position), new.evidence.inputs.get(position));
        let (Some(old), Some(new)) = (old, new) else {
            return Ok((Cause::Unknown, None));
        };
        let name = self.key_name(new.key)?;
        let next = (old.key != new.key).then_some(Point::Keys(old.key, new.key));
        Ok((Cause::Input { name }, next))
    }

    async fn content(
        &mut self,
        old: &Known,
        new: &Known,
        position: usize,
        selector: usize,
    ) -> Result<Found, ExplainError> {
        let (old, new) = (old.evidence.inputs.get(position), new.evidence.inputs.get(position));
        let (Some(old), Some(new)) = (old, new) else {
            return Ok((Cause::Unknown, None));
        };
        let Some(selected) = new.selectors.get(selector) else {
            return Ok((Cause::Unknown, None));
        };
        // Of another selection, what was found says nothing about files.
        let comparison = if old.selectors.get(selector) == Some(selected) {
            self.compare(old, new, selected).await?
        } else {
            Some(Comparison::default())
        };
        let from = self.key_name(new.key)?;
        let cause = files(from, &selected.path, comparison);
        Ok((cause, self.further(old.key, new.key)?))
    }

    /// Where to look further when files of an input differ. A directory has no other cause than its files.
    fn further(&mut self, old: CacheKey, new: CacheKey) -> Result<Option<Point>, ExplainError> {
        if old == new {
            return Ok(None);
        }
        let (Some(before), Some(now)) = (self.known(old)?, self.known(new)?) else {
            return Ok(None);
        };
        let has_causes = now.preimage.kind != "source" || distance(&before, &now) > 0;
        Ok(has_causes.then_some(Point::Keys(old, new)))
    }

    /// What changed in a source that says no more about itself: a client's directory.
    async fn directory(&mut self, old: &Known, new: &Known) -> Result<Option<Cause>, ExplainError> {
        let (old_key, new_key) = (old.preimage.key(), new.preimage.key());
        if old_key == new_key {
            return Ok(None);
        }
        let result = |key| -> Result<Option<Option<ResultId>>, ExplainError> {
            Ok(self
                .index()
                .results(&key)?
                .and_then(|outputs| outputs.into_iter().next()))
        };
        let comparison = match (result(old_key)?, result(new_key)?) {
            (Some(old), Some(new)) => {
                let everything = ContentSelector::default();
                let worker = self.engine.worker();
                worker
                    .compare(old.as_ref(), new.as_ref(), &everything, MAX_CHANGES)
                    .await?
            }
            _ => None,
        };
        Ok(Some(files(String::new(), "/", comparison)))
    }

    async fn compare(
        &self,
        old: &InputEvidence,
        new: &InputEvidence,
        selector: &ContentSelector,
    ) -> Result<Option<Comparison>, ExplainError> {
        let (old, new) = (old.result.as_ref(), new.result.as_ref());
        Ok(self.engine.worker().compare(old, new, selector, MAX_CHANGES).await?)
    }

    fn index(&self) -> &Arc<dyn CacheIndex> {
        self.engine.index()
    }

    fn known(&mut self, key: CacheKey) -> Result<Option<Arc<Known>>, ExplainError> {
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let known = self.index().known(&key)?.map(Arc::new);
        self.known.insert(key, known.clone());
        Ok(known)
    }

    fn key_name(&mut self, key: CacheKey) -> Result<String, ExplainError> {
        let known = self.known(key)?;
        Ok(known.map_or_else(|| "an earlier step".to_owned(), |known| known.evidence.name.clone()))
    }
}

/// What stood somewhere before.
enum Before {
    Nothing,
    Same,
    /// The nearest other version, and the one of now.
    Other(Arc<Known>, Arc<Known>),
}

fn gone(removal: Removal) -> Cause {
    match removal.how {
        Removed::NotFinished => Cause::NotFinished(removal),
        Removed::Pruned | Removed::Collected | Removed::Lost => Cause::Gone(Some(removal)),
    }
}

fn files(from: String, path: &str, comparison: Option<Comparison>) -> Cause {
    let is_kept = comparison.is_some();
    let Comparison { changes, has_more } = comparison.unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    Cause::Files {
        from,
        path: path.to_owned(),
        changes,
        has_more,
        is_kept,
    }
}
