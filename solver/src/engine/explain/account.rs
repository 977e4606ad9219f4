//! What a build leaves behind, to be explained later.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::sites::sites;
use crate::cache_key::{self, Dependency};
use crate::engine::build::{Build, Inner};
use crate::engine::vertex::{Decision, Node, clipped};
use crate::index::{BuildRecord, BuildSummary, MAX_STEPS, Millis, StepRecord, Verdict};
use crate::llb::{Op, SourceOp};

/// Most inputs of one step that are remembered.
const MAX_INPUTS: usize = 1_000;

impl Build {
    /// What is to be remembered of the build as it stands now. `summary` says what the engine does not know.
    pub fn account(&self, summary: BuildSummary) -> BuildRecord {
        let inner = &self.inner;
        let nodes = inner.nodes_in_order();
        let verdicts: Vec<Verdict> = nodes.iter().map(|node| inner.verdict(node)).collect();
        let ran = verdicts.iter().filter(|verdict| verdict.has_run()).count();
        let kept = chosen(&verdicts);
        let position: HashMap<u32, u32> = (0..)
            .zip(&kept)
            .map(|(position, &at)| (nodes[at].number, position))
            .collect();
        let mut record = BuildRecord {
            summary: BuildSummary {
                ended: Millis::now(),
                steps: nodes.len(),
                ran,
                ..summary
            },
            ..BuildRecord::default()
        };
        for at in kept {
            let (node, verdict) = (&nodes[at], verdicts[at]);
            let state = node.state();
            let key = node.decided_key();
            let kind = kind(&node.vertex.op).to_owned();
            if let Some(key) = key {
                let sites = sites(&record.summary.scope, &kind, &state.vertex.name, node.place().as_ref());
                record.sites.extend(sites.into_iter().map(|site| (site, key)));
            }
            record.unfinished.extend(node.unfinished());
            let inputs = node.inputs.iter().take(MAX_INPUTS);
            record.steps.push(StepRecord {
                vertex: state.vertex.digest,
                name: clipped(&state.vertex.name),
                kind,
                key,
                verdict,
                has_failed: !state.error.is_empty(),
                inputs: inputs.map(|want| position.get(&want.node).copied()).collect(),
            });
        }
        record
    }
}

/// Which steps are remembered: all, or first those that ran.
fn chosen(verdicts: &[Verdict]) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..verdicts.len()).collect();
    if kept.len() > MAX_STEPS {
        kept.sort_by_key(|&at| !verdicts[at].has_run());
        kept.truncate(MAX_STEPS);
        kept.sort_unstable();
    }
    kept
}

impl Inner {
    fn verdict(&self, node: &Node) -> Verdict {
        match node.decision() {
            None => Verdict::NotNeeded,
            Some(Decision::Found(_)) if node.is_directory() => Verdict::Received,
            Some(Decision::Found(_)) => Verdict::Cached,
            Some(Decision::Runs { .. }) if node.ignore_cache.load(Ordering::Relaxed) => Verdict::IgnoredCache,
            Some(Decision::Runs { fresh, removed, .. }) => {
                let fresh = fresh.then(|| self.fresh_input(node)).flatten();
                fresh.map_or(Verdict::Ran { removed }, Verdict::AfterInput)
            }
        }
    }

    /// The first input that has to run anew and takes the vertex along.
    fn fresh_input(&self, node: &Node) -> Option<u32> {
        let dependencies = cache_key::dependencies(&node.vertex);
        let mut inputs = (0..).zip(node.inputs.iter().zip(dependencies));
        let fresh =
            inputs.find(|(_, (want, dependency))| *dependency == Dependency::Identity && self.at(want.node).is_fresh());
        fresh.map(|(position, _)| position)
    }
}

/// The kind of an op, as far as it matters for telling steps apart.
const fn kind(op: &Op) -> &'static str {
    match op {
        Op::Source(SourceOp::Local(_)) => "directory",
        Op::Source(_) => "source",
        Op::Exec(_) => "exec",
        Op::File(_) => "file",
        Op::Merge { .. } => "merge",
        Op::Diff { .. } => "diff",
        Op::Passthrough { .. } => "passthrough",
        Op::Build(_) => "build",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_remembered_first() {
        let mut verdicts = vec![Verdict::Cached; MAX_STEPS + 10];
        let ran = Verdict::Ran { removed: None };
        verdicts[MAX_STEPS + 5] = ran;
        let kept = chosen(&verdicts);
        assert_eq!(kept.len(), MAX_STEPS);
        assert!(kept.contains(&(MAX_STEPS + 5)) && kept.is_sorted());
    }
}
