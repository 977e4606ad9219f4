//! What repositories take, and removing them.

use std::io;
use std::path::Path;

use super::error::GitError;
use super::store::{GitStore, notes};
use crate::service::UsageRecord;

/// Ids of repositories in disk usage begin with this.
const PREFIX: &str = "git-";
/// What they are, in disk usage.
const RECORD_TYPE: &str = "source.git.checkout";

impl GitStore {
    /// Every repository. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(crate) fn usage(&self) -> Result<Vec<UsageRecord>, GitError> {
        let failed = || GitError::io("measure git repositories");
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.0.repositories).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // One that is removed meanwhile takes nothing.
            let (Ok(notes), Ok(size)) = (notes(&entry.path()), size(&entry.path())) else {
                continue;
            };
            records.push(UsageRecord {
                id: format!("{PREFIX}{name}"),
                mutable: true,
                in_use: self.0.lock(&name).try_write().is_err(),
                size,
                parents: Vec::new(),
                created_at: notes.created,
                last_used_at: Some(notes.used),
                usage_count: 1,
                description: format!("shared git repo for {}", notes.remote),
                record_type: RECORD_TYPE.to_owned(),
                shared: false,
            });
        }
        Ok(records)
    }

    /// Removes a repository by its id in disk usage; tells whether it was there and nobody used it. Blocks.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn remove(&self, id: &str) -> Result<bool, GitError> {
        let Some(name) = id.strip_prefix(PREFIX).filter(|name| is_name(name)) else {
            return Ok(false);
        };
        let Ok(_guard) = self.0.lock(name).try_write_owned() else {
            return Ok(false);
        };
        let dir = self.0.repositories.join(name);
        if !dir.exists() {
            return Ok(false);
        }
        self.0.discard(&dir).map(|()| true)
    }
}

fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Bytes allocated for everything in a directory that git may be changing.
fn size(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let (mut total, mut pending) = (0, vec![dir.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let Ok(entry) = entry else { continue };
            match entry.metadata() {
                Ok(metadata) => {
                    total += metadata.blocks() * 512;
                    if metadata.is_dir() {
                        pending.push(entry.path());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(total)
}
