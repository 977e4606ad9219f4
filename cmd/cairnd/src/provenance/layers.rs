//! The layers that results of steps are known as.

use std::sync::Arc;

use cairn_solver::llb::Definition;
use cairn_solver::{Digest, SolveError};
use cairn_worker::image::Descriptor;

use crate::jobs::Job;

/// Outputs of vertices, and the layers they are known as, lowest first.
pub(super) type Layers = Vec<(Digest, usize, Vec<Descriptor>)>;

/// The results of steps as layers, as far as they are known as such by now: those that were pulled or exported. No more
/// than `most` are named: every step repeats those of the steps before it.
pub(super) async fn known(job: &Job, definition: &Arc<Definition>, most: usize) -> Result<Layers, SolveError> {
    let worker = &job.forwarder.worker;
    let mut layers = Layers::new();
    let mut left = most;
    for (vertex, outputs) in job.build.known_results(definition).await? {
        for (place, output) in outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            let chain = worker.known_layers(output).await?.unwrap_or_default();
            if chain.is_empty() {
                continue;
            }
            let Some(rest) = left.checked_sub(chain.len()) else {
                return Ok(layers);
            };
            left = rest;
            layers.push((vertex, place, chain));
        }
    }
    Ok(layers)
}
