//! Materialising a vertex: finding its results, or making them.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::identify::identity_part;
use super::node::{Decision, Identified, Identity, Made, MadeOutput, Node};
use super::record::{lookup, record, removal};
use crate::SolveError;
use crate::cache_key::{self, CacheKey, Dependency};
use crate::engine::build::Inner;
use crate::engine::{Engine, Shared};
use crate::llb::{Op, Vertex};
use crate::worker::{Execution, Ref, WorkerError};

impl Inner {
    pub(super) async fn materialise(self: &Arc<Self>, node: &Arc<Node>) -> Result<Made, SolveError> {
        let identified = self.identified(node).await?;
        if let Op::Passthrough { outputs, .. } = &node.vertex.op {
            return self.pass_through(node, outputs).await;
        }
        if let Op::Build(_) = &node.vertex.op {
            return self.materialise_nested(node).await;
        }
        if let Some(known) = self.lookup(node, identified.key, identified.fresh).await? {
            return Ok(known);
        }
        if self.may_import(&identified.key) && !identified.fresh && !has_result(&identified) {
            let identity = || self.identity_elsewhere(node, &identified);
            if let Some(known) = Box::pin(self.adopt(node, identity, identified.key)).await {
                return Ok(known);
            }
        }
        self.make(node, identified).await
    }

    /// Makes a vertex whose results are not known, or are not to be used.
    pub(super) async fn make(self: &Arc<Self>, node: &Arc<Node>, identified: Identified) -> Result<Made, SolveError> {
        if let Some(result) = identified
            .resolved
            .as_ref()
            .and_then(|resolved| resolved.result.clone())
        {
            let results = vec![Some(result)];
            let identity = self.identity_of(node, &identified);
            record(&self.engine, identity.key, &identity.known, &results);
            node.decide(Decision::Found(identity.key));
            return Ok(Made {
                key: identity.key,
                results: results.into(),
            });
        }
        let inputs = self.made_inputs(node).await?;
        // Of a large build, very many vertices may wait for their inputs: what follows is kept out of their tasks.
        Box::pin(self.make_of(node, identified, inputs)).await
    }

    /// The results of all inputs, made if they must be.
    async fn made_inputs(self: &Arc<Self>, node: &Node) -> Result<Vec<MadeOutput>, SolveError> {
        // Most have one.
        if let [want] = *node.inputs {
            return Ok(vec![self.made(want).await?]);
        }
        try_join_all(node.inputs.iter().map(|want| self.made(*want))).await
    }

    async fn make_of(
        self: &Arc<Self>,
        node: &Arc<Node>,
        identified: Identified,
        mut inputs: Vec<MadeOutput>,
    ) -> Result<Made, SolveError> {
        // Layers are put together without looking into them.
        let needs_files = identified.fresh || !matches!(node.vertex.op, Op::Merge { .. } | Op::Diff { .. });
        let confirmed = loop {
            let confirmed = self.confirm(node, &identified, &inputs).await?;
            if confirmed.key != identified.key && !confirmed.fresh {
                if let Some(known) = self.lookup(node, confirmed.key, false).await? {
                    return Ok(known);
                }
                if let Some(known) = self.adopt(node, || confirmed.clone(), confirmed.key).await {
                    return Ok(known);
                }
            }
            if !needs_files || !self.is_any_remote(node, &inputs)? {
                break confirmed;
            }
            // What cannot be brought here is made again, and may come out differently.
            let whole = try_join_all(node.inputs.iter().map(|want| self.whole(*want))).await?;
            let is_same = inputs.iter().zip(&whole).all(|(input, whole)| input.is_same(whole));
            inputs = whole;
            if is_same {
                break confirmed;
            }
        };
        let inputs = inputs.into_iter().map(|input| input.result).collect();
        node.decide(Decision::Runs {
            key: confirmed.key,
            fresh: confirmed.fresh,
            removed: removal(&self.engine, &confirmed.key),
            unfinished: Some(confirmed.known.clone()),
        });
        let results = if node.is_directory() {
            self.execute(node, &confirmed, inputs).await?
        } else {
            self.report_started(node);
            let outcome = self.execute(node, &confirmed, inputs).await;
            self.report_completed(node, outcome.as_ref().err());
            outcome?
        };
        node.finish();
        Ok(Made {
            key: confirmed.key,
            results: results.into(),
        })
    }

