//! Results that are known elsewhere: taking them over, and getting their files when somebody needs them.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::node::{Decision, Identified, Identity, Made, MadeOutput, Node, Outcome};
use super::record::{lookup, record, recorded, remembered_content};
use super::{identify, outcome};
use crate::cache_key::{self, CacheKey, Dependency};
use crate::engine::build::{Inner, Want};
use crate::engine::export::ExportedVertex;
use crate::index::InputEvidence;
use crate::llb::Op;
use crate::progress::{Event, VertexProgress};
use crate::worker::{CallContext, ContentSelector, Ref, ResultId, WorkerError};
use crate::{Digest, SolveError};

/// Stands in explanations for a result that only an imported cache knew.
const ELSEWHERE: &str = "elsewhere";

impl Inner {
    /// The results of a vertex that is known to an imported cache; reported as a hit.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        node: &Arc<Node>,
        identity: impl FnOnce() -> Identity + Send,
        key: CacheKey,
    ) -> Option<Made> {
        let results = self.take_over(node, identity, key).await?;
        node.decide(Decision::Found(key));
        self.report_cached(node);
        Some(Made {
            key,
            results: results.into(),
        })
    }

    /// Takes over what is known to an imported cache under a key.
    async fn take_over(
        &self,
        node: &Arc<Node>,
        identity: impl FnOnce() -> Identity + Send,
        key: CacheKey,
    ) -> Option<Vec<Option<Ref>>> {
        if !self.may_import(&key) {
            return None;
        }
        for cache in self.imports.loaded().await {
            match cache.adopt(&key, &self.context(node)).await {
                Ok(Some(results)) if results.len() == node.vertex.output_count() => {
                    record(&self.engine, key, &identity().known, &results);
                    self.imports.note_adopted(key, &results);
                    return Some(results);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, %key, "a result from an imported cache cannot be used"),
            }
        }
        None
    }

    /// What a vertex was identified as, to be kept beside results that were taken over.
    pub(super) fn identity_elsewhere(&self, node: &Node, identified: &Identified) -> Identity {
        let preimage = identified.preimage.as_deref().cloned();
        let inputs = node
            .inputs
            .iter()
            .zip(cache_key::dependencies(&node.vertex))
            .filter_map(|(want, dependency)| {
                let input = self.at(want.node);
                let Some(Ok(input)) = input.identity.get() else {
                    return None;
                };
                Some(match dependency {
                    Dependency::Identity => identify::identity_part(input.key, want.output).1,
                    Dependency::Content(selectors) => InputEvidence {
                        key: input.key,
                        selectors,
                        result: Some(ResultId::new(ELSEWHERE)),
                    },
                })
            });
        Identity {
            key: identified.key,
            known: node.known(preimage.unwrap_or_default(), inputs.collect()),
            fresh: identified.fresh,
            resolved: identified.resolved.clone(),
        }
    }

    /// What an input contributes that is not known here, if an imported cache knows what is selected in it.
    pub(super) async fn imported_content(&self, want: Want, selectors: &[ContentSelector]) -> Option<Vec<Digest>> {
        let input = self.at(want.node);
        let Some(Ok(identified)) = input.identity.get() else {
            return None;
        };
        let key = identified.key;
        if identified.fresh || !self.may_import(&key) || recorded(&self.engine, &key).is_some() {
            return None;
        }
        self.imports.loaded().await.iter().find_map(|cache| {
            let digests = selectors
                .iter()
                .map(|selector| cache.content(&key, want.output, selector));
            digests.collect()
        })
    }

    /// The digest of what is selected in an input that was made, if that is known without looking into it. `key` is
    /// the one under which it is remembered.
    pub(super) async fn known_content(
        &self,
        input: &MadeOutput,
        selector: &ContentSelector,
        key: &CacheKey,
    ) -> Option<Digest> {
        if let Some(known) = remembered_content(&self.engine, key) {
            return Some(known);
        }
        if !self.imports.is_adopted(&input.key, input.output, input.result.as_ref()) {
            return None;
        }
        let caches = self.imports.loaded().await;
        let digest = caches
            .iter()
            .find_map(|cache| cache.content(&input.key, input.output, selector))?;
        if let Err(error) = self.engine.index.record_content(key, &digest) {
            tracing::warn!(%error, "a content digest is not remembered");
        }
        Some(digest)
    }

    /// One output of a vertex, made if it must be, with all its files here.
    pub(in crate::engine) async fn whole_result(self: &Arc<Self>, want: Want) -> Result<Option<Ref>, SolveError> {
        tokio::select! {
            whole = self.whole(want) => Ok(whole?.result),
            () = self.cancel.cancelled() => Err(SolveError::Cancelled),
        }
    }

    pub(super) async fn whole(self: &Arc<Self>, want: Want) -> Result<MadeOutput, SolveError> {
        let made = self.made(want).await?;
        let node = self.at(want.node);
        let is_remote = match &made.result {
            None => Ok(false),
            Some(result) => self.engine.worker.is_remote(result),
        };
        if !is_remote.map_err(|error| node.error(error))? {
            return Ok(made);
        }
        let made = outcome(&self.start_fetch(&node)).await?;
        Ok(MadeOutput {
            key: made.key,
            output: want.output,
            result: made.results.get(want.output).cloned().flatten(),
        })
    }

    /// Gets the files of a vertex' results, unless that is going on.
    fn start_fetch(self: &Arc<Self>, node: &Arc<Node>) -> Arc<Outcome<Made>> {
        let mut fetches = self.fetches.lock();
        if let Some(fetch) = fetches.get(&node.number) {
            return fetch.clone();
        }
        let fetch = Arc::new(Outcome::new());
        fetches.insert(node.number, fetch.clone());
        drop(fetches);
        let (inner, node, whole) = (self.clone(), node.clone(), fetch.clone());
        self.spawn(async move {
            let made = inner.guard(&node, inner.fetch_or_make(&node)).await;
            // Only this task sets it.
            let _is_first = whole.set(made);
        });
        fetch
    }

    /// Gets the files of a vertex' results. What cannot be had is made.
    async fn fetch_or_make(self: &Arc<Self>, node: &Arc<Node>) -> Result<Made, SolveError> {
        let made = outcome(node.results()).await?;
        if let Op::Passthrough { outputs, .. } = &node.vertex.op {
            let whole = outputs.iter().map(|&input| self.whole(node.inputs[input]));
            let whole = try_join_all(whole).await?;
            return Ok(Made {
                key: made.key,
                results: whole.into_iter().map(|input| input.result).collect(),
            });
        }
        if let Some(want) = node.nested.get() {
            return Ok(Made {
                key: made.key,
                results: [self.whole(**want).await?.result].into(),
            });
        }
        self.report_fetching(node);
        let context = self.context(node);
        let fetches = made.results.iter().flatten();
        let fetches = fetches.map(|result| self.engine.worker.fetch(result, &context));
        let fetched = try_join_all(fetches).await;
        self.report_completed(node, None);
        match fetched {
            Ok(_) => Ok(made),
            Err(WorkerError::Cancelled) => Err(SolveError::Cancelled),
            Err(error) => {
                tracing::warn!(%error, key = %made.key, "a result that is elsewhere cannot be had: it is made again");
                let text = format!("the cached result cannot be had, so this runs again: {error}\n");
                context.progress.log(2, text.into());
                let names = made
                    .results
                    .iter()
                    .map(|result| result.as_ref().map(|found| found.id().clone()));
                self.engine
                    .forget(&made.key, &names.collect(), self.engine.removal_now());
                self.imports.discard(made.key);
                let identified = self.identified(node).await?;
                let anew = Identified {
                    fresh: true,
                    ..identified
                };
                self.make(node, anew).await
            }
        }
    }

    fn context(&self, node: &Node) -> CallContext {
        CallContext {
            progress: VertexProgress::new(node.vertex.digest, self.events.clone()),
            sessions: self.sessions.clone(),
            cancel: self.cancel.clone(),
            trace: None,
        }
    }

    /// Shows a hit as being worked on again, while its files arrive.
    fn report_fetching(&self, node: &Node) {
        let mut state = node.state.lock();
        state.started = Some(std::time::SystemTime::now());
        state.completed = None;
        self.events.push(Event::Vertex(state.clone()));
    }
}

