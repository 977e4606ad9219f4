//! Known builds without a program to start: one inside the daemon, and a hundred at once.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cairn_client::Id;
use cairn_tests::Lab;

use crate::Effort;
use crate::direct::{Direct, dockerfile_build};
use crate::measure::Samples;
use crate::report::Report;
use crate::subject::{Client, Service};

const INSIDE: Duration = Duration::from_millis(5);
const CROWD: usize = 100;

pub(crate) fn run(effort: &Effort, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let context = lab.example("multi-stage")?;
    let direct = Direct::new()?;
    let [cairn, engine] = &Service::start_both()?;
    for service in [cairn, engine] {
        service.build(Client::Buildx, &context)?;
        let client = direct.connect(service)?;
        direct.solve(&client, dockerfile_build(service, &context, None))?;
    }

    report.section("the multi-stage example with everything known, through the client library")?;
    let client = direct.connect(cairn)?;
    let inside = Samples::repeat(effort.repeat, || {
        let id = Id::random()?;
        direct.solve(&client, dockerfile_build(cairn, &context, Some(id.clone())))?;
        cairn.time_inside(&id)
    })?;
    report.times("no-op, in the daemon", cairn.name(), &inside, Some(INSIDE))?;
    for service in [cairn, engine] {
        let client = direct.connect(service)?;
        let times = Samples::repeat(effort.repeat, || {
            Ok(direct.solve(&client, dockerfile_build(service, &context, None))?)
        })?;
        report.times("no-op, library", service.name(), &times, None)?;
    }

    report.section(&format!(
        "{CROWD} such builds at once, each over a connection of its own"
    ))?;
    for service in [cairn, engine] {
        let times = Samples::repeat(effort.repeat.min(5), || {
            let build = || anyhow::Ok((direct.connect(service)?, dockerfile_build(service, &context, None)));
            let builds = (0..CROWD).map(|_| build()).collect::<anyhow::Result<Vec<_>>>()?;
            direct.solve_at_once(builds).context("a build of many")
        })?;
        ensure!(times.min() > Duration::ZERO, "no time passed");
        report.times("no-op, many at once", service.name(), &times, None)?;
    }
    Ok(())
}
