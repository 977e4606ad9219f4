//! Giving room back: the file is written anew beside itself while it goes on being used, and then replaced.

use std::ops::Bound;

use ::redb::{Database, Durability, Key, ReadOnlyTable, TableDefinition, Value};

use super::file::Snapshot;
use super::pending::Batch;
use super::tables;
use super::writer::Writer;

/// Rows that are copied before what is due is committed.
const ROWS_AT_ONCE: usize = 4_096;
/// Size of a file that is worth the effort.
const WORTH_IT: u64 = 16 << 20;
/// A file that is so many times larger than what is in it is written anew. Trees leave about half of their pages free.
const TOO_LARGE: u64 = 4;

/// Whether a file of `size` bytes with rows of `live` bytes is to be compacted.
pub(super) const fn is_worth_it(size: u64, live: u64) -> bool {
    size > WORTH_IT && size / TOO_LARGE > live
}

/// Writes the file anew. Ends early, and leaves the file as it is, if the index is closed meanwhile.
pub(super) fn compact(writer: &mut Writer) -> Result<(), String> {
    let before = writer.file.size();
    let outcome = copy(writer);
    if !matches!(outcome, Ok(true)) {
        writer.file.remove_compacted();
        return outcome.map(drop);
    }
    writer.file.replace()?;
    tracing::info!(before, after = writer.file.size(), "the cache index is compacted");
    Ok(())
}

fn copy(writer: &mut Writer) -> Result<bool, String> {
    let copy = writer.file.begin_compacted()?;
    // What is committed meanwhile is written to both. A row that is copied later is the file's, which is as new. Rows
    // of what is known come after those that tell their numbers: what is replaced meanwhile is found by its number.
    let is_whole = table(writer, &copy, tables::RESULTS, |from| &from.results)?
        && table(writer, &copy, tables::GONE, |from| &from.gone)?
        && table(writer, &copy, tables::KNOWN, |from| &from.known)?
        && table(writer, &copy, tables::CONTENTS, |from| &from.contents)?
        && table(writer, &copy, tables::BUILDS, |from| &from.builds)?
        && table(writer, &copy, tables::STEPS, |from| &from.steps)?
        && table(writer, &copy, tables::SITES, |from| &from.sites)?;
    // Nothing was safe until now.
    let nothing = Batch::default();
    tables::commit(&copy, &writer.writes_to_both(&nothing), 0).map_err(|error| error.to_string())?;
    Ok(is_whole)
}

/// Copies a table. `false` if the index is closed meanwhile.
fn table<K: Key + 'static, V: Value + 'static>(
    writer: &mut Writer,
    copy: &Database,
    definition: TableDefinition<'static, K, V>,
    of: impl Fn(&Snapshot) -> &ReadOnlyTable<K, V>,
) -> Result<bool, String> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let file = writer.file.clone();
        let last = file.read(|snapshot| {
            let from = match &after {
                Some(last) => Bound::Excluded(K::from_bytes(last)),
                None => Bound::Unbounded,
            };
            let mut transaction = copy.begin_write()?;
            transaction.set_durability(Durability::None)?;
            let mut last = None;
            {
                let mut target = transaction.open_table(definition)?;
                for row in of(snapshot)
                    .range::<K::SelfType<'_>>((from, Bound::Unbounded))?
                    .take(ROWS_AT_ONCE)
                {
                    let (key, value) = row?;
                    target.insert(key.value(), value.value())?;
                    last = Some(K::as_bytes(&key.value()).as_ref().to_vec());
                }
            }
            transaction.commit()?;
            Ok(last)
        })?;
        if last.is_none() {
            return Ok(true);
        }
        after = last;
        if !writer.serve(copy)? {
            return Ok(false);
        }
    }
}
