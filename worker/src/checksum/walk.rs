//! The content hash of a file or directory.
//!
//! First the directory is listed as one flat list, parents before children; then the files are hashed, all processors
//! at once; then the list is folded from its end. So neither depth nor size of a directory costs stack.

use rayon::prelude::*;

use super::ChecksumCause;
use super::select::{Filter, FilterState, read_error};
use crate::tree::identity::{self, ContentHash, Parts};
use crate::tree::node::Xattrs;
use crate::tree::view::{self, Located, View};

/// The content hash of what is at `top` with everything below that counts.
pub(super) fn content(view: &dyn View, top: &Located, filter: Option<&Filter>) -> Result<ContentHash, ChecksumCause> {
    match filter {
        Some(filter) if top.node.is_dir() => filtered(view, top, filter),
        // Patterns are about what is below a directory: a file itself is never left out.
        _ => whole(view, top),
    }
}

fn whole(view: &dyn View, top: &Located) -> Result<ContentHash, ChecksumCause> {
    if let Some(known) = view.known_content(&top.node) {
        return Ok(known);
    }
    let listed = list(view, top)?;
    let hashed: Result<Vec<Hashed>, ChecksumCause> = listed.par_iter().map(|(_, at)| hash(view, at)).collect();
    Ok(fold(&listed, hashed?))
}

/// Everything at and below `top`, parents before children, siblings in order; with the depth of each.
fn list(view: &dyn View, top: &Located) -> Result<Vec<(usize, Located)>, ChecksumCause> {
    let mut listed = Vec::new();
    let mut pending = vec![(0, top.clone())];
    while let Some((depth, at)) = pending.pop() {
        if at.node.is_dir() {
            let children = view::children(view, &at).map_err(|source| read_error(&at.path, source))?;
            pending.extend(children.into_iter().rev().map(|child| (depth + 1, child)));
        }
        listed.push((depth, at));
    }
    Ok(listed)
}

enum Hashed {
    Leaf(ContentHash),
    Dir(Xattrs),
}

fn hash(view: &dyn View, at: &Located) -> Result<Hashed, ChecksumCause> {
    let failed = |source| read_error(&at.path, source);
    let has_xattrs = at.node.is_dir() || at.node.is_file();
    let xattrs = if has_xattrs {
        view.xattrs(at).map_err(failed)?
    } else {
        Xattrs::new()
    };
    if at.node.is_dir() {
        return Ok(Hashed::Dir(xattrs));
    }
    let bytes = at
        .node
        .is_file()
        .then(|| view.bytes_hash(at))
        .transpose()
        .map_err(failed)?;
    Ok(Hashed::Leaf(identity::leaf(&at.node, &xattrs, bytes.as_ref())))
}

/// Combines hashes from the last to the first: when a directory is reached, what is below it is done.
fn fold(listed: &[(usize, Located)], hashed: Vec<Hashed>) -> ContentHash {
    // Finished siblings, last first: their depth, index and hash.
    let mut finished: Vec<(usize, usize, ContentHash)> = Vec::new();
    for (index, ((depth, at), hashed)) in listed.iter().zip(hashed).enumerate().rev() {
        let content = match hashed {
            Hashed::Leaf(content) => content,
            Hashed::Dir(xattrs) => {
                let below = finished
                    .iter()
                    .rposition(|(other, _, _)| other <= depth)
                    .map_or(0, |at| at + 1);
                let children: Vec<_> = finished.drain(below..).rev().collect();
                let entries = children.iter().map(|(_, child, content)| {
                    let name = listed[*child].1.path.file_name().unwrap_or_default();
                    (name.as_encoded_bytes(), *content)
                });
                identity::directory(&at.node, &xattrs, entries)
            }
        };
        finished.push((*depth, index, content));
    }
    finished
        .first()
        .map(|(_, _, content)| *content)
        .expect("the list holds at least the top")
}

/// With patterns, the hash is over the flat list of what counts and of the directories that lead to it, since a copy
/// makes exactly those.
fn filtered(view: &dyn View, top: &Located, filter: &Filter) -> Result<ContentHash, ChecksumCause> {
    let mut listed: Vec<Located> = Vec::new();
    // Directories that are made only if something below them counts.
    let mut waiting: Vec<Located> = Vec::new();
    let mut pending: Vec<(Located, FilterState)> = vec![(top.clone(), filter.top())];
    while let Some((at, state)) = pending.pop() {
        let is_top = at.path == top.path;
        while waiting.last().is_some_and(|dir| !at.path.starts_with(&dir.path)) {
            waiting.pop();
        }
        if state.counts() || is_top {
            listed.append(&mut waiting);
            listed.push(at.clone());
        } else if at.node.is_dir() {
            waiting.push(at.clone());
        }
        if at.node.is_dir() && state.may_count_below() {
            let children = view::children(view, &at).map_err(|source| read_error(&at.path, source))?;
            for child in children.into_iter().rev() {
                let name = child.path.file_name().unwrap_or_default();
                let state = filter.enter(&state, name)?;
                pending.push((child, state));
            }
        }
    }
    let hashed: Result<Vec<Hashed>, ChecksumCause> = listed.par_iter().map(|at| hash(view, at)).collect();
    let mut parts = Parts::new("filtered");
    for (at, hashed) in listed.iter().zip(hashed?) {
        let content = match hashed {
            Hashed::Leaf(content) => content,
            Hashed::Dir(xattrs) => identity::leaf(&at.node, &xattrs, None),
        };
        let relative = at.path.strip_prefix(&top.path).unwrap_or(&at.path);
        parts.bytes(relative.as_os_str().as_encoded_bytes()).bytes(&content.0);
    }
    Ok(ContentHash(parts.finish()))
}