impl Inner {
    /// What is known about a vertex without making anything; `None` if not even its key is known.
    pub(in crate::engine) async fn exported(&self, node: &Arc<Node>) -> Result<Option<ExportedVertex>, SolveError> {
        let fetched = self.fetches.lock().get(&node.number).cloned();
        let made = fetched.as_ref().and_then(|fetch| fetch.get()).or_else(|| node.made());
        if let Some(Ok(made)) = made {
            let outputs = (!node.is_directory()).then(|| made.results.to_vec());
            return Ok(Some(ExportedVertex { key: made.key, outputs }));
        }
        let Some(Ok(identified)) = node.identity.get() else {
            return Ok(None);
        };
        let key = identified.key;
        let outputs = if node.is_directory() {
            None
        } else {
            match lookup(&self.engine, &key).await.map_err(|error| node.error(error))? {
                Some(known) => Some(known),
                // What came from elsewhere leaves again.
                None => {
                    self.take_over(node, || self.identity_elsewhere(node, identified), key)
                        .await
                }
            }
        };
        Ok(Some(ExportedVertex { key, outputs }))
    }

    /// The results of a vertex that was made in this build, or is remembered.
    pub(in crate::engine) async fn known(&self, node: &Node) -> Result<Option<Vec<Option<Ref>>>, SolveError> {
        if let Some(Ok(made)) = node.made() {
            return Ok(Some(made.results.to_vec()));
        }
        let Some(Ok(identified)) = node.identity.get() else {
            return Ok(None);
        };
        let known = lookup(&self.engine, &identified.key).await;
        known.map_err(|error| node.error(error))
    }

    /// The digest of what is selected in an exported vertex, if that is remembered.
    pub(in crate::engine) async fn selected(
        &self,
        vertex: &ExportedVertex,
        output: usize,
        selector: &ContentSelector,
    ) -> Option<Digest> {
        if let Some(outputs) = &vertex.outputs {
            let input = MadeOutput {
                key: vertex.key,
                output,
                result: outputs.get(output)?.clone(),
            };
            return self.known_content(&input, selector, &input.content_key(selector)).await;
        }
        // Nothing but what an imported cache says.
        let caches = self.imports.loaded().await;
        caches
            .iter()
            .find_map(|cache| cache.content(&vertex.key, output, selector))
    }
}
