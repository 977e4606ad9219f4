//! Which behaviours of the language have a test, and how many cases there are about each topic.
//!
//! `cargo test -p cairn-dockerfile --test coverage -- --nocapture` prints the numbers.
#![expect(clippy::print_stdout, reason = "it prints what it counted")]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The numbered behaviours, by topic.
const TOPICS: [(&str, RangeInclusive<u32>); 9] = [
    ("lexing, directives, here-documents", 1..=59),
    ("word expansion", 60..=108),
    ("ARG, ENV, LABEL", 109..=140),
    ("FROM and the graph of stages", 141..=175),
    ("COPY and ADD", 176..=249),
    ("RUN", 250..=298),
    ("instructions of the config", 299..=328),
    ("contexts, ignore files, names, options", 329..=367),
    ("checks and what is asked instead of a build", 368..=398),
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The text files of a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the directory is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "txt"))
        .collect();
    files.sort();
    files
}

/// The names of the cases in a file.
fn cases(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("it is text");
    let names = text.lines().filter_map(|line| line.strip_prefix("## "));
    names.map(str::to_owned).collect()
}

#[test]
fn every_numbered_behaviour_is_covered() {
    let end_to_end = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/dockerfile");
    let mut covered: BTreeMap<u32, usize> = BTreeMap::new();
    for file in files(&end_to_end).iter().chain([&data().join("conformance.txt")]) {
        for name in cases(file) {
            let number = name.split_whitespace().next().and_then(|number| number.parse().ok());
            *covered.entry(number.expect("cases are numbered")).or_default() += 1;
        }
    }
    for (topic, numbers) in TOPICS {
        let cases: usize = covered.range(numbers.clone()).map(|(_, cases)| cases).sum();
        println!("{topic}: {} behaviours in {cases} cases", numbers.count());
    }
    let missing: Vec<u32> = TOPICS.into_iter().flat_map(|(_, numbers)| numbers).collect();
    let missing: Vec<u32> = missing
        .into_iter()
        .filter(|number| !covered.contains_key(number))
        .collect();
    assert!(missing.is_empty(), "nothing covers {missing:?}");
}

#[test]
fn cases_are_counted() {
    let mut total = 0;
    for topic in ["parse", "expand", "lower", "config", "checks", "subrequests"] {
        for file in files(&data().join(topic)) {
            let count = cases(&file).len();
            println!(
                "{topic}/{}: {count} cases",
                file.file_stem().unwrap_or_default().display()
            );
            assert!(count > 0, "{} is empty", file.display());
            total += count;
        }
    }
    println!("{total} cases");
}
