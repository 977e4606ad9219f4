//! Definitions that are written by a step and built in the same build.

use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use cairn_client::{Client, ClientError, Progress, SolveOptions, Solved};
use cairn_proto::pb;
use cairn_tests::llb::{Graph, image, input, run};
use cairn_tests::{Daemon, Lab, Need};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const ALPINE: &str = "docker.io/library/alpine:latest";

/// A step that writes `bytes` into a file of that name.
fn file(name: &str, bytes: Vec<u8>) -> pb::Op {
    let write = pb::FileActionMkFile {
        path: format!("/{name}"),
        mode: 0o644,
        data: bytes.into(),
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    };
    let action = pb::FileAction {
        input: -1,
        secondary_input: -1,
        output: 0,
        action: Some(pb::file_action::Action::Mkfile(write)),
    };
    pb::Op {
        op: Some(pb::op::Op::File(pb::FileOp { actions: vec![action] })),
        ..pb::Op::default()
    }
}

/// A build of the definition in `file` of an input.
fn nested(on: pb::Input, file: Option<&str>) -> pb::Op {
    let build = pb::BuildOp {
        builder: -1,
        inputs: [("buildkit.llb.definition".to_owned(), pb::BuildInput { input: 0 })].into(),
        def: None,
        attrs: file
            .map(|file| ("llbbuild.filename".to_owned(), file.to_owned()))
            .into_iter()
            .collect(),
    };
    pb::Op {
        inputs: vec![on],
        op: Some(pb::op::Op::Build(build)),
        ..pb::Op::default()
    }
}

/// A definition that runs a command on alpine.
fn inner(command: &str) -> pb::Definition {
    let mut graph = Graph::default();
    let base = graph.add(&image(ALPINE));
    let step = graph.add(&run(input(&base, 0), &["sh", "-c", command]));
    graph.asking_for(&step, 0)
}

/// A definition that builds another one, which it holds in a file, and goes on with the result.
fn around(inner: &pb::Definition, name: Option<&str>, command: &str) -> pb::Definition {
    let mut graph = Graph::default();
    let file_name = name.unwrap_or("buildkit.llb.definition");
    let file = graph.add(&file(file_name, inner.encode_to_vec()));
    let nested = graph.add(&nested(input(&file, 0), name));
    let step = graph.add(&run(input(&nested, 0), &["sh", "-c", command]));
    graph.asking_for(&step, 0)
}

/// Builds; returns the names of the steps that ran as well.
async fn solve(client: &Client, definition: &pb::Definition) -> (Result<Solved, ClientError>, Vec<String>) {
    let options = SolveOptions {
        definition: Some(definition.clone()),
        ..SolveOptions::default()
    };
    let (events, mut news) = mpsc::channel(16);
    let follow = async {
        let mut progress = Progress::new();
        while let Some(event) = news.recv().await {
            progress.apply(&event, SystemTime::now());
        }
        let ran = progress
            .vertices()
            .iter()
            .filter(|vertex| !vertex.cached && vertex.started().is_some());
        ran.map(|vertex| vertex.name.clone()).collect()
    };
    tokio::join!(client.solve(options, events, CancellationToken::new()), follow)
}

/// Why a build was refused.
async fn refusal(client: &Client, definition: &pb::Definition) -> anyhow::Result<String> {
    let (outcome, _) = solve(client, definition).await;
    let error = outcome.err().context("it was taken")?;
    let error = error
        .daemon_error()
        .with_context(|| format!("not refused by the daemon, but {error}"))?;
    Ok(error.message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_definition_in_a_file_asks_for_is_built_and_built_upon() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let client = Client::connect(&daemon.address().parse()?).await?;

    let innermost = inner("echo deep > /deep");
    let middle = around(&innermost, Some("sub.llb"), "cat /deep && echo middle > /middle");
    let outer = around(
        &middle,
        None,
        "test \"$(cat /deep /middle)\" = \"$(printf 'deep\\nmiddle')\"",
    );
    let (outcome, ran) = solve(&client, &outer).await;
    outcome.context("the nested build failed")?;
    ensure!(ran.iter().any(|name| name.contains("echo deep")), "{ran:?}");

    let (outcome, ran) = solve(&client, &outer).await;
    outcome?;
    ensure!(
        ran.iter().all(|name| !name.starts_with("sh -c")),
        "it ran again: {ran:?}"
    );

    // The client of an inner step is told what failed.
    let message = refusal(&client, &around(&inner("echo oh no && exit 3"), None, "true")).await?;
    ensure!(message.contains("exit code: 3"), "{message}");

    let garbage = pb::Definition {
        def: vec![vec![0xff; 3].into(), Vec::new().into()],
        ..pb::Definition::default()
    };
    let malformed = "failed to load the definition in buildkit.llb.definition";
    let message = refusal(&client, &around(&garbage, None, "true")).await?;
    ensure!(message.contains(malformed), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_for_another_worker_is_refused() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let client = Client::connect(&daemon.address().parse()?).await?;
    let constrained = |filter: &str| {
        let mut graph = Graph::default();
        let base = graph.add(&image(ALPINE));
        let mut step = run(input(&base, 0), &["true"]);
        let filter = vec![filter.to_owned()];
        step.constraints = Some(pb::WorkerConstraints { filter });
        let step = graph.add(&step);
        graph.asking_for(&step, 0)
    };
    let executor = "labels.\"org.mobyproject.buildkit.worker.executor\"";
    solve(&client, &constrained(&format!("{executor}==oci"))).await.0?;
    for (filter, message) in [
        (format!("{executor}==other"), "no worker matches the constraint"),
        ("labels.x==".to_owned(), "filters: parse error"),
    ] {
        let said = refusal(&client, &constrained(&filter)).await?;
        ensure!(said.contains(message), "{said}");
    }
    Ok(())
}
