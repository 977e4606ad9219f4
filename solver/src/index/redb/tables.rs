//! The tables of the file, and how writes go into them.

use ::redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableHandle as _,
    WriteTransaction,
};

use super::super::history::{BuildRecord, BuildSummary, MAX_BUILDS, Millis, Removal, Removed, SiteKey, add_to_site};
use super::pending::{Batch, Change, Recorded};
use crate::cache_key::CacheKey;

type Bytes = &'static [u8];
type Hash = &'static [u8; 32];

/// Key → JSON of the outputs.
pub(super) const RESULTS: TableDefinition<'_, Hash, Bytes> = TableDefinition::new("results");
/// Key → JSON of what went into it; for keys with results, and for those that are in `GONE`.
pub(super) const KNOWN: TableDefinition<'_, Hash, Bytes> = TableDefinition::new("known");
/// Key without results → when and how they went.
pub(super) const GONE: TableDefinition<'_, Hash, (u64, u8)> = TableDefinition::new("gone");
/// Content key → sha256.
pub(super) const CONTENTS: TableDefinition<'_, Hash, Hash> = TableDefinition::new("contents");
/// Number of a build → JSON about it.
pub(super) const BUILDS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("builds");
/// Number of a build → JSON of its steps.
pub(super) const STEPS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("steps");
/// Site → its keys, in the form of [`encode_site`].
pub(super) const SITES: TableDefinition<'_, Hash, Bytes> = TableDefinition::new("sites");
/// What the file is.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Version of all that is in the file. A file of another version is emptied: a cache can be rebuilt.
const FORMAT: u64 = 2;
const FORMAT_NAME: &str = "format";

/// Keys that are explained although their results are gone.
const MAX_GONE: u64 = 50_000;
/// Sites that are remembered.
const MAX_SITES: u64 = 200_000;
/// Content digests that are remembered. Each is needed for as long as its result lives, and found again by looking.
const MAX_CONTENTS: u64 = 2_000_000;

type Failed = Box<dyn std::error::Error>;

/// Makes the tables; empties a file of another format first. Returns the number of the last build.
pub(super) fn prepare(database: &Database) -> Result<u64, ::redb::Error> {
    let transaction = database.begin_write()?;
    let format = transaction
        .open_table(META)?
        .get(FORMAT_NAME)?
        .map(|format| format.value());
    if format != Some(FORMAT) {
        let tables: Vec<_> = transaction.list_tables()?.collect();
        let old = tables.into_iter().filter(|table| table.name() != "meta");
        let mut dropped = 0;
        for table in old {
            transaction.delete_table(table)?;
            dropped += 1;
        }
        if dropped > 0 {
            tracing::info!(
                ?format,
                wanted = FORMAT,
                "the cache index has another format and is begun anew"
            );
        }
        transaction.open_table(META)?.insert(FORMAT_NAME, FORMAT)?;
    }
    for table in [RESULTS, KNOWN, SITES] {
        transaction.open_table(table)?;
    }
    transaction.open_table(GONE)?;
    transaction.open_table(CONTENTS)?;
    transaction.open_table(STEPS)?;
    let last = transaction
        .open_table(BUILDS)?
        .last()?
        .map(|(number, _)| number.value());
    transaction.commit()?;
    Ok(last.unwrap_or_default())
}

