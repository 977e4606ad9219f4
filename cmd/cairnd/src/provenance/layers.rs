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
    let (mut places, mut results) = (Vec::new(), Vec::new());
    for (vertex, outputs) in job.build.known_results(definition).await? {
        for (place, output) in outputs.into_iter().enumerate() {
            if let Some(output) = output {
                places.push((vertex, place));
                results.push(output);
            }
        }
    }
    let known = job.forwarder.worker.known_layers(results, most).await?;
    let named = places.into_iter().zip(known);
    let named = named.filter_map(|((vertex, place), chain)| Some((vertex, place, chain?)));
    Ok(named.filter(|(_, _, chain)| !chain.is_empty()).collect())
}
