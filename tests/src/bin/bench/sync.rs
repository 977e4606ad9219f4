//! A large build context, through buildx: sent for the first time, sent again, and with one file changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use cairn_tests::Lab;

use crate::Effort;
use crate::measure::Samples;
use crate::report::Report;
use crate::subject::{Client, SUBJECTS, Service};

const DIRECTORIES: usize = 500;
const FILES_EACH: usize = 100;
/// About as long as source files are.
const LINES_EACH: usize = 60;

pub(crate) fn run(effort: &Effort, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let context = context(&lab)?;
    report.section(&format!(
        "a context of {} files, copied to scratch, through buildx",
        DIRECTORIES * FILES_EACH
    ))?;
    let mut times = [const { Vec::new() }; 2];
    let mut services = [None, None];
    for _ in 0..effort.cold.min(2) {
        for (index, subject) in SUBJECTS.into_iter().enumerate() {
            services[index] = None;
            let service = Service::start(subject, Lab::new()?)?;
            times[index].push(service.build(Client::Buildx, &context)?.0);
            services[index] = Some(service);
        }
    }
    for (subject, times) in SUBJECTS.into_iter().zip(times) {
        report.times("sync, cold", subject.name(), &Samples::new(times)?, None)?;
    }
    let services: Vec<Service> = services.into_iter().flatten().collect();
    let few = effort.repeat.min(5);
    for service in &services {
        let times = Samples::repeat(few, || warm(service, &context))?;
        report.times("sync, nothing changed", service.name(), &times, None)?;
    }
    for service in &services {
        let mut count = 0;
        let times = Samples::repeat(few, || {
            count += 1;
            one_changed(service, &context, count)
        })?;
        report.times("sync, one changed", service.name(), &times, None)?;
    }
    Ok(())
}

fn context(lab: &Lab) -> anyhow::Result<PathBuf> {
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\nCOPY . /\n")])?;
    for directory in 0..DIRECTORIES {
        let path = context.join(format!("part{directory:03}"));
        std::fs::create_dir(&path)?;
        for file in 0..FILES_EACH {
            let line = format!("line of file {file} in {directory}\n");
            std::fs::write(path.join(format!("file{file:02}.txt")), line.repeat(LINES_EACH))?;
        }
    }
    Ok(context)
}

fn warm(service: &Service, context: &Path) -> anyhow::Result<Duration> {
    let (took, progress) = service.build(Client::Buildx, context)?;
    ensure!(
        progress.executed().is_empty(),
        "not everything was known: {:?}",
        progress.executed()
    );
    Ok(took)
}

fn one_changed(service: &Service, context: &Path, count: usize) -> anyhow::Result<Duration> {
    let text = format!("change {count} for {}\n", service.name());
    std::fs::write(context.join("part250/file50.txt"), text)?;
    let (took, progress) = service.build(Client::Buildx, context)?;
    ensure!(!progress.executed().is_empty(), "nothing ran after a change");
    Ok(took)
}
