//! Calls, news and codes as BuildKit's client library takes them.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use cairn_client::{ClientError, LocalDir, ProgressEvent, SolveOptions};
use cairn_proto::gateway::{
    self, FileRange, ReadFileRequest, RefMap, ResolveSourceMetaRequest, ReturnRequest, SolveRequest, WarnRequest,
    result,
};
use cairn_proto::pb;
use cairn_tests::driven::Driven;
use cairn_tests::llb::{Graph, image, input, make_file};
use cairn_tests::{Daemon, Lab, Need, solve, to_dir};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

fn local(name: &str) -> pb::SourceOp {
    pb::SourceOp {
        identifier: format!("local://{name}"),
        ..pb::SourceOp::default()
    }
}

#[tokio::test]
async fn what_is_told_and_asked_need_be_about_no_step() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[])? else { return Ok(()) };
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "calls").await?;

    let warning = build.request(WarnRequest {
        level: 1,
        short: "about no step".into(),
        ..WarnRequest::default()
    });
    build.bridge.warn(warning).await?;
    let asked = build.request(ResolveSourceMetaRequest {
        source: Some(local("anything")),
        ..ResolveSourceMetaRequest::default()
    });
    let answer = build.bridge.resolve_source_meta(asked).await?.into_inner();
    ensure!(answer.source == Some(local("anything")), "{answer:?}");

    // Several results need a list of platforms that says which is which.
    let mut graph = Graph::default();
    let file = graph.add(&make_file("/made", "x"));
    let request = build.request(SolveRequest {
        definition: Some(graph.asking_for(&file, 0)),
        allow_result_return: true,
        ..SolveRequest::default()
    });
    let solved = build.bridge.solve(request).await?.into_inner().result;
    let Some(result::Result::Ref(made)) = solved.and_then(|result| result.result) else {
        anyhow::bail!("another result")
    };
    for (range, want) in [(None, "x"), (Some((0, 5)), "x"), (Some((0, 0)), ""), (Some((7, 5)), "")] {
        let request = build.request(ReadFileRequest {
            r#ref: made.id.clone(),
            file_path: "/made".into(),
            range: range.map(|(offset, length)| FileRange { offset, length }),
            ..ReadFileRequest::default()
        });
        let read = build.bridge.read_file(request).await?.into_inner().data;
        ensure!(read == want, "{range:?}: {read:?}");
    }
    let refs = [("linux/amd64".to_owned(), made)].into();
    let request = build.request(ReturnRequest {
        result: Some(gateway::Result {
            result: Some(result::Result::Refs(RefMap { refs })),
            ..gateway::Result::default()
        }),
        error: None,
    });
    build.bridge.r#return(request).await?;
    let refused = (&mut build.solve).await?.err().context("it was taken")?;
    ensure!(refused.message().contains("without platforms mapping"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn directories_that_are_not_there_have_a_code_of_their_own() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[])? else { return Ok(()) };
    let daemon = Daemon::start(&lab)?;
    let client = daemon.connect().await?;
    let there = || {
        let dir = LocalDir {
            path: lab.dir().to_owned(),
            keeps_owner: false,
        };
        [("there".to_owned(), dir)].into()
    };
    let mut graph = Graph::default();
    let missing = graph.add(&pb::Op {
        op: Some(pb::op::Op::Source(local("elsewhere"))),
        ..pb::Op::default()
    });
    for options in [
        SolveOptions {
            definition: Some(graph.asking_for(&missing, 0)),
            local_dirs: there(),
            ..SolveOptions::default()
        },
        SolveOptions {
            frontend: "dockerfile.v0".to_owned(),
            local_dirs: there(),
            ..SolveOptions::default()
        },
    ] {
        let (prefix, name) = match options.frontend.is_empty() {
            true => ("", "elsewhere"),
            false => ("failed to read dockerfile: ", "dockerfile"),
        };
        let Err(ClientError::Build(error)) = solve(&client, options).await else {
            anyhow::bail!("it did not fail")
        };
        ensure!(error.code == Code::NotFound, "{error:?}");
        let words = format!("no access allowed to dir {name:?}");
        ensure!(
            error.message.starts_with(prefix) && error.message.contains(&words),
            "{error:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn steps_tell_what_they_are_at() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let mut graph = Graph::default();
    let base = graph.add(&image("docker.io/library/alpine:latest"));
    let file = graph.add(&make_file("/made", "x"));
    let merged = graph.add(&pb::Op {
        inputs: vec![input(&base, 0), input(&file, 0)],
        op: Some(pb::op::Op::Merge(pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }],
        })),
        ..pb::Op::default()
    });
    let differ = graph.add(&pb::Op {
        inputs: vec![input(&file, 0), input(&merged, 0)],
        op: Some(pb::op::Op::Diff(pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: 0 }),
            upper: Some(pb::UpperDiffInput { input: 1 }),
        })),
        ..pb::Op::default()
    });
    let mut definition = graph.asking_for(&differ, 0);
    let description = [("llb.customname".to_owned(), "both".to_owned())].into();
    let metadata = pb::OpMetadata {
        description,
        ..pb::OpMetadata::default()
    };
    definition.metadata.insert(merged, metadata);
    let options = SolveOptions {
        definition: Some(definition),
        outputs: vec![to_dir(&lab.path("out"))],
        ..SolveOptions::default()
    };
    let (events, mut news) = mpsc::channel(64);
    let mut told = BTreeSet::new();
    let listen = async {
        while let Some(event) = news.recv().await {
            let ProgressEvent::Status(status) = event else { continue };
            told.extend(status.statuses.into_iter().map(|status| (status.id, status.name)));
        }
    };
    let client = daemon.connect().await?;
    let solving = Box::pin(client.solve(options, events, CancellationToken::new()));
    let (solved, ()) = tokio::join!(solving, listen);
    solved?;
    for (id, name) in [
        ("resolve docker.io/library/alpine:latest", ""),
        ("both", "merging"),
        ("diffing", "diffing"),
        ("copying files", "transferring"),
    ] {
        ensure!(told.contains(&(id.to_owned(), name.to_owned())), "{id}: {told:?}");
    }
    Ok(())
}
