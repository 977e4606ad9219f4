//! Caches in directories of this machine.
//!
//! The daemon reads and writes blobs in them. Which of them is the cache is said by an `index.json`, as in any OCI
//! layout, which is the client's to read and to write.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cairn_session::content::{self, LayoutDir};
use serde_json::{Value, json};

use super::SolveOptions;
use crate::error::ClientError;

/// Annotation of a manifest in an index: its tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// The tag of a cache that is not given another one.
const LATEST: &str = "latest";
/// Key of the answer under which the daemon describes the manifest of an exported cache.
const MANIFEST: &str = "cache.manifest";
/// Largest index that is read.
const MAX_INDEX: u64 = 4 << 20;

/// The directories that a build reads caches from and writes them to.
#[derive(Debug, Default)]
pub(super) struct LocalCaches {
    sources: Vec<PathBuf>,
    /// With the tag that the new cache gets.
    targets: Vec<(PathBuf, String)>,
}

impl LocalCaches {
    /// Finds out what the options mean, and says in them which cache is to be imported.
    pub(super) async fn find(options: &mut SolveOptions) -> Result<Self, ClientError> {
        let mut caches = Self::default();
        let imports = options.cache_imports.iter_mut();
        for import in imports.filter(|entry| entry.r#type == "local") {
            let Some(dir) = import.attrs.get("src").map(PathBuf::from) else {
                continue;
            };
            if !import.attrs.contains_key("digest") {
                let tag = import.attrs.get("tag").map_or(LATEST, String::as_str);
                match read_index(&dir).await {
                    Ok(index) => {
                        let found = find_tag(&index, tag);
                        import.attrs.extend(found.map(|digest| ("digest".to_owned(), digest)));
                    }
                    // The daemon tells the user what it lacks; the build goes on without.
                    Err(error) => tracing::debug!(dir = %dir.display(), %error, "no cache to import"),
                }
            }
            caches.sources.push(dir);
        }
        for export in options.cache_exports.iter().filter(|entry| entry.r#type == "local") {
            let Some(dir) = export.attrs.get("dest").map(PathBuf::from) else {
                continue;
            };
            let made = tokio::fs::create_dir_all(dir.join("blobs/sha256")).await;
            made.map_err(|source| failed("a directory for the cache", source))?;
            let tag = export.attrs.get("tag").map_or(LATEST, String::as_str).to_owned();
            caches.targets.push((dir, tag));
        }
        Ok(caches)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.targets.is_empty()
    }

    /// The stores to read from.
    pub(super) fn sources(&self) -> impl Iterator<Item = (String, LayoutDir)> {
        self.sources.iter().map(|dir| store(dir))
    }

    /// The stores to write to.
    pub(super) fn targets(&self) -> BTreeMap<String, LayoutDir> {
        self.targets.iter().map(|(dir, _)| store(dir)).collect()
    }

    /// Enters the exported cache into the index of every directory that it went to.
    pub(super) async fn enter(&self, response: &BTreeMap<String, String>) -> Result<(), ClientError> {
        let Some(manifest) = response.get(MANIFEST).filter(|_| !self.targets.is_empty()) else {
            return Ok(());
        };
        let manifest: Value = serde_json::from_str(manifest)
            .map_err(|error| failed("the manifest of the cache", io::Error::other(error)))?;
        for (dir, tag) in &self.targets {
            let entered = enter(dir, tag, manifest.clone()).await;
            entered.map_err(|source| failed("the index of the cache", source))?;
        }
        Ok(())
    }
}

fn store(dir: &Path) -> (String, LayoutDir) {
    (content::cache_store(&dir.to_string_lossy()), LayoutDir(dir.to_owned()))
}

fn failed(what: &'static str, source: io::Error) -> ClientError {
    ClientError::LocalCache { what, source }
}

async fn read_index(dir: &Path) -> io::Result<Value> {
    let path = dir.join("index.json");
    let size = tokio::fs::metadata(&path).await?.len();
    if size > MAX_INDEX {
        return Err(io::Error::other(format!("{} has {size} bytes", path.display())));
    }
    serde_json::from_slice(&tokio::fs::read(&path).await?).map_err(io::Error::other)
}

fn tag_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(TAG)?.as_str()
}

fn find_tag(index: &Value, tag: &str) -> Option<String> {
    let mut entries = index.get("manifests")?.as_array()?.iter();
    let entry = entries.find(|entry| tag_of(entry) == Some(tag))?;
    Some(entry.get("digest")?.as_str()?.to_owned())
}

async fn enter(dir: &Path, tag: &str, mut manifest: Value) -> io::Result<()> {
    let mut entries = match read_index(dir).await {
        Ok(index) => index
            .get("manifests")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    entries.retain(|entry| tag_of(entry) != Some(tag));
    if let Some(fields) = manifest.as_object_mut() {
        let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(TAG.to_owned(), tag.into());
        }
    }
    entries.push(manifest);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let (index, dir) = (
        serde_json::to_vec_pretty(&index).map_err(io::Error::other)?,
        dir.to_owned(),
    );
    let written = tokio::task::spawn_blocking(move || {
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        for (name, bytes) in [("oci-layout", layout.as_slice()), ("index.json", &index)] {
            let staged = dir.join(format!(".{name}.new"));
            std::fs::write(&staged, bytes)?;
            std::fs::rename(&staged, dir.join(name))?;
        }
        Ok(())
    });
    written.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn caches_are_entered_and_found_by_tag() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = |digest: &str| json!({"mediaType": "m", "digest": digest, "size": 1});
        for (tag, digest) in [("latest", "sha256:a"), ("other", "sha256:b"), ("latest", "sha256:c")] {
            enter(dir.path(), tag, manifest(digest)).await.unwrap();
        }
        let index = read_index(dir.path()).await.unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        for (tag, digest) in [
            ("latest", Some("sha256:c")),
            ("other", Some("sha256:b")),
            ("none", None),
        ] {
            assert_eq!(find_tag(&index, tag).as_deref(), digest, "{tag}");
        }
        assert!(dir.path().join("oci-layout").exists());
        std::fs::write(dir.path().join("index.json"), "[").unwrap();
        assert!(enter(dir.path(), "latest", manifest("sha256:d")).await.is_err());
    }
}
