//! What inputs contribute that are depended on by content.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::node::{Identified, MadeOutput, Node};
use super::record::{recorded, remembered_content};
use crate::cache_key::{self, InputPart};
use crate::engine::build::{Inner, Want};
use crate::index::InputEvidence;
use crate::worker::{ContentSelector, FailedState, FailedSubject, Ref};
use crate::{Digest, SolveError};

impl Inner {
    /// What an input that is depended on by content contributes, if that is remembered of its recorded result.
    pub(super) fn remembered_content(
        &self,
        want: Want,
        identified: &Identified,
        selectors: &[ContentSelector],
    ) -> Option<Vec<Digest>> {
        if identified.fresh {
            return None;
        }
        let recorded = recorded(&self.engine, &identified.key)?;
        let result = recorded.get(want.output)?.as_ref();
        let digests = selectors.iter().map(|selector| {
            let key = cache_key::content_key(&identified.key, want.output, result, selector);
            remembered_content(&self.engine, &key)
        });
        digests.collect()
    }

    /// What the input at `position` contributes, which has to be made for it, though it may not be needed itself.
    pub(super) async fn content_of(
        self: &Arc<Self>,
        node: &Arc<Node>,
        position: usize,
        selectors: &[ContentSelector],
    ) -> Result<Vec<Digest>, SolveError> {
        let want = node.inputs[position];
        if self.may_import_any()
            && let Some(digests) = self.imported_content(want, selectors).await
        {
            return Ok(digests);
        }
        let mut input = self.made(want).await?;
        // Files that are elsewhere are not fetched for what can be known without them.
        if input.result.as_ref().is_some_and(|result| self.may_be_remote(result)) {
            let mut digests = Vec::with_capacity(selectors.len());
            for selector in selectors {
                digests.extend(self.known_content(&input, selector, &input.content_key(selector)).await);
            }
            if digests.len() == selectors.len() {
                return Ok(digests);
            }
            input = self.whole(want).await?;
        }
        self.made_content(node, position, &input, selectors).await
    }

    fn may_be_remote(&self, result: &Ref) -> bool {
        self.engine.worker.is_remote(result).unwrap_or(true)
    }

    async fn made_content(
        &self,
        node: &Arc<Node>,
        position: usize,
        input: &MadeOutput,
        selectors: &[ContentSelector],
    ) -> Result<Vec<Digest>, SolveError> {
        // Most read one path.
        if let [selector] = selectors {
            return Ok(vec![self.content_digest(node, position, input, selector).await?]);
        }
        let digests = selectors
            .iter()
            .map(|selector| self.content_digest(node, position, input, selector));
        try_join_all(digests).await
    }

    /// What an input that was made contributes, when depended on by content.
    pub(super) async fn made_content_part(
        &self,
        node: &Arc<Node>,
        position: usize,
        input: &MadeOutput,
        selectors: &[ContentSelector],
    ) -> Result<(InputPart, InputEvidence), SolveError> {
        let digests = self.made_content(node, position, input, selectors).await?;
        let evidence = InputEvidence {
            key: input.key,
            selectors: selectors.to_vec(),
            result: input.result.as_ref().map(|result| result.id().clone()),
        };
        let part = InputPart::Content(digests);
        Ok((part, evidence))
    }

    async fn content_digest(
        &self,
        node: &Arc<Node>,
        position: usize,
        input: &MadeOutput,
        selector: &ContentSelector,
    ) -> Result<Digest, SolveError> {
        let engine = &self.engine;
        let key = input.content_key(selector);
        if let Some(known) = self.known_content(input, selector, &key).await {
            return Ok(known);
        }
        let (ticket, _) = engine.digesting.join(
            key,
            || self.shared(),
            |shared, cancel| {
                let (worker, index) = (engine.worker.clone(), engine.index.clone());
                let (selector, vertex, input) = (selector.clone(), node.vertex.digest, input.result.clone());
                async move {
                    let context = shared.context(vertex, cancel);
                    let outcome = worker.digest(input.as_ref(), &selector, &context).await;
                    shared.events.close();
                    if let Ok(digest) = &outcome
                        && let Err(error) = index.record_content(&key, digest)
                    {
                        tracing::warn!(%error, "a content digest is not remembered");
                    }
                    outcome
                }
            },
        );
        let outcome = self.follow(node, ticket.shared(), ticket.wait()).await;
        outcome.map_err(|error| {
            let error = match error {
                SolveError::Vertex(failed) => {
                    let state = FailedState {
                        inputs: vec![input.result.clone()],
                        left: Vec::new(),
                        subject: FailedSubject::Content(position),
                    };
                    node.error_in(failed.source.clone(), Some(Arc::new(state)))
                }
                error => error,
            };
            // The step that reads the missing path is the one to show, though it never ran.
            self.report_failed(node, &error);
            error
        })
    }
}
