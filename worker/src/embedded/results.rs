//! What a result's name stands for, and looking into it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cairn_patterns::glob;
use cairn_solver::worker::{Comparison, ContentSelector, FailedState, FileStat, Ref, ResultId, WorkerError};

use super::view::layers_view;
use super::{EmbeddedWorker, failed};
use crate::checksum;
use crate::layer::{LayerError, LayerList, LayerStore};
use crate::service::UsageRecord;
use crate::tree::identity::{FileKey, TreeDigest};
use crate::tree::view::{self, Empty, Links, Located, View};
use crate::tree::{Tree, TreeRecord};

/// Names of trees begin with this; names of layer lists never do.
const TREE_PREFIX: &str = "tree-";
/// Most bytes that are read from one file on behalf of a frontend or client.
const MAX_READ: u64 = 16 << 20;
/// Most entries of a directory listed on behalf of a frontend or client.
const MAX_ENTRIES: usize = 200_000;

/// What a result is.
pub(super) enum Content {
    /// Layers, bottom first.
    Layers(LayerList),
    /// A client's directory.
    Tree(Tree),
}

impl Content {
    /// The result, kept for as long as the reference lives.
    pub(super) fn into_ref(self, id: &ResultId) -> Ref {
        match self {
            Self::Layers(list) => Ref::new(id.clone(), Arc::new(list)),
            Self::Tree(tree) => Ref::new(id.clone(), Arc::new(tree)),
        }
    }
}

/// The name of a tree as a result.
pub(super) fn tree_id(digest: TreeDigest) -> ResultId {
    ResultId::new(format!("{TREE_PREFIX}{}", hex::encode(digest.0)))
}

fn parse_tree_id(id: &ResultId) -> Option<TreeDigest> {
    let hex = id.as_str().strip_prefix(TREE_PREFIX)?;
    let mut digest = [0; 32];
    hex::decode_to_slice(hex, &mut digest).ok()?;
    Some(TreeDigest(digest))
}

impl EmbeddedWorker {
    /// What is called `id`; `None` if it is not there any more.
    pub(super) fn content(&self, id: &ResultId) -> Result<Option<Content>, WorkerError> {
        self.content_by(id, LayerStore::pin)
    }

    /// The same, for a build that comes to this result.
    pub(super) fn content_for_build(&self, id: &ResultId) -> Result<Option<Content>, WorkerError> {
        self.content_by(id, LayerStore::pin_for_build)
    }

    fn content_by(
        &self,
        id: &ResultId,
        pin: impl Fn(&LayerStore, &ResultId) -> Result<Option<LayerList>, LayerError>,
    ) -> Result<Option<Content>, WorkerError> {
        match parse_tree_id(id) {
            Some(digest) => {
                let tree = self.0.trees.tree(digest).map_err(|error| failed(&error))?;
                Ok(tree.map(Content::Tree))
            }
            None => {
                let list = pin(&self.0.layers, id).map_err(|error| failed(&error))?;
                Ok(list.map(Content::Layers))
            }
        }
    }

    /// Whether what is called `id` is there; does not count as a use.
    pub(super) fn knows(&self, id: &ResultId) -> Result<bool, WorkerError> {
        match parse_tree_id(id) {
            Some(digest) => {
                let tree = self.0.trees.tree(digest).map_err(|error| failed(&error))?;
                Ok(tree.is_some())
            }
            None => self.0.layers.has(id).map_err(|error| failed(&error)),
        }
    }

