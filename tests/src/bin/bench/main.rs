//! Measures Cairn and Docker Engine in one run on one machine, and prints both with their ratios.
//!
//! Run by `make bench`, which provides release builds, base images and Docker Engine. `CAIRN_BENCH_COLD` (default 3) is
//! how often the whole job is built from nothing, `CAIRN_BENCH_REPEAT` (default 15) how often everything else is done.

mod measure;
mod report;
mod subject;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cairn_tests::{Lab, Need, Progress};

use crate::measure::Samples;
use crate::report::Report;
use crate::subject::{Client, Service, Subject};

const SUBJECTS: [Subject; 2] = [Subject::Cairn, Subject::Engine];
const NO_OP: Duration = Duration::from_millis(60);
const READY: Duration = Duration::from_millis(100);
const IDLE_BYTES: u64 = 40 << 20;

fn main() -> anyhow::Result<()> {
    let needs = [Need::Containers, Need::Bases, Need::Sid];
    let Some(lab) = Lab::open(&needs)? else {
        return Ok(());
    };
    let (cold, repeat) = (count("CAIRN_BENCH_COLD", 3)?, count("CAIRN_BENCH_REPEAT", 15)?);
    let context = lab.example("multi-stage")?;
    let mut report = Report::new()?;

    report.section("from nothing to an answer")?;
    for subject in SUBJECTS {
        let target = (subject == Subject::Cairn).then_some(READY);
        let times = repeatedly(repeat, || subject.time_to_answer())?;
        report.times("ready", subject.name(), &times, target)?;
    }

    report.section("the multi-stage example from nothing, same client (buildx), same mirror")?;
    let (mut times, mut overlaps) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    // By turns, so that whatever else the machine does meets both.
    for _ in 0..cold {
        for (index, subject) in SUBJECTS.into_iter().enumerate() {
            let service = Service::start(subject, Lab::new()?)?;
            let (took, progress) = service.build(Client::Buildx, &context)?;
            times[index].push(took);
            overlaps[index].push(stage_overlap(&progress));
        }
    }
    for (subject, times) in SUBJECTS.into_iter().zip(times) {
        report.times("cold build", subject.name(), &Samples::new(times)?, None)?;
    }
    report.section("how long both middle stages ran at once, in those builds")?;
    for (subject, overlaps) in SUBJECTS.into_iter().zip(overlaps) {
        report.times("overlap", subject.name(), &Samples::new(overlaps)?, None)?;
    }

    let services = [
        Service::start(Subject::Cairn, Lab::new()?)?,
        Service::start(Subject::Engine, Lab::new()?)?,
    ];
    let idle: Vec<u64> = services
        .iter()
        .map(Service::resident_bytes)
        .collect::<anyhow::Result<_>>()?;
    for service in &services {
        service.build(Client::Buildx, &context)?;
    }
    let [cairn, engine] = &services;

    report.section("again, with everything known")?;
    cairn.build(Client::Own, &context)?;
    let own = repeatedly(repeat, || no_op(cairn, Client::Own, &context))?;
    report.times("no-op, cairn", cairn.name(), &own, Some(NO_OP))?;
    for service in [cairn, engine] {
        let times = repeatedly(repeat, || no_op(service, Client::Buildx, &context))?;
        report.times("no-op, buildx", service.name(), &times, None)?;
    }

    report.section("one source file changed")?;
    for service in [cairn, engine] {
        let times = repeatedly(repeat.min(5), || edited(service, &context))?;
        report.times("edit, buildx", service.name(), &times, None)?;
    }

    report.section("resident memory (Docker Engine: dockerd and its containerd)")?;
    for (service, idle) in services.iter().zip(idle) {
        let target = (service.subject() == Subject::Cairn).then_some(IDLE_BYTES);
        report.bytes("idle, fresh", service.name(), idle, target)?;
    }
    for service in &services {
        report.bytes("after builds", service.name(), service.resident_bytes()?, None)?;
    }
    report.finish()
}

fn repeatedly(count: usize, mut once: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Samples> {
    Samples::new((0..count).map(|_| once()).collect::<anyhow::Result<Vec<_>>>()?)
}

fn no_op(service: &Service, client: Client, context: &Path) -> anyhow::Result<Duration> {
    let (took, progress) = service.build(client, context)?;
    ensure!(
        progress.executed().is_empty(),
        "not everything was known: {:?}",
        progress.executed()
    );
    Ok(took)
}

/// Changes the text that a program prints, and builds.
fn edited(service: &Service, context: &Path) -> anyhow::Result<Duration> {
    let path = context.join("src1/main.c");
    let text = std::fs::read_to_string(&path)?;
    let stamp = jiff::Timestamp::now().as_nanosecond();
    let mark = "/* edited";
    let body = text.split(mark).next().unwrap_or_default();
    std::fs::write(&path, format!("{body}{mark} {stamp} */\n"))?;
    let (took, progress) = service.build(Client::Buildx, context)?;
    ensure!(!progress.executed().is_empty(), "nothing ran after a change");
    Ok(took)
}

fn stage_overlap(progress: &Progress) -> Duration {
    let stage = |name: &str| progress.vertex(&format!("[{name} 2/2] RUN make")).interval();
    stage("foo").overlap(&stage("bar"))
}

fn count(variable: &str, default: usize) -> anyhow::Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is {text:?}, not a number")),
        Err(_) => Ok(default),
    }
}
