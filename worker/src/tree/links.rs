//! Which layers hold links to which stored files.
//!
//! Two layers under one mount must not hold links to the same stored file: they would look like hard links to each
//! other. Whoever makes a layer with links records them here, and asks before linking into a layer above it.

use std::collections::HashSet;

use redb::{Durability, ReadableDatabase, TableDefinition};

use super::error::TreeError;
use super::identity::FileKey;
use super::store::TreeStore;

/// Keys of the linked files, one after another, by layer.
pub(super) const LINKS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("links");

impl TreeStore {
    /// Records the stored files that a layer holds links to.
    pub fn record_links(&self, layer: &str, files: &[FileKey]) -> Result<(), TreeError> {
        let bytes: Vec<u8> = files.iter().flat_map(|key| key.0).collect();
        self.write("record links", Durability::Immediate, |txn| {
            txn.open_table(LINKS)?.insert(layer, bytes.as_slice())?;
            Ok(())
        })
    }

    /// All stored files that any of these layers holds links to.
    pub fn links_of<'l>(&self, layers: impl IntoIterator<Item = &'l str>) -> Result<HashSet<FileKey>, TreeError> {
        let doing = "look up links";
        let txn = self.0.database.begin_read().map_err(TreeError::database(doing))?;
        let links = txn.open_table(LINKS).map_err(TreeError::database(doing))?;
        let mut files = HashSet::new();
        for layer in layers {
            if let Some(row) = links.get(layer).map_err(TreeError::database(doing))? {
                let (keys, _) = row.value().as_chunks::<32>();
                files.extend(keys.iter().copied().map(FileKey));
            }
        }
        Ok(files)
    }

    /// Forgets the links of layers that are gone.
    pub fn retain_links(&self, is_live: impl Fn(&str) -> bool) -> Result<(), TreeError> {
        self.write("forget links", Durability::Immediate, |txn| {
            txn.open_table(LINKS)?.retain(|layer, _| is_live(layer))?;
            Ok(())
        })
    }
}
