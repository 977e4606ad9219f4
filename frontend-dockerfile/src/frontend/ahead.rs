//! Having the client send the build context while base images are looked up.
//!
//! What a build uses of its context is certain once its images are known: their variables may be part of paths, and
//! their triggers may copy files. Mostly neither is so, and the Dockerfile says it all. Then the very step that the
//! graph will have is begun before there is a graph, and is on its way, or done, when the rest of the graph comes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_solver::llb::{Builder, Definition, Op, SourceOp, decode};
use cairn_solver::{Digest, Platform};
use tokio::sync::SetOnce;

use super::Build;
use crate::checks::Findings;
use crate::dockerfile::Dockerfile;
use crate::image::ImageConfig;
use crate::instruction::{CopySource, Instruction, Kind};
use crate::lower::{self, CONTEXT};
use crate::plan::{Plan, Resolved, Wanted};

/// A registry that answers sooner is not worth the trouble.
const PATIENCE: Duration = Duration::from_millis(20);
/// Longer files are not lowered an additional time.
const MAX_BYTES: usize = 256 << 10;

impl Build<'_> {
    /// Begins to load the build context of `file` if images take their time, and `ignore` is known; never ends.
    pub(super) async fn load_context_ahead(
        &self,
        file: &Dockerfile,
        platform: &Platform,
        ignore: &SetOnce<Vec<String>>,
    ) -> Infallible {
        tokio::time::sleep(PATIENCE).await;
        let ignore = ignore.wait().await;
        if let Some(step) = self.certain_context(file, platform, ignore) {
            self.bridge.begin(step).await;
        }
        std::future::pending().await
    }

    /// The step that loads the build context, if images have no part in what that is.
    fn certain_context(&self, file: &Dockerfile, platform: &Platform, ignore: &[String]) -> Option<Definition> {
        let is_wanted = self.options.request.is_none() && self.inputs.context.files.is_none();
        let mut instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
        if !is_wanted || self.inputs.file.data.len() > MAX_BYTES || instructions.any(|it| has_variable_source(it)) {
            return None;
        }
        // What is found in the file is told when it is lowered in earnest.
        let mut findings = Findings::default();
        let mut plan = Plan::new(file, self.options, platform, &self.host, &mut findings).ok()?;
        for wanted in plan.wanted() {
            plan.resolved(self.options, wanted.stage, stand_in(&wanted)).ok()?;
        }
        plan.settle().ok()?;
        let surroundings = self.surroundings(file, ignore.to_vec());
        let lowered = lower::lower(&plan, &surroundings, &mut findings).ok()?;
        let graph = decode(&lowered.definition?).ok()??;
        let context = graph.topological().map(|index| graph.vertex(index)).find(
            |vertex| matches!(&vertex.op, Op::Source(SourceOp::Local(local)) if local.shared_key_hint == CONTEXT),
        )?;
        let mut builder = Builder::new();
        let metadata = (*context.metadata).clone();
        let output = builder.op(context.op.clone(), &[], context.platform.as_deref(), metadata);
        Some(builder.finish(output))
    }
}

/// Whether variables have a part in which files of the context an instruction uses.
fn has_variable_source(instruction: &Instruction) -> bool {
    let is_variable = |text: &String| text.contains('$');
    match &instruction.kind {
        Kind::Add(copy) | Kind::Copy(copy) => copy
            .sources
            .iter()
            .any(|source| matches!(source, CopySource::Word(word) if is_variable(word))),
        Kind::Run(run) => run.mounts.iter().flat_map(|mount| &mount.fields).any(is_variable),
        _ => false,
    }
}

/// An image of which nothing is known.
fn stand_in(wanted: &Wanted) -> Box<Resolved> {
    let image = ImageConfig::scratch(&wanted.platform);
    Box::new(Resolved {
        reference: wanted.reference.clone(),
        digest: Digest::sha256(&[]),
        config: Bytes::new(),
        image: Arc::new(image),
    })
}
