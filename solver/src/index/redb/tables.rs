//! The tables of the file, and how writes go into them.

use std::ops::RangeFrom;

use ::redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::super::history::{
    BuildRecord, BuildSummary, Known, MAX_BUILDS, Millis, Removal, Removed, SiteKey, add_to_site,
};
use super::pending::{Batch, Change, Recorded};
use super::{IndexLimits, codec};
use crate::cache_key::CacheKey;

type Bytes = &'static [u8];
type Hash = &'static [u8; 32];
pub(super) type ContentRow = &'static [u8; codec::CONTENT_ROW];

/// Key → the number of its row in `KNOWN`, the number that it got when it was used last, and the outputs.
pub(super) const RESULTS: TableDefinition<'_, Hash, Bytes> = TableDefinition::new("results");
/// Number → key and what went into it; for keys with results, and for those that are in `GONE`. Numbers only grow: so
/// new rows, which are large, come side by side, and the least recently used are easily found (see [`super::uses`]).
pub(super) const KNOWN: TableDefinition<'_, u64, Bytes> = TableDefinition::new("known");
/// Key without results → when and how they went, and the number of its row in `KNOWN`.
pub(super) const GONE: TableDefinition<'_, Hash, (u64, u8, u64)> = TableDefinition::new("gone");
/// Content key → sha256, in the form of [`codec::encode_content`].
pub(super) const CONTENTS: TableDefinition<'_, Hash, ContentRow> = TableDefinition::new("contents");
/// Number of a build → JSON about it.
pub(super) const BUILDS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("builds");
/// Number of a build → JSON of its steps.
pub(super) const STEPS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("steps");
/// Site → its keys, in the form of [`encode_site`].
pub(super) const SITES: TableDefinition<'_, Hash, Bytes> = TableDefinition::new("sites");
/// What the file is.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Version of all that is in the file. A file of another version is emptied: a cache can be rebuilt.
const FORMAT: u64 = 5;
const FORMAT_NAME: &str = "format";
/// The last number that was given to a row of `KNOWN` or to a record that was used.
const LAST_NAME: &str = "last";

/// Keys that are explained although their results are gone.
const MAX_GONE: u64 = 50_000;
/// Sites that are remembered.
const MAX_SITES: u64 = 200_000;
/// Records that a commit takes out at most, beside as many as it adds.
const MAX_TRIMMED: usize = 1_024;
/// Records that may be found to have been used for each that is taken out.
const LOOKS_PER_RECORD: usize = 4;
/// From this size of the file on, commits save what is free in it, so that opening it after a crash does not have to
/// read it all.
const LARGE_FILE: u64 = 32 << 20;

type Failed = ::redb::Error;

/// What is in a file that was opened.
#[derive(Clone, Copy, Default)]
pub(super) struct Last {
    /// Number of the last build.
    pub(super) build: u64,
    /// The last number that a row of `KNOWN` or a use of a record has.
    pub(super) known: u64,
}

/// Makes the tables; empties a file of another format first.
pub(super) fn prepare(database: &Database) -> Result<Last, ::redb::Error> {
    if !is_prepared(database)? {
        begin_anew(database)?;
    }
    let transaction = database.begin_read()?;
    let build = transaction
        .open_table(BUILDS)?
        .last()?
        .map(|(number, _)| number.value());
    let known = transaction.open_table(KNOWN)?.last()?.map(|(number, _)| number.value());
    let last = transaction.open_table(META)?.get(LAST_NAME)?.map(|last| last.value());
    Ok(Last {
        build: build.unwrap_or_default(),
        known: known.max(last).unwrap_or_default(),
    })
}

