//! Images as tar files: OCI layouts, and the same with what `docker load` needs.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use cairn_solver::Digest;
use cairn_solver::Reference;
use jiff::Timestamp;
use serde::Serialize;

use super::descriptor::Descriptor;
use super::document::{Content, Document};
use super::media_type::OCI_INDEX;
use super::tree::{ImageTree, TreeError};
use crate::archive::{ArchiveError, Entry, EntryKind, TarWriter};
use crate::content::{ContentError, ContentStore};

/// Which files the tar has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutKind {
    /// An OCI image layout.
    Oci,
    /// An OCI image layout with Docker's `manifest.json`, which can name one image, and not an index.
    Docker,
}

/// Why a layout cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The image is not complete, or broken.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A blob is missing or cannot be read.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The tar cannot be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file of the layout cannot be written down.
    #[error("failed to write layout metadata")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayoutIndex {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Mode of files that never change.
const FIXED: u32 = 0o444;
/// Mode of the lists of what is there, to which whoever unpacks a layout may want to add.
const LIST: u32 = 0o644;

/// Writes the image `root` under `names` to `writer`, with every blob it consists of, which `store` must have. Blocks.
///
/// The bytes depend on the arguments alone. `created` goes into the index's annotations.
///
/// # Errors
/// [`LayoutError`].
pub fn write_layout<W: Write>(
    kind: LayoutKind,
    root: &Document,
    names: &[Reference],
    created: Option<Timestamp>,
    store: &ContentStore,
    writer: W,
) -> Result<W, LayoutError> {
    let docker = match kind {
        LayoutKind::Oci => None,
        LayoutKind::Docker => docker_manifest(root, names),
    };
    let tree = ImageTree::of(root, store)?;
    let blobs = tree.blobs.iter().map(|blob| (blob.digest, blob.size));
    let documents = tree
        .documents
        .iter()
        .map(|document| (document.digest(), document.descriptor.size));
    let blobs: BTreeMap<Digest, u64> = blobs.chain(documents).collect();
    let mut tar = TarWriter::new(writer);
    for dir in ["blobs/", "blobs/sha256/"] {
        tar.append(&Entry::new(dir, EntryKind::Directory, 0o755), io::empty())?;
    }
    for (digest, size) in blobs {
        let blob = store.reader(&digest)?;
        append(&mut tar, &blob_path(&digest), FIXED, size, blob)?;
    }
    let index = LayoutIndex {
        schema_version: 2,
        media_type: OCI_INDEX,
        manifests: entries(root, names, created),
    };
    append_json(&mut tar, "index.json", LIST, &index)?;
    if let Some(docker) = docker {
        append_json(&mut tar, "manifest.json", LIST, &[docker])?;
    }
    append_json(
        &mut tar,
        "oci-layout",
        FIXED,
        &serde_json::json!({ "imageLayoutVersion": "1.0.0" }),
    )?;
    Ok(tar.finish()?)
}

/// A reference as Docker's users write it: without what is implied.
pub fn familiar_name(reference: &Reference) -> String {
    let mut name = reference.familiar_name();
    name.extend(reference.tag().into_iter().flat_map(|tag| [":", tag]));
    if let Some(digest) = reference.digest() {
        name.extend(["@", &digest.to_string()]);
    }
    name
}

/// One entry per name; one without a name when there is none.
fn entries(root: &Document, names: &[Reference], created: Option<Timestamp>) -> Vec<Descriptor> {
    let entry = |name: Option<&Reference>| {
        let mut entry = root.descriptor.clone();
        let mut annotate = |key: &str, value: String| drop(entry.annotations.insert(key.to_owned(), value));
        if let Some(name) = name {
            annotate("io.containerd.image.name", name.to_string());
            if let Some(tag) = name.tag() {
                annotate("org.opencontainers.image.ref.name", tag.to_owned());
            }
        }
        if let Some(created) = created {
            annotate("org.opencontainers.image.created", created.to_string());
        }
        entry
    };
    match names {
        [] => vec![entry(None)],
        names => names.iter().map(|name| entry(Some(name))).collect(),
    }
}

fn docker_manifest(root: &Document, names: &[Reference]) -> Option<DockerImage> {
    let Content::Manifest { config, layers } = &root.content else {
        return None;
    };
    let tags: Vec<String> = names
        .iter()
        .filter(|name| name.tag().is_some())
        .map(familiar_name)
        .collect();
    Some(DockerImage {
        config: blob_path(&config.digest),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn append_json<W: Write>(
    tar: &mut TarWriter<W>,
    path: &str,
    mode: u32,
    json: &impl Serialize,
) -> Result<(), LayoutError> {
    let bytes = serde_json::to_vec(json)?;
    append(tar, path, mode, bytes.len() as u64, &bytes[..])
}

fn append<W: Write>(
    tar: &mut TarWriter<W>,
    path: &str,
    mode: u32,
    size: u64,
    data: impl Read,
) -> Result<(), LayoutError> {
    let entry = Entry {
        size,
        ..Entry::new(path, EntryKind::File, mode)
    };
    Ok(tar.append(&entry, data)?)
}
