//! Measures look-ups in an index of a million records: `cargo run --release -p cairn-solver --example index-bench`.

#![expect(clippy::print_stdout, reason = "a program that prints its measurements")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_solver::cache_key::{CacheKey, Preimage};
use cairn_solver::index::{CacheIndex, Evidence, IndexError, Known, Millis, RedbIndex, Removal, Removed};
use cairn_solver::{Digest, ResultId};

const RECORDS: u32 = 1_000_000;
const LOOKUPS: u32 = 200_000;
/// For the file to be compacted.
const MOST_WAITED: Duration = Duration::from_secs(120);

fn key(n: u32) -> CacheKey {
    CacheKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// What a RUN of an ordinary image leaves.
fn known(n: u32) -> Arc<Known> {
    Arc::new(Known {
        preimage: Preimage {
            kind: "exec".into(),
            fields: [
                ("arg", &*format!("make part-{n}")),
                (
                    "env",
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                ),
                ("cwd", "/src"),
            ]
            .into_iter()
            .collect(),
            inputs: Vec::new(),
        },
        evidence: Evidence {
            name: format!("[2/9] RUN make part-{n}"),
            ..Evidence::default()
        },
    })
}

/// A directory that is removed again.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes something, and ends without closing the file.
fn crash(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let index = RedbIndex::open(path)?;
    index.record_content(&key(0), &Digest::sha256(b"x"))?;
    index.flush()?;
    std::process::abort();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = std::env::args_os().nth(1) {
        return crash(Path::new(&path));
    }
    let dir = Scratch(std::env::temp_dir().join(format!("cairn-index-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0)?;
    let path = dir.0.join("index.redb");
    let index = RedbIndex::open(&path)?;
    let start = Instant::now();
    for n in 0..RECORDS {
        let outputs = vec![Some(ResultId::new(format!("result-{n}")))];
        index.record_results(&key(n), &known(n), &outputs)?;
    }
    index.flush()?;
    let took = start.elapsed();
    let bytes = std::fs::metadata(&path)?.len();
    println!("{RECORDS} records written in {took:.1?}, {} MiB", bytes >> 20);
    drop(index);

    let start = Instant::now();
    let index = RedbIndex::open(&path)?;
    println!("opened in {:.1?}", start.elapsed());
    // Spread over the whole file; every second one is not there.
    let look_up = |at: u32| {
        if at.is_multiple_of(2) {
            at.wrapping_mul(7919) % RECORDS
        } else {
            RECORDS + at
        }
    };
    let measure = |what: &str, look: &dyn Fn(&CacheKey) -> Result<bool, IndexError>| {
        let keys: Vec<CacheKey> = (0..LOOKUPS).map(|at| key(look_up(at))).collect();
        let start = Instant::now();
        let mut found = 0_u32;
        for key in &keys {
            found += u32::from(look(key)?);
        }
        let each: Duration = start.elapsed() / LOOKUPS;
        println!("{what}: {each:.2?} each, {found} of {LOOKUPS} found");
        Ok::<_, IndexError>(())
    };
    measure("results", &|key| Ok(index.results(key)?.is_some()))?;
    measure("what went into them", &|key| Ok(index.known(key)?.is_some()))?;
    let start = Instant::now();
    let (mut after, mut seen) = (None, 0);
    loop {
        let records = index.scan(after.as_ref(), 256)?;
        let Some((last, _)) = records.last() else { break };
        after = Some(*last);
        seen += records.len();
    }
    println!("all {seen} records scanned in {:.1?}", start.elapsed());
    let start = Instant::now();
    println!("{} strays found in {:.1?}", index.repair()?, start.elapsed());
    drop(index);

    let _aborted = Command::new(std::env::current_exe()?).arg(&path).status()?;
    let start = Instant::now();
    let index = RedbIndex::open(&path)?;
    println!("opened after a crash in {:.1?}", start.elapsed());

    let start = Instant::now();
    let removal = Removal {
        at: Millis::now(),
        how: Removed::Pruned,
    };
    for n in RECORDS / 20..RECORDS {
        index.forget(&key(n), removal)?;
    }
    index.flush()?;
    println!(
        "{} records forgotten in {:.1?}",
        RECORDS - RECORDS / 20,
        start.elapsed()
    );
    let start = Instant::now();
    index.repair()?;
    println!("repaired in {:.1?}", start.elapsed());
    let (start, mut slowest) = (Instant::now(), Duration::ZERO);
    let before = std::fs::metadata(&path)?.len();
    while start.elapsed() < MOST_WAITED && std::fs::metadata(&path)?.len() >= before {
        let look = Instant::now();
        index.results(&key(7))?;
        slowest = slowest.max(look.elapsed());
    }
    let bytes = std::fs::metadata(&path)?.len();
    println!(
        "{} MiB after {:.1?} of compacting; the slowest look-up meanwhile took {slowest:.1?}",
        bytes >> 20,
        start.elapsed()
    );
    Ok(())
}