fn is_prepared(database: &Database) -> Result<bool, ::redb::Error> {
    let found = match database.begin_read()?.open_table(META) {
        Ok(meta) => meta.get(FORMAT_NAME)?.map(|format| format.value()),
        Err(::redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(found) = found.filter(|found| *found != FORMAT) {
        let age = if found > FORMAT { "a newer" } else { "an older" };
        tracing::warn!(
            found,
            known = FORMAT,
            "the cache index has {age} format; it is begun anew"
        );
    }
    Ok(found == Some(FORMAT))
}

fn begin_anew(database: &Database) -> Result<(), ::redb::Error> {
    let transaction = database.begin_write()?;
    let tables: Vec<_> = transaction.list_tables()?.collect();
    for table in tables {
        transaction.delete_table(table)?;
    }
    transaction.open_table(META)?.insert(FORMAT_NAME, FORMAT)?;
    transaction.open_table(RESULTS)?;
    transaction.open_table(KNOWN)?;
    transaction.open_table(GONE)?;
    transaction.open_table(CONTENTS)?;
    transaction.open_table(BUILDS)?;
    transaction.open_table(STEPS)?;
    transaction.open_table(SITES)?;
    transaction.commit()?;
    Ok(())
}

/// What one transaction writes.
pub(super) struct Writes<'a> {
    pub(super) batch: &'a Batch,
    /// The first of the numbers that new rows get. Whoever writes the same to two files gives both the same.
    pub(super) first: u64,
    /// The stamps of records that were used, in the order of keys.
    pub(super) used: &'a [(CacheKey, u64)],
    /// The last number that was given to anything.
    pub(super) last: u64,
    /// What there may be, or that nothing is to be taken out.
    pub(super) limits: Option<&'a IndexLimits>,
}

/// Writes in one transaction, and takes out the least recently used of what is too much. `size` is the file's. Returns
/// how many rows of `KNOWN` there are.
pub(super) fn commit(database: &Database, writes: &Writes<'_>, size: u64) -> Result<u64, Failed> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(size > LARGE_FILE);
    let batch = writes.batch;
    let rows;
    {
        let mut keys = Keys::open(&transaction)?;
        let mut numbers = writes.first..;
        for ((key, change), number) in batch.changes().zip(&mut numbers) {
            keys.apply(key, change, number)?;
        }
        for (number, build) in batch.builds() {
            write_build(&transaction, &mut keys, number, build, &mut numbers)?;
        }
        keys.stamp(writes.used)?;
        if let Some(limits) = writes.limits {
            keys.trim(limits, size, batch.len() + MAX_TRIMMED)?;
            keys.trim_gone()?;
        }
        rows = keys.known.len()?;
        transaction.open_table(META)?.insert(LAST_NAME, writes.last)?;
    }
    if writes.limits.is_some() {
        trim_sites(&transaction)?;
    }
    transaction.commit()?;
    Ok(rows)
}

/// The tables that most writes go to.
pub(super) struct Keys<'a> {
    pub(super) results: Table<'a, Hash, Bytes>,
    pub(super) known: Table<'a, u64, Bytes>,
    pub(super) gone: Table<'a, Hash, (u64, u8, u64)>,
    pub(super) contents: Table<'a, Hash, ContentRow>,
}

impl<'a> Keys<'a> {
    pub(super) fn open(transaction: &'a WriteTransaction) -> Result<Self, ::redb::Error> {
        Ok(Self {
            results: transaction.open_table(RESULTS)?,
            known: transaction.open_table(KNOWN)?,
            gone: transaction.open_table(GONE)?,
            contents: transaction.open_table(CONTENTS)?,
        })
    }

    /// Applies a change; what it may make known about its key gets this number.
    fn apply(&mut self, key: &CacheKey, change: &Change, number: u64) -> Result<(), Failed> {
        match change {
            Change::Results(Recorded::Made(outputs, known)) => {
                self.forget_known(key.as_bytes())?;
                self.insert_known(number, key, known)?;
                let row = codec::encode_results(number, outputs);
                self.results.insert(key.as_bytes(), row.as_slice())?;
            }
            Change::Results(Recorded::Gone(removal)) => {
                let key = key.as_bytes();
                let number = self.results.remove(key)?.map(|row| codec::known_number(row.value()));
                if let Some(number) = number {
                    self.gone.insert(key, encode_removal(*removal, number))?;
                }
            }
            Change::Content(digest) => {
                self.contents
                    .insert(key.as_bytes(), &codec::encode_content(key, digest))?;
            }
        }
        Ok(())
    }

    /// Removes what went into a key.
    fn forget_known(&mut self, key: &[u8; 32]) -> Result<(), ::redb::Error> {
        let made = self.results.get(key)?.map(|row| codec::known_number(row.value()));
        let gone = self.gone.remove(key)?.map(|row| row.value().2);
        for number in made.into_iter().chain(gone) {
            self.known.remove(number)?;
        }
        Ok(())
    }

    fn insert_known(&mut self, number: u64, key: &CacheKey, known: &Known) -> Result<(), ::redb::Error> {
        self.known.insert(number, codec::encode_known(key, known).as_slice())?;
        Ok(())
    }

    /// Writes down which records were used.
    fn stamp(&mut self, used: &[(CacheKey, u64)]) -> Result<(), ::redb::Error> {
        for (key, stamp) in used {
            let key = key.as_bytes();
            let row = self.results.get(key)?.map(|row| row.value().to_vec());
            if let Some(row) = row.filter(|row| codec::stamp(row) < *stamp) {
                let row = codec::restamp(&row, codec::known_number(&row), *stamp);
                self.results.insert(key, row.as_slice())?;
            }
        }
        Ok(())
    }

    /// Takes out the least recently used records and some content digests, no more than `at_once` of each, while there
    /// are too many.
    fn trim(&mut self, limits: &IndexLimits, size: u64, at_once: usize) -> Result<(), ::redb::Error> {
        let is_large = size > limits.bytes;
        let mut left = at_once;
        // What was used since it got its number is not taken out, but takes time all the same.
        let mut looks = at_once.saturating_mul(LOOKS_PER_RECORD);
        while left > 0 && looks > 0 && (is_large || self.known.len()? > limits.records) {
            looks -= 1;
            let Some(is_out) = self.take_out_first()? else {
                break;
            };
            left -= usize::from(is_out);
        }
        let limit = limits.records.saturating_mul(CONTENTS_PER_RECORD);
        let surplus = if is_large {
            at_once
        } else {
            let surplus = self.contents.len()?.saturating_sub(limit);
            usize::try_from(surplus).map_or(at_once, |surplus| surplus.min(at_once))
        };
        self.take_out_contents(surplus)?;
        Ok(())
    }

