//! File operations on layers.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use cairn_solver::llb::{FileOp, Vertex};
use cairn_solver::worker::{CallContext, FailedState, FailedSubject, Ref, WorkerError};

use super::results::with_state;
use super::view::layers_view;
use super::{EmbeddedWorker, blocking, failed};
use crate::compression::{self, Limits};
use crate::fileop::{self, Base, FileOpError, FileOpMounts, LayerMount, MountError, Unpack};
use crate::layer::{Describe, LayerId, LayerList, Mounted, WritableLayer};
use crate::sys::Root;
use crate::tree::{FileKey, View};

impl EmbeddedWorker {
    /// Applies a file operation.
    pub(super) async fn change_files(
        &self,
        op: &FileOp,
        vertex: &Vertex,
        inputs: &[Option<Ref>],
        context: &CallContext,
    ) -> Result<Vec<Option<Ref>>, WorkerError> {
        let describe = Describe {
            description: vertex.name(),
            record_type: "regular".to_owned(),
        };
        let (worker, op, inputs, cancel) = (self.clone(), op.clone(), inputs.to_vec(), context.cancel.clone());
        blocking(move || {
            let mut mounts = LayerMounts {
                worker: &worker,
                inputs: &inputs,
                describe,
                held: Vec::new(),
                failed: None,
            };
            let is_cancelled = || cancel.is_cancelled();
            let made = fileop::apply(&op, &mut mounts, &ArchiveUnpack, &is_cancelled);
            let failed_at = mounts.failed.take();
            let made = made.map_err(|error| {
                let error = match error {
                    FileOpError::Cancelled => return WorkerError::Cancelled,
                    error if error.is_not_found() => WorkerError::NotFound(error.to_string()),
                    error => failed(&error),
                };
                let Some((action, state)) = failed_at else {
                    return error;
                };
                let mut left = vec![None; op.actions.len()];
                left[action] = state;
                let state = worker.left_behind(&left).map(|left| FailedState {
                    inputs: inputs.clone(),
                    left,
                    subject: FailedSubject::Action(action),
                });
                with_state(error, state)
            })?;
            made.iter().map(|list| worker.record(list)).collect()
        })
        .await
    }
}

/// The layers of one file operation.
struct LayerMounts<'a> {
    worker: &'a EmbeddedWorker,
    inputs: &'a [Option<Ref>],
    describe: Describe,
    /// Mounts that are looked into until the operation ends.
    held: Vec<Mounted>,
    /// The action that failed, and what it left.
    failed: Option<(usize, Option<LayerList>)>,
}

impl LayerMounts<'_> {
    fn list(&self, base: Base<'_, LayerList>) -> Result<LayerList, MountError> {
        Ok(match base {
            Base::Scratch => self.worker.0.layers.scratch(),
            Base::Input(index) => self.worker.layers_of(self.inputs[index].as_ref())?,
            Base::Result(list) => list.clone(),
        })
    }
}

impl FileOpMounts for LayerMounts<'_> {
    type Layer = OpenLayer;
    type Result = LayerList;

    fn begin(&mut self, base: Base<'_, LayerList>) -> Result<OpenLayer, MountError> {
        let parents = self.list(base)?;
        let lower = if parents.is_empty() {
            None
        } else {
            Some(self.worker.0.layers.mount_readonly(&parents)?)
        };
        Ok(OpenLayer {
            layer: self.worker.0.layers.prepare(&parents)?,
            lower,
            mounted: None,
        })
    }

    fn source(&mut self, of: Base<'_, LayerList>) -> Result<Arc<dyn View>, MountError> {
        if let Base::Input(index) = of {
            return Ok(self.worker.view(self.inputs[index].as_ref())?);
        }
        let list = self.list(of)?;
        Ok(layers_view(&self.worker.0.layers, &list)?)
    }

    fn accounts(&mut self, of: Base<'_, LayerList>) -> Result<Arc<Root>, MountError> {
        let list = self.list(of)?;
        let mounted = self.worker.0.layers.mount_readonly(&list)?;
        let root = mounted.root().try_clone()?;
        self.held.push(mounted);
        Ok(Arc::new(root))
    }

    fn commit(&mut self, layer: OpenLayer) -> Result<LayerList, MountError> {
        let OpenLayer { layer, lower, mounted } = layer;
        if let Some(mounted) = mounted {
            mounted.unmount()?;
        }
        let below = lower.as_ref().map(Mounted::root);
        Ok(layer.commit_over(below, &self.describe)?)
    }

    fn failed(&mut self, action: usize, left: Option<LayerList>) {
        self.failed = Some((action, left));
    }

    fn links_below(&mut self, base: Base<'_, LayerList>) -> Result<HashSet<FileKey>, MountError> {
        let list = self.list(base)?;
        Ok(self.worker.0.trees.links_of(list.ids().iter().map(LayerId::as_str))?)
    }

    fn remember_links(&mut self, result: &LayerList, files: &[FileKey]) -> Result<(), MountError> {
        Ok(self.worker.remember_links(result, files)?)
    }
}

/// A layer that is being changed.
struct OpenLayer {
    layer: WritableLayer,
    lower: Option<Mounted>,
    mounted: Option<Mounted>,
}

impl LayerMount for OpenLayer {
    fn upper(&self) -> &Root {
        self.layer.upper()
    }

    fn lower(&self) -> Option<&Root> {
        self.lower.as_ref().map(Mounted::root)
    }

    fn mount(&mut self) -> Result<Root, MountError> {
        let mounted = self.layer.mount()?;
        let root = mounted.root().try_clone()?;
        self.mounted = Some(mounted);
        Ok(root)
    }
}

/// Extracts tar archives, compressed or not, as ADD does.
struct ArchiveUnpack;

impl Unpack for ArchiveUnpack {
    fn is_archive(&self, file: &mut File) -> io::Result<bool> {
        /// A tar's first header, with its mark at 257.
        const HEADER: u64 = 512;
        let Ok(tar) = compression::decompress_archive(&mut *file, Limits::default()) else {
            return Ok(false);
        };
        let mut header = Vec::new();
        let read = tar.take(HEADER).read_to_end(&mut header);
        file.seek(SeekFrom::Start(0))?;
        // Data that only looks compressed is no archive either.
        Ok(read.is_ok() && crate::archive::is_tar_header(&header))
    }

    fn extract(&self, file: File, into: &Root, owner: Option<(u32, u32)>) -> io::Result<()> {
        let tar = compression::decompress_archive(file, Limits::default()).map_err(io::Error::other)?;
        crate::archive::extract(tar, into, owner)
            .map(drop)
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn archives_are_known_by_what_is_in_them() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o640);
        tar.append_data(&mut header, "d/f", &b"hi"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let bzip2 = |data: &[u8]| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        };
        for (data, is_archive) in [
            (tar.clone(), true),
            (bzip2(&tar), true),
            (bzip2(b"text"), false),
            (b"BZh is no more than text".to_vec(), false),
            (b"\xfd7zXZ\0 neither".to_vec(), false),
            (Vec::new(), false),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&data).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            assert_eq!(ArchiveUnpack.is_archive(&mut file).unwrap(), is_archive, "{data:.20?}");
            if is_archive {
                let dir = tempfile::tempdir().unwrap();
                ArchiveUnpack
                    .extract(file, &Root::open(dir.path()).unwrap(), Some((0, 0)))
                    .unwrap();
                assert_eq!(std::fs::read(dir.path().join("d/f")).unwrap(), b"hi");
            }
        }
    }
}
