//! Results made of other results' layers.

use std::collections::HashSet;
use std::io::{BufReader, BufWriter, Seek, SeekFrom};

use cairn_solver::llb::Vertex;
use cairn_solver::worker::{Ref, WorkerError};

use super::{EmbeddedWorker, blocking, failed};
use crate::archive::{self, ApplyOptions, PackOptions};
use crate::layer::{Describe, LayerId, LayerList};
use crate::tree::FileKey;

impl EmbeddedWorker {
    /// Lays results over one another.
    pub(super) async fn merge(&self, order: &[usize], inputs: &[Option<Ref>]) -> Result<Option<Ref>, WorkerError> {
        let inputs: Vec<Ref> = order.iter().filter_map(|&index| inputs[index].clone()).collect();
        let worker = self.clone();
        blocking(move || {
            let lists = inputs.iter().map(|input| worker.layers_of(Some(input)));
            let lists = worker.separate(lists.collect::<Result<_, _>>()?)?;
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
        let worker = self.clone();
        let describe = Describe {
            description: vertex.name(),
            record_type: "regular".to_owned(),
        };
        blocking(move || {
            let lower = worker.layers_of(lower.as_ref())?;
            let upper = worker.layers_of(upper.as_ref())?;
            let layers = &worker.0.layers;
            let difference = if upper.ids().starts_with(lower.ids()) {
                Ok(upper.above(lower.ids().len()))
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
                    parts.push(self.copy_layer(id)?);
                } else {
                    files.extend(links);
                    parts.push(part);
                }
            }
            separated.push(self.0.layers.scratch().merge(&parts));
        }
        Ok(separated)
    }

    /// A layer with the same contents in files of its own.
    fn copy_layer(&self, id: &LayerId) -> Result<LayerList, WorkerError> {
        let layers = &self.0.layers;
        let record = layers.layer(id).map_err(|error| failed(&error))?;
        let describe = record.map(|record| record.describe).unwrap_or_default();
        let original = layers.layer_root(id).map_err(|error| failed(&error))?;
        let copy = layers.prepare(&layers.scratch()).map_err(|error| failed(&error))?;
        let file = tempfile::tempfile_in(&self.0.root).map_err(|error| failed(&error))?;
        let packed = archive::pack(&original, &PackOptions::default(), BufWriter::new(file));
        let packed = packed.map_err(|error| failed(&error))?.into_inner();
        let mut file = packed.map_err(|error| failed(&error))?;
        file.seek(SeekFrom::Start(0)).map_err(|error| failed(&error))?;
        archive::apply(BufReader::new(file), copy.upper(), &ApplyOptions::default()).map_err(|error| failed(&error))?;
        copy.commit(&describe).map_err(|error| failed(&error))
    }
}