    /// Takes out this many content digests. Keys are hashes: those from a random one on are as good as any others.
    fn take_out_contents(&mut self, mut count: usize) -> Result<(), Failed> {
        let from = random_hash();
        // From the end it goes on at the beginning.
        for from in [from, [0; 32]] {
            let after = self.contents.extract_from_if::<&[u8; 32], _>(&from.., |_, _| true)?;
            for row in after.take(count) {
                row?;
                count -= 1;
            }
        }
        Ok(())
    }

    /// Takes out the record that comes first, or gives it its place if it was used since it got its number. Says whether
    /// it is out; `None` if there is no record.
    fn take_out_first(&mut self) -> Result<Option<bool>, ::redb::Error> {
        let first = self.known.pop_first()?;
        let Some((number, known)) = first.map(|(number, row)| (number.value(), row.value().to_vec())) else {
            return Ok(None);
        };
        let key = codec::known_key(&known).unwrap_or_default();
        let made = self.results.get(&key)?.map(|row| row.value().to_vec());
        if let Some(row) = made.filter(|row| codec::known_number(row) == number) {
            let stamp = codec::stamp(&row);
            if stamp > number {
                self.known.insert(stamp, known.as_slice())?;
                let row = codec::restamp(&row, stamp, stamp);
                self.results.insert(&key, row.as_slice())?;
                return Ok(Some(false));
            }
            self.results.remove(&key)?;
        }
        let gone = self.gone.get(&key)?.map(|row| row.value().2);
        if gone == Some(number) {
            self.gone.remove(&key)?;
        }
        Ok(Some(true))
    }

    /// Takes out the oldest when there are an eighth too many, so that this is rare.
    fn trim_gone(&mut self) -> Result<(), ::redb::Error> {
        if self.gone.len()? <= MAX_GONE + MAX_GONE / 8 {
            return Ok(());
        }
        let mut times = Vec::new();
        for row in self.gone.iter()? {
            times.push(row?.1.value().0);
        }
        let from = oldest_kept(times, MAX_GONE);
        for row in self.gone.extract_if(|_, (at, _, _)| at < from)? {
            self.known.remove(row?.1.value().2)?;
        }
        Ok(())
    }
}

/// Content digests that are remembered for every record that may be. Each is needed for as long as its result lives,
/// and found again by looking.
const CONTENTS_PER_RECORD: u64 = 2;

fn random_hash() -> [u8; 32] {
    let seed = Millis::now().0.to_le_bytes();
    *blake3::hash(&seed).as_bytes()
}

fn write_build(
    transaction: &WriteTransaction,
    keys: &mut Keys<'_>,
    number: u64,
    build: &BuildRecord,
    numbers: &mut RangeFrom<u64>,
) -> Result<(), Failed> {
    let removal = Removal {
        at: Millis::now(),
        how: Removed::NotFinished,
    };
    for ((key, known), number) in build.unfinished.iter().zip(numbers) {
        if keys.results.get(key.as_bytes())?.is_none() && keys.gone.get(key.as_bytes())?.is_none() {
            keys.insert_known(number, key, known)?;
            keys.gone.insert(key.as_bytes(), encode_removal(removal, number))?;
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
    builds.insert(number, json(&build.summary)?.as_slice())?;
    steps.insert(number, json(&build.steps)?.as_slice())?;
    while builds.len()? > MAX_BUILDS as u64 {
        let Some(oldest) = builds.pop_first()?.map(|(number, _)| number.value()) else {
            break;
        };
        steps.remove(oldest)?;
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Failed> {
    serde_json::to_vec(value).map_err(|error| Failed::Io(std::io::Error::other(error)))
}

/// Takes out the oldest when there are an eighth too many, so that this is rare.
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

/// The builds that are remembered, newest first. Rows that cannot be read are left out.
pub(super) fn builds(builds: &impl ReadableTable<u64, Bytes>) -> Result<Vec<BuildSummary>, ::redb::Error> {
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

const fn encode_removal(removal: Removal, number: u64) -> (u64, u8, u64) {
    let how = match removal.how {
        Removed::Pruned => 0,
        Removed::Collected => 1,
        Removed::Lost => 2,
        Removed::NotFinished => 3,
    };
    (removal.at.0, how, number)
}

pub(super) const fn decode_removal((at, how, _): (u64, u8, u64)) -> Removal {
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
            assert_eq!(decode_removal(encode_removal(removal, 3)), removal);
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        assert_eq!(oldest_kept(vec![5, 1, 4], 3), 0);
        assert_eq!(oldest_kept(vec![5, 1, 4, 2], 3), 2);
        assert_eq!(oldest_kept(vec![5, 5, 5, 5], 3), 6);
    }
}
