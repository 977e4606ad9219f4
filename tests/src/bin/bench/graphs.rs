//! The same definitions, submitted over gRPC to both daemons by the client library.

mod shapes;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use cairn_client::{Client, ClientError, OutputTarget, SolveOptions, SolveOutput};
use cairn_proto::pb;
use cairn_tests::{Lab, llb};

use self::shapes::{SHAPES, Shape};
use crate::Effort;
use crate::direct::Direct;
use crate::measure::Samples;
use crate::report::Report;
use crate::subject::Service;

/// What a subject did with one shape.
#[derive(Default)]
struct Times {
    cold: Vec<Duration>,
    known: Vec<Duration>,
    refusal: Option<String>,
}

pub(crate) fn run(effort: &Effort, report: &mut Report) -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let direct = Direct::new()?;
    let services = Service::start_both()?;
    report.section("definitions over gRPC, same client: each cold, and again with everything known")?;
    for service in &services {
        let client = direct.connect(service)?;
        direct.solve(&client, solving(shapes::base()))?;
    }
    for shape in &SHAPES {
        let mut times = [Times::default(), Times::default()];
        let mut contents = [None, None];
        // By turns, and every time another graph of the same shape.
        for seed in 0..effort.cold {
            let definition = (shape.make)(seed);
            for (index, service) in services.iter().enumerate() {
                let times = &mut times[index];
                let client = direct.connect(service)?;
                measure(&direct, &client, &definition, effort, times)?;
                if seed == 0 && times.refusal.is_none() {
                    let target = lab.path(&format!("{index}.tar"));
                    contents[index] = Some(exported(&direct, &client, &definition, &target)?);
                }
            }
        }
        if let [Some(ours), Some(theirs)] = &contents {
            let differing = ours.iter().find(|(path, entry)| theirs.get(*path) != Some(entry));
            ensure!(
                differing.is_none() && ours.len() == theirs.len(),
                "{}: the results differ, first in {differing:?}",
                shape.name
            );
        }
        print(report, shape, &services, times)?;
    }
    Ok(())
}

fn print(report: &mut Report, shape: &Shape, services: &[Service], times: [Times; 2]) -> anyhow::Result<()> {
    let mut known = Vec::new();
    let cold = format!("{}, cold", shape.name);
    for (service, times) in services.iter().zip(times) {
        if let Some(reason) = times.refusal {
            report.refusal(&cold, service.name(), &reason)?;
            continue;
        }
        report.times(&cold, service.name(), &Samples::new(times.cold)?, None)?;
        known.push((service.name(), Samples::new(times.known)?));
    }
    for (name, samples) in known {
        report.times(&format!("{}, known", shape.name), name, &samples, None)?;
    }
    Ok(())
}

fn measure(
    direct: &Direct,
    client: &Client,
    definition: &pb::Definition,
    effort: &Effort,
    times: &mut Times,
) -> anyhow::Result<()> {
    if times.refusal.is_some() {
        return Ok(());
    }
    match direct.solve(client, solving(definition.clone())) {
        Ok(took) => times.cold.push(took),
        Err(ClientError::Build(refusal)) => {
            times.refusal = Some(refusal.message.clone());
            return Ok(());
        }
        Err(error) => bail!(error),
    }
    for _ in 0..effort.repeat.min(3) {
        times.known.push(direct.solve(client, solving(definition.clone()))?);
    }
    Ok(())
}

fn solving(definition: pb::Definition) -> SolveOptions {
    SolveOptions {
        definition: Some(definition),
        ..SolveOptions::default()
    }
}

/// By path: what a result holds, apart from times.
fn exported(
    direct: &Direct,
    client: &Client,
    definition: &pb::Definition,
    target: &Path,
) -> anyhow::Result<BTreeMap<String, String>> {
    let output = SolveOutput {
        kind: "tar".to_owned(),
        attrs: BTreeMap::new(),
        target: Some(OutputTarget::file(target.to_owned())),
    };
    let options = SolveOptions {
        outputs: vec![output],
        ..solving(definition.clone())
    };
    direct.solve(client, options)?;
    let mut contents = BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(target)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode()? & 0o7777);
        let owner = (header.uid()?, header.gid()?);
        let mut content = Vec::new();
        entry
            .read_to_end(&mut content)
            .with_context(|| format!("failed to read {path}"))?;
        let text = format!("{kind:?} {mode:o} {owner:?} {}", llb::digest(&content));
        contents.insert(path.trim_matches('/').to_owned(), text);
    }
    std::fs::remove_file(target)?;
    Ok(contents)
}
