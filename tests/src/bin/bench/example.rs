//! The multi-stage example through command lines: from nothing, again, and with a change.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use cairn_tests::{Lab, Progress};

use crate::Effort;
use crate::measure::Samples;
use crate::report::Report;
use crate::subject::{Client, SUBJECTS, Service, Subject};

const NO_OP: Duration = Duration::from_millis(60);
/// How long a no-op may take through buildx, as a part of what it takes with Docker Engine.
const NO_OP_RATIO: f64 = 0.5;
const IDLE_BYTES: u64 = 40 << 20;

pub(crate) fn run(effort: &Effort, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let context = lab.example("multi-stage")?;
    from_nothing(effort, report, &context)?;

    let [cairn, engine] = &Service::start_both()?;
    let idle = [cairn.resident_bytes()?, engine.resident_bytes()?];
    for service in [cairn, engine] {
        service.build(Client::Buildx, &context)?;
    }
    again(effort, report, [cairn, engine], &context)?;

    report.section("one source file changed")?;
    for service in [cairn, engine] {
        let times = Samples::repeat(effort.repeat.min(5), || edited(service, &context))?;
        report.times("edit, buildx", service.name(), &times, None)?;
    }

    report.section("resident memory (Docker Engine: dockerd and its containerd)")?;
    for (service, idle) in [cairn, engine].into_iter().zip(idle) {
        let target = (service.subject() == Subject::Cairn).then_some(IDLE_BYTES);
        report.bytes("idle, fresh", service.name(), idle, target)?;
    }
    for service in [cairn, engine] {
        report.bytes("after builds", service.name(), service.resident_bytes()?, None)?;
    }
    Ok(())
}

fn from_nothing(effort: &Effort, report: &mut Report, context: &Path) -> anyhow::Result<()> {
    report.section("the multi-stage example from nothing, same client (buildx), same mirror")?;
    let (mut times, mut overlaps) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    // By turns, so that whatever else the machine does meets both.
    for _ in 0..effort.cold {
        for (index, subject) in SUBJECTS.into_iter().enumerate() {
            let service = Service::start(subject, Lab::new()?)?;
            let (took, progress) = service.build(Client::Buildx, context)?;
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
    Ok(())
}

fn again(effort: &Effort, report: &mut Report, both: [&Service; 2], context: &Path) -> anyhow::Result<()> {
    let [cairn, _] = both;
    report.section("again, with everything known")?;
    cairn.build(Client::Own, context)?;
    let own = Samples::repeat(effort.repeat, || no_op(cairn, Client::Own, context))?;
    report.times("no-op, cairn", cairn.name(), &own, Some(NO_OP))?;
    for service in both {
        let times = Samples::repeat(effort.repeat, || no_op(service, Client::Buildx, context))?;
        report.times("no-op, buildx", service.name(), &times, None)?;
    }
    report.ratio("no-op, buildx", NO_OP_RATIO)?;
    let alone = Samples::repeat(effort.repeat, || cairn.buildx_alone())?;
    report.times("buildx version", "buildx", &alone, None)
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