    /// Compares files of two results; `None` if one of them is not there any more. Blocks.
    pub(super) fn compare_results(
        &self,
        old: Option<&ResultId>,
        new: Option<&ResultId>,
        selector: &ContentSelector,
        limit: usize,
    ) -> Result<Option<Comparison>, WorkerError> {
        let pin = |id: Option<&ResultId>| -> Result<Option<Option<Ref>>, WorkerError> {
            let Some(id) = id else { return Ok(Some(None)) };
            Ok(self.content(id)?.map(|content| Some(content.into_ref(id))))
        };
        let (Some(old), Some(new)) = (pin(old)?, pin(new)?) else {
            return Ok(None);
        };
        let (old, new) = (self.view(old.as_ref())?, self.view(new.as_ref())?);
        let compared = checksum::compare(&*old, &*new, selector, limit);
        compared.map(Some).map_err(|error| failed(&error))
    }

    fn content_of(&self, input: &Ref) -> Result<Content, WorkerError> {
        let found = self.content(input.id())?;
        found.ok_or_else(|| WorkerError::NotFound(format!("result {} is not there any more", input.id())))
    }

    /// The layers of a result; a tree is laid out as one first. Blocks.
    pub(super) fn layers_of(&self, input: Option<&Ref>) -> Result<LayerList, WorkerError> {
        let Some(input) = input else {
            return Ok(self.0.layers.scratch());
        };
        match self.content_of(input)? {
            Content::Layers(list) => Ok(list),
            Content::Tree(tree) => {
                let layer = self
                    .0
                    .layers
                    .prepare(&self.0.layers.scratch())
                    .map_err(|error| failed(&error))?;
                let links = crate::fileop::lay_out(&tree, layer.upper(), &|| false);
                let links = links.map_err(|error| failed(&error))?;
                let describe = crate::layer::Describe {
                    description: "files of a client's directory".to_owned(),
                    record_type: "internal".to_owned(),
                };
                let list = layer.commit(&describe).map_err(|error| failed(&error))?;
                self.remember_links(&list, &links)?;
                Ok(list)
            }
        }
    }

    /// Keeps in mind which stored files the topmost layer of a list holds links to. Blocks.
    pub(super) fn remember_links(&self, list: &LayerList, files: &[FileKey]) -> Result<(), WorkerError> {
        match list.top() {
            Some(top) if !files.is_empty() => {
                let recorded = self.0.trees.record_links(top.as_str(), files);
                recorded.map_err(|error| failed(&error))
            }
            _ => Ok(()),
        }
    }

    /// Makes a list of layers a result; nothing at all is scratch. Blocks.
    pub(super) fn record(&self, list: &LayerList) -> Result<Option<Ref>, WorkerError> {
        if list.is_empty() {
            return Ok(None);
        }
        let id = self.0.layers.record_result(list).map_err(|error| failed(&error))?;
        Ok(Some(Ref::new(id, Arc::new(list.clone()))))
    }

    /// Makes what a failed step left known, until nobody holds it any more. Blocks.
    pub(super) fn left_behind(&self, left: &[Option<LayerList>]) -> Result<Vec<Option<Ref>>, WorkerError> {
        let known = left.iter().map(|list| match list {
            Some(list) if !list.is_empty() => {
                let known = self.0.layers.record_transient(list);
                let (id, held) = known.map_err(|error| failed(&error))?;
                Ok(Some(Ref::new(id, Arc::new(held))))
            }
            _ => Ok(None),
        });
        known.collect()
    }

    /// The files of a result, to read. Blocks.
    pub(super) fn view(&self, input: Option<&Ref>) -> Result<Arc<dyn View>, WorkerError> {
        let Some(input) = input else {
            return Ok(Arc::new(Empty));
        };
        match self.content_of(input)? {
            Content::Tree(tree) => Ok(Arc::new(tree)),
            Content::Layers(list) => layers_view(&self.0.layers, &list).map_err(|error| failed(&error)),
        }
    }
}

/// Errors about files have the words that clients look for.
fn file_error(call: &str, path: &Path, error: &std::io::Error) -> WorkerError {
    let text = format!("{call} {}: {}", path.display(), crate::fileop::reason(error));
    if error.kind() == std::io::ErrorKind::NotFound {
        WorkerError::NotFound(text)
    } else {
        WorkerError::Failed(text)
    }
}

