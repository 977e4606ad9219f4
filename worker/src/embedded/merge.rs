//! Results made of other results' layers.

use std::collections::HashSet;

use cairn_solver::llb::{Op, Vertex};
use cairn_solver::worker::{Ref, WorkerError};

use super::{EmbeddedWorker, blocking, failed};
use crate::layer::{Describe, LayerId, LayerList};
use crate::tree::FileKey;

impl EmbeddedWorker {
    /// Lays results over one another.
    pub(super) async fn merge(&self, order: &[usize], inputs: &[Option<Ref>]) -> Result<Option<Ref>, WorkerError> {
        let inputs: Vec<Ref> = order.iter().filter_map(|&index| inputs[index].clone()).collect();
        let worker = self.clone();
        blocking(move || {
            let lists = inputs.iter().map(|input| worker.layers_of(Some(input)));
            let mut lists: Vec<LayerList> = lists.collect::<Result<_, _>>()?;
            for list in lists.iter_mut().skip(1) {
                *list = worker.0.layers.without_times(list).map_err(|error| failed(&error))?;
            }
            let lists = worker.separate(lists)?;
            worker.record(&worker.0.layers.scratch().merge(&lists))
        })
        .await
    }

    /// What makes `upper` of `lower`: the layers that it adds or, if it is not built on it, what differs.
    pub(super) async fn diff(
        &self,
        lower: Option<Ref>,
        upper: Option<Ref>,
        vertex: &Vertex,
    ) -> Result<Option<Ref>, WorkerError> {
        if let Op::Diff { lower, upper } = &vertex.op
            && let (Some(lower), Some(upper)) = (lower, upper)
            && vertex.inputs[*lower] == vertex.inputs[*upper]
        {
            // Nothing at all, where two that happen to be the same differ by an empty layer.
            return Ok(None);
        }
        let worker = self.clone();
        let describe = Describe {
            description: vertex.name(),
            record_type: "regular".to_owned(),
        };
        blocking(move || {
            let lower = worker.layers_of(lower.as_ref())?;
            let upper = worker.layers_of(upper.as_ref())?;
            let layers = &worker.0.layers;
            let difference = if lower.is_empty() {
                Ok(upper)
            } else if upper.ids().starts_with(lower.ids()) {
                layers.without_times(&upper.above(lower.ids().len()))
            } else {
                layers.difference(&lower, &upper, &describe)
            };
            let difference = difference.map_err(|error| failed(&error))?;
            layers.cover_deletions(&difference).map_err(|error| failed(&error))?;
            worker.record(&difference)
        })
        .await
    }

    /// The same layers, but no stored file is linked into two of them.
    ///
    /// Layers that were made apart do not know of each other; under one mount two names of one stored file would look
    /// like hard links, which `cp` refuses to copy over one another. The later layer gets files of its own then.
    fn separate(&self, lists: Vec<LayerList>) -> Result<Vec<LayerList>, WorkerError> {
        let mut layers: HashSet<LayerId> = HashSet::new();
        let mut files: HashSet<FileKey> = HashSet::new();
        let mut separated = Vec::with_capacity(lists.len());
        for list in lists {
            let mut parts = Vec::with_capacity(list.ids().len());
            for (position, id) in list.ids().iter().enumerate() {
                let part = list.above(position).bottom(1);
                let is_new = layers.insert(id.clone());
                let links = self.0.trees.links_of([id.as_str()]).map_err(|error| failed(&error))?;
                if is_new && links.iter().any(|file| files.contains(file)) {
                    parts.push(self.0.layers.copy_layer(id).map_err(|error| failed(&error))?);
                } else {
                    files.extend(links);
                    parts.push(part);
                }
            }
            separated.push(self.0.layers.scratch().merge(&parts));
        }
        Ok(separated)
    }
}
