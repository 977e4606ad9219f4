// Inputs for what is fuzzed, when no fuzzer makes them: noise, and good inputs that were damaged. Part of the tests of
// each crate that has fuzz targets.

use proptest::prelude::*;
use proptest::sample::Index;

/// Gives a target noise and damaged ones of `seeds`, `usual` times or as often as `CAIRN_FUZZ_CASES` says.
pub(crate) fn try_target(name: &str, target: impl Fn(&[u8]), seeds: Vec<Vec<u8>>, usual: u32) {
    let wanted = std::env::var("CAIRN_FUZZ_CASES").ok();
    let config = ProptestConfig {
        cases: wanted.and_then(|text| text.parse().ok()).unwrap_or(usual),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let ran = proptest::test_runner::TestRunner::new(config).run(&inputs(seeds), |input| {
        target(&input);
        Ok(())
    });
    if let Err(failure) = ran {
        panic!("{name}: {failure}");
    }
}

/// What is done to a good input.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, u8),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        // The bytes on which formats turn.
        2 => (any::<Index>(), prop::sample::select(&b"\0\x01\x7f\x80\xff\n \"\\/.,:=-[]{}'0123456789"[..]))
            .prop_map(|(at, byte)| Damage::Set(at, byte)),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<Index>(), 1..40_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (any::<Index>(), 1..40_usize, 1..20_u8).prop_map(|(at, count, times)| Damage::Repeat(at, count, times)),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

fn apply(damage: Damage, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let span = |at: usize, count: usize, all: usize| at..(at + count).min(all);
    match damage {
        Damage::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        Damage::Insert(at, new) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, new);
        }
        Damage::Remove(at, count) => {
            let at = at.index(bytes.len());
            bytes.drain(span(at, count, bytes.len()));
        }
        Damage::Repeat(at, count, times) => {
            let at = at.index(bytes.len());
            let piece = bytes[span(at, count, bytes.len())].repeat(times.into());
            bytes.splice(at..at, piece);
        }
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
    }
}

/// Noise, and damaged ones of `seeds`.
fn inputs(mut seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    seeds.push(Vec::new());
    let damaged =
        (prop::sample::select(seeds), prop::collection::vec(damage(), 0..6)).prop_map(|(mut bytes, damages)| {
            damages.into_iter().for_each(|damage| apply(damage, &mut bytes));
            bytes
        });
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..600),
        4 => damaged,
    ]
}

/// Expects a file for each target, declared beside it.
pub(crate) fn expect_targets<'a>(manifest_dir: &str, names: impl Iterator<Item = &'a str>) {
    let dir = std::path::Path::new(manifest_dir).join("fuzz");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for name in names {
        let path = format!("fuzz_targets/{name}.rs");
        let text = std::fs::read_to_string(dir.join(&path)).unwrap_or_default();
        assert!(
            text.contains("fuzz_target!") && manifest.contains(&path),
            "no target {name}"
        );
    }
}
