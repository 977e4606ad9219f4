//! The index killed, and without power, at every write: what was said to be safe is there, nothing else than what was
//! written, and no step by halves.

use proptest::prelude::*;

use super::faulty::{Contents, Done, FaultyDisk, killed, torn, unpowered};
use super::*;

/// What a test does to an index.
#[derive(Clone, Debug)]
enum Step {
    Record { n: u8, value: u8 },
    Content { n: u8, value: u8 },
    Forget(u8),
    Build { id: u8, site: u8, n: u8, unfinished: u8 },
    Repair,
    Compact,
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..6_u8;
    prop_oneof![
        6 => (n(), any::<u8>()).prop_map(|(n, value)| Step::Record { n, value }),
        2 => (n(), any::<u8>()).prop_map(|(n, value)| Step::Content { n, value }),
        2 => n().prop_map(Step::Forget),
        2 => (any::<u8>(), 0..3_u8, n(), n()).prop_map(|(id, site, n, unfinished)| Step::Build { id, site, n, unfinished }),
        1 => Just(Step::Repair),
        2 => Just(Step::Compact),
        4 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

const REMOVAL: Removal = Removal {
    at: Millis(5),
    how: Removed::Pruned,
};

/// What is recorded as known of a key: as long as that a change of it changes several sectors.
fn known_as(value: u8) -> Arc<Known> {
    let preimage = Preimage {
        kind: "exec".into(),
        fields: [("arg", format!("{value} ").repeat(400))].into_iter().collect(),
        inputs: Vec::new(),
    };
    Arc::new(Known {
        preimage,
        ..Known::default()
    })
}

/// Does what changes an index.
fn apply(index: &dyn CacheIndex, step: &Step) {
    match *step {
        Step::Record { n, value } => {
            let outputs = vec![Some(ResultId::new(format!("r{value}"))), None];
            index.record_results(&key(n), &known_as(value), &outputs).unwrap();
        }
        Step::Content { n, value } => index.record_content(&key(n), &Digest::sha256(&[value])).unwrap(),
        Step::Forget(n) => index.forget(&key(n), REMOVAL).unwrap(),
        Step::Build {
            id,
            site,
            n,
            unfinished,
        } => {
            // Something is known of the site's key, as always: otherwise repairing removes the site, which does not come
            // back when something becomes known.
            let unfinished = [n, unfinished].map(|n| (key(n), known_as(id)));
            let build = BuildRecord {
                unfinished: unfinished.into(),
                ..build(&id.to_string(), &[(site, n)])
            };
            index.record_build(build).unwrap();
        }
        Step::Repair | Step::Compact | Step::Flush | Step::Reopen => {}
    }
}

/// What can be seen of a key.
#[derive(Debug, PartialEq)]
struct SeenKey {
    outputs: Option<Outputs>,
    /// What went into it, if it has outputs: of others less may be known than was.
    known: Option<Known>,
    content: Option<Digest>,
}

/// All that can be seen of an index and has to be there.
#[derive(Debug, PartialEq)]
struct Seen {
    keys: Vec<SeenKey>,
    scanned: Vec<(CacheKey, Outputs)>,
    builds: Vec<(u64, String)>,
    /// Keys of sites that have outputs.
    sites: Vec<Vec<SiteKey>>,
}

fn see(index: &dyn CacheIndex) -> Seen {
    let see_key = |n| {
        let key = key(n);
        let (outputs, known) = (index.results(&key).unwrap(), index.known(&key).unwrap());
        let written = |known: &Known| {
            let value = known.preimage.fields.iter().next()?.1.split(' ').next()?.parse().ok()?;
            Some(known == &*known_as(value))
        };
        let is_written = known.as_ref().is_none_or(|known| written(known) == Some(true));
        assert!(is_written, "nobody wrote that: {known:?}");
        assert!(outputs.is_none() || index.removal(&key).unwrap().is_none());
        SeenKey {
            known: known.filter(|_| outputs.is_some()),
            outputs,
            content: index.content(&key).unwrap(),
        }
    };
    let see_site = |n| {
        let mut keys = index.site(&SiteId([n; 32])).unwrap();
        keys.retain(|site| index.results(&site.key).unwrap().is_some());
        keys
    };
    let builds = index.builds().unwrap().into_iter();
    Seen {
        keys: (0..6).map(see_key).collect(),
        scanned: index.scan(None, 100).unwrap(),
        builds: builds.map(|build| (build.number, build.id)).collect(),
        sites: (0..3).map(see_site).collect(),
    }
}

const PATH: &str = "state/index.redb";

fn open(disk: &FaultyDisk) -> RedbIndex {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    RedbIndex::open_on(&disk, Path::new(PATH), IndexLimits::default()).unwrap()
}

/// Takes the steps on a disk, and lets it know what was begun and what is safe.
fn take(disk: &FaultyDisk, steps: &[Step]) {
    let mut index = Some(open(disk));
    for (n, step) in steps.iter().enumerate() {
        disk.note(Done::Begun(n + 1));
        let at = index.as_ref().unwrap();
        match step {
            Step::Repair => {
                at.repair().unwrap();
            }
            Step::Compact => at.pending.ask_compaction(),
            Step::Flush => {
                at.flush().unwrap();
                disk.note(Done::Safe(n + 1));
            }
            Step::Reopen => {
                drop(index.take());
                disk.note(Done::Safe(n + 1));
                index = Some(open(disk));
            }
            step => apply(at, step),
        }
    }
}

/// What an index may look like after each number of steps.
fn expected(steps: &[Step]) -> Vec<Seen> {
    let model = MemoryIndex::default();
    let mut seen = vec![see(&model)];
    for step in steps {
        apply(&model, step);
        seen.push(see(&model));
    }
    seen
}

/// Opens what is left after `log`, and holds it against what may be there. Returns what that did to the disk.
fn check(left: Contents, log: &[Done], expected: &[Seen], what: &str) -> (FaultyDisk, Contents) {
    let (mut begun, mut safe) = (0, 0);
    for done in log {
        match done {
            Done::Begun(n) => begun = *n,
            Done::Safe(n) => safe = *n,
            _ => {}
        }
    }
    let disk = FaultyDisk::with(left.clone());
    let index = open(&disk);
    let has_lost_file = disk.contents().has(&Path::new(PATH).with_extension("damaged"));
    assert!(!has_lost_file || safe == 0, "{what}: the index was put aside");
    let seen = see(&index);
    let is_expected = expected[safe..=begun].contains(&seen);
    assert!(
        is_expected,
        "{what}: after {begun} steps of which {safe} were safe: {seen:#?}\ninstead of one of {:#?}",
        &expected[safe..=begun]
    );
    // It can be gone on with, and repairing loses nothing.
    index.repair().unwrap();
    assert_eq!(see(&index), seen, "{what}: repairing changed something");
    assert_eq!(index.repair().unwrap(), 0);
    drop(index);
    assert!(!disk.contents().has(&Path::new(PATH).with_extension("compacted")));
    (disk, left)
}

/// Numbers that seem random, the same each time.
fn chances(mut seed: u64) -> impl FnMut() -> bool {
    move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed & 4 == 0
    }
}

/// A crash at every write of a run.
fn crash_everywhere(steps: &[Step]) {
    let disk = FaultyDisk::default();
    take(&disk, steps);
    let (log, expected, empty) = (disk.log(), expected(steps), Contents::default());
    for end in 1..=log.len() {
        let so_far = &log[..end];
        let seed = end as u64 + 0x9e37_79b9;
        check(killed(&empty, so_far), so_far, &expected, &format!("killed at {end}"));
        if matches!(so_far.last(), Some(Done::Write { .. })) {
            let left = torn(&empty, so_far, chances(seed));
            check(left, so_far, &expected, &format!("torn at {end}"));
        }
        for round in 0..2 {
            let left = unpowered(&empty, so_far, chances(seed * 2 + round));
            let what = format!("no power at {end}, {round}");
            let (again, before) = check(left, so_far, &expected, &what);
            // And once more while it is opened.
            if end % 7 == 0 {
                let opening = again.log();
                let until = seed as usize % opening.len() + 1;
                let left = unpowered(&before, &opening[..until], chances(seed));
                check(left, so_far, &expected, &format!("{what}, and again at {until}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, max_shrink_iters: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_write_loses_nothing_that_was_safe(steps in prop::collection::vec(step(), 4..14)) {
        crash_everywhere(&steps);
    }
}
