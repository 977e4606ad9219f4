//! What operators add to statements: files in a directory, read when the daemon starts.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

/// What the names of files end with.
const EXTENSION: &str = "json";
/// Most bytes of all files.
const MAX_BYTES: u64 = 1 << 20;

/// Members of statements that are an operator's own. Clones share them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Environment(Arc<Map<String, Value>>);

/// Why they cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The file system refused.
    #[error("failed to read {} for provenance: {source}", path.display())]
    Io {
        /// A file or the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON object.
    #[error("{} is no JSON object: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// There is too much of it.
    #[error("the files in {} for provenance have more than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
}

impl Environment {
    /// The members of all objects in files `*.json` of a directory; of those with the same name, the one in the file
    /// whose name is last. A directory that is not there adds nothing. Blocks.
    ///
    /// # Errors
    /// If a file cannot be read or is no object, or they are too large.
    pub(crate) fn read(dir: &Path) -> Result<Self, EnvironmentError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EnvironmentError::Io { path, source }
        };
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries.map_err(failed(dir))?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed(dir))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        let mut members = Map::new();
        let mut left = MAX_BYTES;
        for path in paths {
            let mut text = Vec::new();
            let file = File::open(&path).map_err(failed(&path))?;
            let read = file.take(left + 1).read_to_end(&mut text).map_err(failed(&path))?;
            left = left
                .checked_sub(read as u64)
                .ok_or_else(|| EnvironmentError::TooLarge(dir.to_owned()))?;
            let object: Map<String, Value> =
                serde_json::from_slice(&text).map_err(|source| EnvironmentError::Json { path, source })?;
            members.extend(object);
        }
        Ok(Self(Arc::new(members)))
    }

    /// What is to be written beside members of other names. Nobody's own takes their place.
    pub(super) fn beside<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_of_all_files_are_joined_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("20-b.json", r#"{"a": 2, "c": {"d": [1]}}"#),
            ("10-a.json", r#"{"a": 1, "platform": "mine"}"#),
            ("30-c.txt", "no JSON"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("40.json")).unwrap();
        let read = Environment::read(dir.path()).unwrap();
        let members: Map<String, Value> = read
            .beside(&["platform"])
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        assert_eq!(Value::from(members), json!({ "a": 2, "c": { "d": [1] } }));
        assert_eq!(
            Environment::read(&dir.path().join("none")).unwrap(),
            Environment::default()
        );
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (text, want) in [
            ("[1]".to_owned(), "10.json is no JSON object"),
            ("{".to_owned(), "10.json is no JSON object"),
            (" ".repeat(2 << 20), "more than 1048576 bytes"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("10.json"), text).unwrap();
            let error = Environment::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
