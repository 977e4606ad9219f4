//! Rows that nothing refers to, and how much there is in the file.
//!
//! A few rows at a time, so that whoever writes does not wait long.

use std::ops::Bound;

use ::redb::{Key, ReadOnlyTable, TableDefinition, Value};

use super::file::{File, Snapshot};
use super::{codec, tables};
use crate::cache_key::CacheKey;

/// Rows that are looked at before others may write.
const ROWS_AT_ONCE: usize = 2_048;

/// What repairing came to.
#[derive(Default)]
pub(super) struct Repaired {
    /// Rows removed.
    pub(super) removed: usize,
    /// Bytes of the rows that are left.
    pub(super) live: u64,
}

type Failed = ::redb::Error;

/// Removes what nothing refers to.
pub(super) fn repair(file: &File) -> Result<Repaired, String> {
    let mut repaired = Repaired::default();
    // What is known of no key.
    let is_stray = |file: &Snapshot, number: u64, row: &[u8]| {
        let key = codec::known_key(row).unwrap_or_default();
        Ok(file.known_number(&key)? != Some(number))
    };
    walk(file, tables::KNOWN, |of| &of.known, &mut repaired, is_stray)?;
    // Keys without results of which nothing is known, and such that have results after all.
    let is_stray = |file: &Snapshot, key: &[u8; 32], row: (u64, u8, u64)| {
        Ok(file.known.get(row.2)?.is_none() || file.results.get(key)?.is_some())
    };
    walk(file, tables::GONE, |of| &of.gone, &mut repaired, is_stray)?;
    // Sites that had only keys of which nothing is known.
    let is_stray = |file: &Snapshot, _: &[u8; 32], row: &[u8]| {
        for entry in tables::decode_site(row) {
            if file.known_number(entry.key.as_bytes())?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    walk(file, tables::SITES, |of| &of.sites, &mut repaired, is_stray)?;
    // This table is only measured.
    walk(
        file,
        tables::RESULTS,
        |of| &of.results,
        &mut repaired,
        |_, _, _| Ok(false),
    )?;
    walk(
        file,
        tables::CONTENTS,
        |of| &of.contents,
        &mut repaired,
        |_, key, row| Ok(codec::decode_content(&CacheKey::from_bytes(*key), row).is_none()),
    )?;
    Ok(repaired)
}

/// Removes the rows of a table that are astray.
fn walk<K: Key + 'static, V: Value + 'static>(
    file: &File,
    definition: TableDefinition<'static, K, V>,
    of: impl Fn(&Snapshot) -> &ReadOnlyTable<K, V>,
    repaired: &mut Repaired,
    is_stray: impl Fn(&Snapshot, K::SelfType<'_>, V::SelfType<'_>) -> Result<bool, Failed>,
) -> Result<(), String> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let mut last = None;
        file.update(|snapshot, database| {
            let from = match &after {
                Some(last) => Bound::Excluded(K::from_bytes(last)),
                None => Bound::Unbounded,
            };
            let rows = of(snapshot).range::<K::SelfType<'_>>((from, Bound::Unbounded))?;
            let mut strays = Vec::new();
            for row in rows.take(ROWS_AT_ONCE) {
                let (key, row) = row?;
                let bytes = K::as_bytes(&key.value()).as_ref().to_vec();
                if is_stray(snapshot, key.value(), row.value())? {
                    strays.push(bytes.clone());
                } else {
                    repaired.live += (bytes.len() + V::as_bytes(&row.value()).as_ref().len()) as u64;
                }
                last = Some(bytes);
            }
            if strays.is_empty() {
                return Ok(false);
            }
            repaired.removed += strays.len();
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(definition)?;
                for key in &strays {
                    table.remove(K::from_bytes(key))?;
                }
            }
            transaction.commit()?;
            Ok(true)
        })?;
        if last.is_none() {
            return Ok(());
        }
        after = last;
    }
}
