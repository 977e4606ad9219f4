//! Measures Cairn and Docker Engine in one run on one machine, and prints both with their ratios.
//!
//! Run by `make bench`, which provides release builds, base images and Docker Engine.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `CAIRN_BENCH_COLD` | how often what begins with nothing is done | 3 |
//! | `CAIRN_BENCH_REPEAT` | how often everything else is done | 15 |
//! | `CAIRN_BENCH_ONLY` | the sections to run, by the names of their modules, with commas | all |

mod crowd;
mod direct;
mod example;
mod graphs;
mod measure;
mod ready;
mod report;
mod subject;
mod sync;

use anyhow::{Context as _, ensure};
use cairn_tests::{Lab, Need};

use crate::report::Report;

/// What is measured, in the order in which it is.
const SECTIONS: [(&str, Section); 5] = [
    ("ready", ready::run),
    ("example", example::run),
    ("crowd", crowd::run),
    ("graphs", graphs::run),
    ("sync", sync::run),
];

type Section = fn(&Effort, &mut Report) -> anyhow::Result<()>;

/// How often things are done.
struct Effort {
    /// What begins with nothing.
    cold: usize,
    /// Everything else.
    repeat: usize,
}

fn main() -> anyhow::Result<()> {
    let needs = [Need::Containers, Need::Bases, Need::Sid];
    if Lab::open(&needs)?.is_none() {
        return Ok(());
    }
    let effort = Effort {
        cold: count("CAIRN_BENCH_COLD", 3)?,
        repeat: count("CAIRN_BENCH_REPEAT", 15)?,
    };
    let wanted = std::env::var("CAIRN_BENCH_ONLY").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
    for name in &wanted {
        let is_known = SECTIONS.iter().any(|(known, _)| known == name);
        ensure!(is_known, "CAIRN_BENCH_ONLY names {name:?}, which is no section");
    }
    let mut report = Report::new()?;
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.contains(&name) {
            section(&effort, &mut report).with_context(|| format!("section {name}"))?;
        }
    }
    report.finish()
}

fn count(variable: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is {text:?}, not a number")),
        Err(_) => Ok(default),
    }
}