    /// Whether files of any input are still elsewhere.
    fn is_any_remote(&self, node: &Node, inputs: &[MadeOutput]) -> Result<bool, SolveError> {
        for result in inputs.iter().filter_map(|input| input.result.as_ref()) {
            if self
                .engine
                .worker
                .is_remote(result)
                .map_err(|error| node.error(error))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes what a passthrough hands on, and nothing else of its inputs.
    async fn pass_through(self: &Arc<Self>, node: &Arc<Node>, outputs: &[usize]) -> Result<Made, SolveError> {
        let made = try_join_all(node.inputs.iter().enumerate().map(async |(position, want)| {
            if outputs.contains(&position) {
                return self.made(*want).await;
            }
            let input = self.at(want.node);
            Ok(MadeOutput {
                key: self.identified(&input).await?.key,
                output: want.output,
                result: None,
            })
        }))
        .await?;
        let parts = made.iter().map(MadeOutput::identity_part).collect();
        Ok(Made {
            key: self.preimage(&node.vertex, parts).key(),
            results: outputs.iter().map(|&input| made[input].result.clone()).collect(),
        })
    }

    /// Identifies a vertex again, now by what its inputs were really made into.
    ///
    /// Without this, an input that is gone, and comes out differently when it is made again, would be used under a
    /// key that promises the content it had: others who rightly look for that content would find the wrong result.
    async fn confirm(
        &self,
        node: &Arc<Node>,
        identified: &Identified,
        inputs: &[MadeOutput],
    ) -> Result<Identity, SolveError> {
        if inputs.is_empty() {
            return Ok(self.identity_of(node, identified));
        }
        let dependencies = cache_key::dependencies(&node.vertex);
        let by_identity = |input: &MadeOutput| identity_part(input.key, input.output);
        let is_by_identity = dependencies
            .iter()
            .all(|dependency| *dependency == Dependency::Identity);
        let parts = if is_by_identity {
            inputs.iter().map(by_identity).collect()
        } else {
            let parts = inputs.iter().zip(&dependencies).enumerate();
            let parts = parts.map(async |(position, (input, dependency))| match dependency {
                Dependency::Identity => Ok(by_identity(input)),
                Dependency::Content(selectors) => self.made_content_part(node, position, input, selectors).await,
            });
            try_join_all(parts).await?
        };
        let (parts, evidence): (_, Vec<_>) = parts.into_iter().unzip();
        let preimage = self.preimage(&node.vertex, parts);
        // Most are made of the very keys that they were identified by.
        let is_same = is_by_identity
            && node.inputs.iter().zip(inputs).all(|(want, input)| {
                let known = self.at(want.node);
                matches!(known.identity.get(), Some(Ok(known)) if known.key == input.key)
            });
        Ok(Identity {
            key: if is_same { identified.key } else { preimage.key() },
            known: node.known(preimage, evidence),
            fresh: identified.fresh,
            resolved: None,
        })
    }

    /// The recorded results of a vertex, if they may be used and are all still there; reported as a hit.
    async fn lookup(&self, node: &Arc<Node>, key: CacheKey, is_fresh: bool) -> Result<Option<Made>, SolveError> {
        if is_fresh {
            return Ok(None);
        }
        let found = lookup(&self.engine, &key).await.map_err(|error| {
            let error = node.error(error);
            self.report_failed(node, &error);
            error
        })?;
        if found.is_some() {
            node.decide(Decision::Found(key));
            if !node.is_directory() {
                self.report_cached(node);
            }
        }
        Ok(found.map(|results| Made {
            key,
            results: results.into(),
        }))
    }

    async fn execute(
        self: &Arc<Self>,
        node: &Arc<Node>,
        identity: &Identity,
        inputs: Vec<Option<Ref>>,
    ) -> Result<Vec<Option<Ref>>, SolveError> {
        let engine = &self.engine;
        let is_process = matches!(node.vertex.op, Op::Exec(_));
        let (ticket, _) = engine.executing.join(
            // Whoever wants it run anew does not join those who might find it recorded.
            (identity.key, identity.fresh),
            || Shared {
                slot: is_process.then(|| Arc::new(engine.slots.request())),
                meter: (is_process && self.options.measures).then(Arc::default),
                trace: self.run_in_trace(node).filter(|_| is_process),
                ..self.shared()
            },
            |shared, cancel| {
                let (engine, vertex, identity) = (engine.clone(), node.vertex.clone(), identity.clone());
                async move {
                    let outcome = run(&engine, vertex, &identity, inputs, &shared, cancel).await;
                    shared.events.close();
                    outcome
                }
            },
        );
        let slot = ticket.shared().slot.as_ref();
        let _claim = slot.map(|request| request.claim(self.claim(node)));
        let outcome = self.follow(node, ticket.shared(), ticket.wait()).await;
        if self.options.measures
            && let Some(used) = ticket.shared().meter.as_ref().and_then(|meter| meter.read())
        {
            self.usage.lock().insert(node.vertex.digest, used);
        }
        outcome
    }
}

/// Whether finding out what a source stands for has made its result.
fn has_result(identified: &Identified) -> bool {
    identified
        .resolved
        .as_ref()
        .is_some_and(|resolved| resolved.result.is_some())
}

/// Executes a vertex and records its results. Runs once for all who want it.
async fn run(
    engine: &Engine,
    vertex: Arc<Vertex>,
    identity: &Identity,
    inputs: Vec<Option<Ref>>,
    shared: &Shared,
    cancel: tokio_util::sync::CancellationToken,
) -> Result<Vec<Option<Ref>>, WorkerError> {
    // Somebody may have finished the same work between our look at the index and now.
    if !identity.fresh
        && let Some(known) = lookup(engine, &identity.key).await?
    {
        return Ok(known);
    }
    // Taken only now: what is known, or waits for its inputs, takes no slot.
    let _slot = match &shared.slot {
        None => None,
        Some(request) => tokio::select! {
            slot = request.slot() => slot,
            () = cancel.cancelled() => return Err(WorkerError::Cancelled),
        },
    };
    let context = shared.context(vertex.digest, cancel);
    let want = vertex.output_count();
    let execution = Execution {
        vertex,
        resolved: identity.resolved.as_deref().cloned(),
        inputs,
        meter: shared.meter.clone(),
    };
    let results = engine.worker.execute(execution, &context).await?;
    if results.len() != want {
        return Err(WorkerError::Failed(format!(
            "the worker gave {} results for {want} outputs",
            results.len()
        )));
    }
    record(engine, identity.key, &identity.known, &results);
    Ok(results)
}
