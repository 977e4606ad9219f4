//! Which layers hold links to which stored files.
//!
//! Two layers under one mount must not hold links to the same stored file: they would look like hard links to each
//! other. Whoever makes a layer with links records them here, and asks before linking into a layer above it.

use std::collections::{BTreeSet, HashSet};

use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::error::TreeError;
use super::identity::FileKey;
use super::store::TreeStore;

/// Keys of the linked files, one after another, by layer.
pub(super) const LINKS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("links");

impl TreeStore {
    /// Records stored files that a layer holds links to, besides those recorded before: what is copied over itself
    /// makes no new layer, but must not make forget what the one that is there holds.
    pub fn record_links(&self, layer: &str, files: &[FileKey]) -> Result<(), TreeError> {
        self.write("record links", Durability::Immediate, |txn| {
            let mut links = txn.open_table(LINKS)?;
            let mut keys: BTreeSet<[u8; 32]> = files.iter().map(|key| key.0).collect();
            if let Some(row) = links.get(layer)? {
                keys.extend(row.value().as_chunks::<32>().0);
            }
            let bytes: Vec<u8> = keys.into_iter().flatten().collect();
            links.insert(layer, bytes.as_slice())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_layer_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = TreeStore::open(dir.path()).unwrap();
        let [a, b, c] = [1, 2, 3].map(|byte| FileKey([byte; 32]));
        store.record_links("one", &[a, b]).unwrap();
        store.record_links("one", &[b, c]).unwrap();
        store.record_links("other", &[c]).unwrap();
        assert_eq!(store.links_of(["one"]).unwrap(), HashSet::from([a, b, c]));
        assert_eq!(store.links_of(["other"]).unwrap(), HashSet::from([c]));
    }
}
