//! Named contexts: `--build-context NAME=VALUE`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::CliError;
use crate::surroundings::Surroundings;

const LAYOUT: &str = "oci-layout://";
/// What a value may begin with that the daemon finds by itself.
const REMOTE: [&str; 9] = [
    "docker-image://",
    "http://",
    "https://",
    "git://",
    "ssh://",
    "git@",
    "github.com/",
    "target:",
    "input:",
];
/// Largest `index.json` of a layout.
const MAX_INDEX: u64 = 4 << 20;
/// The tag that is meant when none is given.
const LATEST: &str = "latest";

/// What named contexts need of this machine.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct NamedContexts {
    /// Directories, by the name under which the daemon asks for them.
    pub(crate) dirs: BTreeMap<String, PathBuf>,
    /// OCI layouts, by the name under which the daemon asks for them.
    pub(crate) layouts: BTreeMap<String, PathBuf>,
}

impl NamedContexts {
    /// Finds everything, and says in `attrs` what the frontend has to know.
    pub(super) fn find(
        args: &[String],
        attrs: &mut BTreeMap<String, String>,
        surroundings: &Surroundings,
    ) -> Result<Self, CliError> {
        let mut found = Self::default();
        for arg in args {
            let (name, value) = arg
                .split_once('=')
                .ok_or_else(|| CliError::usage(format!("invalid context value: {arg}, expected key=value")))?;
            let value = found.value(familiar(name)?, value, surroundings)?;
            attrs.insert(format!("context:{}", familiar(name)?), value);
        }
        Ok(found)
    }

    fn value(&mut self, name: &str, value: &str, surroundings: &Surroundings) -> Result<String, CliError> {
        if let Some(layout) = value.strip_prefix(LAYOUT) {
            let layout = LayoutReference::parse(name, layout, surroundings)?;
            let store = format!("layout{}", self.layouts.len());
            let value = format!("{LAYOUT}{store}:{}@{}", layout.tag, layout.digest);
            self.layouts.insert(store, layout.path);
            return Ok(value);
        }
        if REMOTE.iter().any(|prefix| value.starts_with(prefix)) {
            return Ok(value.to_owned());
        }
        let path = surroundings.path(value);
        if value.is_empty() || !path.is_dir() {
            let problem = if path.exists() {
                "is not a directory"
            } else {
                "does not exist"
            };
            return Err(CliError::usage(format!("the build context {name}={value:?} {problem}")));
        }
        // These two are the build's own.
        let local = match name {
            "context" | "dockerfile" => format!("_{name}"),
            name => name.to_owned(),
        };
        self.dirs.insert(local.clone(), path);
        Ok(format!("local:{local}"))
    }
}

/// The name as frontends look it up: without what goes without saying.
fn familiar(name: &str) -> Result<&str, CliError> {
    let short = name
        .strip_prefix("docker.io/library/")
        .or_else(|| name.strip_prefix("docker.io/"));
    let short = short.unwrap_or(name);
    let short = short.strip_suffix(":latest").unwrap_or(short);
    let is_name = short.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && short.bytes().all(
            |byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b':' | b'@'),
        );
    is_name
        .then_some(short)
        .ok_or_else(|| CliError::usage(format!("invalid context name {name}")))
}

/// `path[:tag][@digest]`, found.
struct LayoutReference {
    path: PathBuf,
    tag: String,
    digest: String,
}

impl LayoutReference {
    fn parse(name: &str, text: &str, surroundings: &Surroundings) -> Result<Self, CliError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (rest, LATEST),
        };
        let path = surroundings.path(path);
        let digest = match digest {
            Some(digest) => digest,
            None => find_digest(&path, tag)?.ok_or_else(|| {
                CliError::usage(format!("build context {name}: there is no image {tag:?} in {path:?}"))
            })?,
        };
        let hash = digest.strip_prefix("sha256:").unwrap_or_default();
        if hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(CliError::usage(format!(
                "build context {name}: invalid digest {digest:?}"
            )));
        }
        if !path.join("blobs").is_dir() {
            return Err(CliError::usage(format!(
                "build context {name}: {path:?} is no OCI layout"
            )));
        }
        Ok(Self {
            path,
            tag: tag.to_owned(),
            digest,
        })
    }
}

/// The manifest or index that a layout calls `tag`; where there is only one, that.
fn find_digest(layout: &Path, tag: &str) -> Result<Option<String>, CliError> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        digest: String,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let path = layout.join("index.json");
    let failed = |source| CliError::File {
        action: "read",
        path: path.clone(),
        source,
    };
    let mut json = Vec::new();
    let file = std::fs::File::open(&path).map_err(failed)?;
    file.take(MAX_INDEX).read_to_end(&mut json).map_err(failed)?;
    let index: Index = serde_json::from_slice(&json).map_err(|error| CliError::Malformed {
        what: path.display().to_string(),
        reason: error.to_string(),
    })?;
    let is_meant = |entry: &&Entry| {
        let names = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
        names
            .iter()
            .any(|name| entry.annotations.get(*name).is_some_and(|name| name == tag))
    };
    let found = index.manifests.iter().find(is_meant).or(match &index.manifests[..] {
        [only] => Some(only),
        _ => None,
    });
    Ok(found.map(|entry| entry.digest.clone()))
}
