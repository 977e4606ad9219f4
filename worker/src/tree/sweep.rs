//! Collection: removing what no kept tree names.
//!
//! The trees to go lose their records first, so nobody can open them any more; what the rest names is marked; what is
//! not marked is removed, except what a transfer has registered (see [`super::pins`]). Transfers go on meanwhile.

use std::collections::HashSet;

use redb::{Durability, ReadableTable};

use super::dir::{Body, Dir};
use super::error::TreeError;
use super::identity::TreeDigest;
use super::pins::{Key, Pins};
use super::store::{LATEST, OBJECTS, TREES, TreeStore};

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Trees forgotten.
    pub trees: u64,
    /// Files removed.
    pub files: u64,
    /// Bytes on disk freed, unless layers still hold the files.
    pub bytes: u64,
    /// Bytes on disk that remain.
    pub kept_bytes: u64,
}

impl TreeStore {
    /// Keeps the trees in `live` and those that are open, and removes all others with what only they named.
    ///
    /// Can be called at any time; one at a time does its work.
    pub fn retain(&self, live: &[TreeDigest]) -> Result<Swept, TreeError> {
        let _one = self.0.collection.lock();
        let pins = &self.0.pins;
        let mut kept = pins.begin_collection();
        let _end = EndOfCollection(pins);
        kept.extend(live);
        let forgotten = self.forget(&mut kept)?;
        let marked = self.mark(&kept)?;
        self.sweep_objects(&marked)?;
        let mut swept = self.sweep_files(&marked)?;
        swept.trees = forgotten;
        Ok(swept)
    }

    /// Removes the records of all trees but `kept`, and of trees that were opened since that was made.
    fn forget(&self, kept: &mut HashSet<TreeDigest>) -> Result<u64, TreeError> {
        let _alone = self.0.lookup.write();
        self.write("forget trees", Durability::Immediate, |txn| {
            kept.extend(self.0.pins.trees());
            let (mut trees, mut latest) = (txn.open_table(TREES)?, txn.open_table(LATEST)?);
            let mut gone = 0;
            trees.retain(|digest, _| {
                let keep = kept.contains(&TreeDigest(*digest));
                gone += u64::from(!keep);
                keep
            })?;
            latest.retain(|_, digest| kept.contains(&TreeDigest(*digest)))?;
            Ok(gone)
        })
    }

    /// Everything that the kept trees name, by hash.
    fn mark(&self, kept: &HashSet<TreeDigest>) -> Result<HashSet<Key>, TreeError> {
        let mut marked = HashSet::new();
        let mut pending: Vec<TreeDigest> = Vec::new();
        for tree in kept {
            // Opened or live trees may be long gone; only what has a record counts.
            if self.tree(*tree)?.is_some() && marked.insert(tree.0) {
                pending.push(*tree);
            }
        }
        while let Some(digest) = pending.pop() {
            mark_entries(&self.object(digest)?, &mut marked, &mut pending);
        }
        Ok(marked)
    }

    fn sweep_objects(&self, marked: &HashSet<Key>) -> Result<(), TreeError> {
        self.write("remove directory objects", Durability::Immediate, |txn| {
            let mut objects = txn.open_table(OBJECTS)?;
            let mut gone = Vec::new();
            for row in objects.iter()? {
                let key = *row?.0.value();
                if !marked.contains(&key) {
                    gone.push(key);
                }
            }
            for key in gone {
                self.0
                    .pins
                    .unless_arriving(&key, || objects.remove(&key).map(drop))
                    .unwrap_or(Ok(()))?;
            }
            Ok(())
        })
    }

    fn sweep_files(&self, marked: &HashSet<Key>) -> Result<Swept, TreeError> {
        let mut swept = Swept::default();
        let files = &self.0.files;
        let listed = files.for_each(|key, bytes| {
            let removed = match marked.contains(&key.0) {
                true => None,
                false => self.0.pins.unless_arriving(&key.0, || files.remove(&key)),
            };
            match removed {
                Some(done) => {
                    done.map_err(|source| TreeError::Remove { key, source })?;
                    swept.files += 1;
                    swept.bytes += bytes;
                }
                None => swept.kept_bytes += bytes,
            }
            Ok(())
        });
        listed.map_err(TreeError::Store)?;
        Ok(swept)
    }
}

fn mark_entries(dir: &Dir, marked: &mut HashSet<Key>, pending: &mut Vec<TreeDigest>) {
    for entry in &dir.entries {
        match &entry.body {
            Body::Dir { digest, .. } => {
                if marked.insert(digest.0) {
                    pending.push(*digest);
                }
            }
            Body::File(file) => {
                marked.insert(file.key.0);
            }
            Body::Special(_) => {}
        }
    }
}

/// Ends a collection however it ends.
struct EndOfCollection<'a>(&'a Pins);

impl Drop for EndOfCollection<'_> {
    fn drop(&mut self) {
        self.0.end_collection();
    }
}