/// Writes a batch in one transaction.
pub(super) fn commit(database: &Database, batch: &Batch) -> Result<(), Failed> {
    let transaction = database.begin_write()?;
    {
        let mut tables = Keys::open(&transaction)?;
        for (key, change) in batch.changes() {
            tables.apply(key, change)?;
        }
    }
    for (number, build) in batch.builds() {
        write_build(&transaction, number, build)?;
    }
    trim_gone(&transaction)?;
    trim_sites(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// The tables that most writes go to.
struct Keys<'a> {
    results: Table<'a, Hash, Bytes>,
    known: Table<'a, Hash, Bytes>,
    gone: Table<'a, Hash, (u64, u8)>,
    contents: Table<'a, Hash, Hash>,
}

impl<'a> Keys<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, ::redb::Error> {
        Ok(Self {
            results: transaction.open_table(RESULTS)?,
            known: transaction.open_table(KNOWN)?,
            gone: transaction.open_table(GONE)?,
            contents: transaction.open_table(CONTENTS)?,
        })
    }

    fn apply(&mut self, key: &CacheKey, change: &Change) -> Result<(), Failed> {
        let key = key.as_bytes();
        match change {
            Change::Results(Recorded::Made(outputs, known)) => {
                self.results.insert(key, serde_json::to_vec(&**outputs)?.as_slice())?;
                self.known.insert(key, serde_json::to_vec(&**known)?.as_slice())?;
                self.gone.remove(key)?;
            }
            Change::Results(Recorded::Gone(removal)) => {
                self.results.remove(key)?;
                if self.known.get(key)?.is_some() {
                    self.gone.insert(key, encode_removal(*removal))?;
                }
            }
            Change::Content(digest) => {
                self.contents.insert(key, digest.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn write_build(transaction: &WriteTransaction, number: u64, build: &BuildRecord) -> Result<(), Failed> {
    let mut keys = Keys::open(transaction)?;
    let removal = Removal {
        at: Millis::now(),
        how: Removed::NotFinished,
    };
    for (key, known) in &build.unfinished {
        let key = key.as_bytes();
        if keys.known.get(key)?.is_none() {
            keys.known.insert(key, serde_json::to_vec(&**known)?.as_slice())?;
            keys.gone.insert(key, encode_removal(removal))?;
        }
    }
    let mut sites = transaction.open_table(SITES)?;
    for (site, key) in &build.sites {
        let mut entries = sites
            .get(&site.0)?
            .map(|row| decode_site(row.value()))
            .unwrap_or_default();
        add_to_site(&mut entries, *key, number);
        sites.insert(&site.0, encode_site(&entries).as_slice())?;
    }
    let mut builds = transaction.open_table(BUILDS)?;
    let mut steps = transaction.open_table(STEPS)?;
    builds.insert(number, serde_json::to_vec(&build.summary)?.as_slice())?;
    steps.insert(number, serde_json::to_vec(&build.steps)?.as_slice())?;
    while builds.len()? > MAX_BUILDS as u64 {
        let Some(oldest) = builds.pop_first()?.map(|(number, _)| number.value()) else {
            break;
        };
        steps.remove(oldest)?;
    }
    Ok(())
}

/// Takes out the oldest when there are an eighth too many, so that this is rare.
fn trim_gone(transaction: &WriteTransaction) -> Result<(), Failed> {
    let mut gone = transaction.open_table(GONE)?;
    if gone.len()? <= MAX_GONE + MAX_GONE / 8 {
        return Ok(());
    }
    let mut times = Vec::new();
    for row in gone.iter()? {
        times.push(row?.1.value().0);
    }
    let from = oldest_kept(times, MAX_GONE);
    let mut known = transaction.open_table(KNOWN)?;
    for row in gone.extract_if(|_, (at, _)| at < from)? {
        known.remove(row?.0.value())?;
    }
    Ok(())
}

fn trim_sites(transaction: &WriteTransaction) -> Result<(), Failed> {
    let mut sites = transaction.open_table(SITES)?;
    if sites.len()? <= MAX_SITES + MAX_SITES / 8 {
        return Ok(());
    }
    let last_used = |row: &[u8]| decode_site(row).first().map_or(0, |newest| newest.last);
    let mut numbers = Vec::new();
    for row in sites.iter()? {
        numbers.push(last_used(row?.1.value()));
    }
    let from = oldest_kept(numbers, MAX_SITES);
    sites.retain(|_, row| last_used(row) >= from)?;
    Ok(())
}

/// The value from which on things are kept, so that about `limit` are. What is as old as the oldest kept goes too when
/// it would be too much otherwise.
fn oldest_kept(mut values: Vec<u64>, limit: u64) -> u64 {
    let surplus = values
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    if surplus == 0 {
        return 0;
    }
    let (_, last_gone, _) = values.select_nth_unstable(surplus - 1);
    last_gone.saturating_add(1)
}

/// Removes what nothing refers to. Returns how many rows.
pub(super) fn repair(database: &Database) -> Result<usize, ::redb::Error> {
    let transaction = database.begin_write()?;
    let mut removed = 0;
    {
        let results = transaction.open_table(RESULTS)?;
        let mut gone = transaction.open_table(GONE)?;
        let mut known = transaction.open_table(KNOWN)?;
        let mut strays = Vec::new();
        for row in known.iter()? {
            let key = *row?.0.value();
            if results.get(&key)?.is_none() && gone.get(&key)?.is_none() {
                strays.push(key);
            }
        }
        for key in &strays {
            known.remove(key)?;
        }
        let mut left_over = Vec::new();
        for row in gone.iter()? {
            let key = *row?.0.value();
            if known.get(&key)?.is_none() {
                left_over.push(key);
            }
        }
        for key in &left_over {
            gone.remove(key)?;
        }
        removed += strays.len() + left_over.len();

        let mut sites = transaction.open_table(SITES)?;
        let mut dangling = Vec::new();
        for row in sites.iter()? {
            let (site, row) = row?;
            let mut has_known = false;
            for entry in decode_site(row.value()) {
                has_known |= known.get(entry.key.as_bytes())?.is_some();
            }
            if !has_known {
                dangling.push(*site.value());
            }
        }
        for site in &dangling {
            sites.remove(site)?;
        }
        removed += dangling.len();
    }
    let contents = transaction.open_table(CONTENTS)?.len()?;
    if contents > MAX_CONTENTS {
        transaction.delete_table(CONTENTS)?;
        transaction.open_table(CONTENTS)?;
        removed += usize::try_from(contents).unwrap_or(usize::MAX);
    }
    transaction.commit()?;
    Ok(removed)
}

/// The builds that are remembered, newest first. Rows that cannot be read are left out.
pub(super) fn builds(database: &Database) -> Result<Vec<BuildSummary>, ::redb::Error> {
    let builds = database.begin_read()?.open_table(BUILDS)?;
    let mut found = Vec::new();
    for row in builds.iter()?.rev() {
        let (number, json) = row?;
        if let Ok(summary) = serde_json::from_slice::<BuildSummary>(json.value()) {
            let number = number.value();
            found.push(BuildSummary { number, ..summary });
        }
    }
    Ok(found)
}

const fn encode_removal(removal: Removal) -> (u64, u8) {
    let how = match removal.how {
        Removed::Pruned => 0,
        Removed::Collected => 1,
        Removed::Lost => 2,
        Removed::NotFinished => 3,
    };
    (removal.at.0, how)
}

pub(super) const fn decode_removal((at, how): (u64, u8)) -> Removal {
    let how = match how {
        0 => Removed::Pruned,
        1 => Removed::Collected,
        3 => Removed::NotFinished,
        _ => Removed::Lost,
    };
    Removal { at: Millis(at), how }
}

/// Bytes of one key of a site: the key, and the two numbers.
const SITE_ENTRY: usize = 32 + 8 + 8;

fn encode_site(entries: &[SiteKey]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * SITE_ENTRY);
    for entry in entries {
        bytes.extend_from_slice(entry.key.as_bytes());
        bytes.extend_from_slice(&entry.first.to_le_bytes());
        bytes.extend_from_slice(&entry.last.to_le_bytes());
    }
    bytes
}

pub(super) fn decode_site(bytes: &[u8]) -> Vec<SiteKey> {
    let entry = |bytes: &[u8]| {
        let (key, numbers) = bytes.split_first_chunk::<32>()?;
        let (first, last) = numbers.split_first_chunk::<8>()?;
        Some(SiteKey {
            key: CacheKey::from_bytes(*key),
            first: u64::from_le_bytes(*first),
            last: u64::from_le_bytes(last.try_into().ok()?),
        })
    };
    bytes.chunks_exact(SITE_ENTRY).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let site = [(1, 2), (3, 4)].map(|(first, last)| SiteKey {
            key: CacheKey::from_bytes([9; 32]),
            first,
            last,
        });
        assert_eq!(decode_site(&encode_site(&site)), site);
        assert!(decode_site(&[1; SITE_ENTRY - 1]).is_empty());
        for how in [Removed::Pruned, Removed::Collected, Removed::Lost, Removed::NotFinished] {
            let removal = Removal { at: Millis(7), how };
            assert_eq!(decode_removal(encode_removal(removal)), removal);
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        assert_eq!(oldest_kept(vec![5, 1, 4], 3), 0);
        assert_eq!(oldest_kept(vec![5, 1, 4, 2], 3), 2);
        assert_eq!(oldest_kept(vec![5, 5, 5, 5], 3), 6);
    }
}