/// A failure that can be looked into; without that, if what there was could not be kept.
pub(super) fn with_state(error: WorkerError, state: Result<FailedState, WorkerError>) -> WorkerError {
    match state {
        Ok(state) => WorkerError::Step {
            source: Box::new(error),
            state: Arc::new(state),
        },
        Err(cause) => {
            tracing::warn!(error = %cause, "what a failed step left cannot be looked into");
            error
        }
    }
}

fn locate(view: &dyn View, path: &Path, links: Links, call: &str) -> Result<Located, WorkerError> {
    let found = view::find(view, path, links).map_err(|error| file_error(call, path, &error))?;
    found.ok_or_else(|| WorkerError::NotFound(format!("{call} {}: no such file or directory", path.display())))
}

/// Reads a file, or a part of it.
pub(super) fn read_file(view: &dyn View, path: &Path, range: Option<(u64, u64)>) -> Result<Bytes, WorkerError> {
    use std::io::{Read, Seek, SeekFrom};
    let at = locate(view, path, Links::Follow, "open")?;
    if !at.node.is_file() {
        return Err(WorkerError::Invalid(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    let (offset, length) = match range {
        None if at.node.size() > MAX_READ => {
            return Err(WorkerError::Invalid(format!(
                "{} has {} bytes: at most {MAX_READ} can be read at once",
                path.display(),
                at.node.size()
            )));
        }
        None => (0, MAX_READ),
        Some((offset, length)) => (offset, length.min(MAX_READ)),
    };
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = view.open(&at)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut data = Vec::new();
        file.take(length).read_to_end(&mut data)?;
        Ok(data)
    };
    read()
        .map(Bytes::from)
        .map_err(|error| file_error("read", path, &error))
}

/// Lists a directory.
pub(super) fn read_dir(view: &dyn View, path: &Path, include: Option<&[u8]>) -> Result<Vec<FileStat>, WorkerError> {
    let at = locate(view, path, Links::Follow, "open")?;
    let entries = view.list(&at).map_err(|error| file_error("readdirent", path, &error))?;
    let mut stats = Vec::new();
    for (name, node) in entries {
        let wanted = match include {
            None => true,
            Some(pattern) => {
                glob::matches(pattern, name.as_bytes()).map_err(|error| WorkerError::Invalid(error.to_string()))?
            }
        };
        if wanted {
            let at = Located {
                path: at.path.join(name),
                node,
            };
            stats.push(view::file_stat(view, &at).map_err(|error| file_error("lstat", path, &error))?);
        }
        if stats.len() > MAX_ENTRIES {
            return Err(WorkerError::Invalid(format!(
                "{} has more than {MAX_ENTRIES} entries",
                path.display()
            )));
        }
    }
    Ok(stats)
}

/// Describes a file.
pub(super) fn stat_file(view: &dyn View, path: &Path) -> Result<FileStat, WorkerError> {
    let at = locate(view, path, Links::Keep, "lstat")?;
    let mut stat = view::file_stat(view, &at).map_err(|error| file_error("lstat", path, &error))?;
    if stat.path.is_empty() {
        stat.path = "/".into();
    }
    Ok(stat)
}

/// A tree as a record of disk usage.
pub(super) fn tree_usage(tree: &TreeRecord) -> UsageRecord {
    let time = |ns: i64| SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    UsageRecord {
        id: tree_id(tree.digest).as_str().to_owned(),
        // What the client sends next goes into the same directory, as far as it can tell.
        mutable: true,
        in_use: false,
        size: tree.bytes,
        parents: Vec::new(),
        created_at: time(tree.created_ns),
        last_used_at: Some(time(tree.last_used_ns)),
        usage_count: tree.uses,
        description: format!("local source for {}", tree.name),
        record_type: "source.local".to_owned(),
        shared: false,
    }
}
