//! Looking into steps that failed.

use anyhow::{Context as _, ensure};
use cairn_proto::gateway::{
    EvaluateRequest, NewContainerRequest, ReadFileRequest, ReturnRequest, SolveRequest, result,
};
use cairn_proto::{pb, rpc};
use cairn_tests::driven::Driven;
use cairn_tests::llb::{Graph, image, input, make_file, run};
use cairn_tests::{Buildx, Daemon, Lab, Need};
use prost::Message as _;
use serde_json::Value;
use tonic::Status;

const SOLVE: &str = "github.com/moby/buildkit/errdefs.Solve+json";

/// The detail that says how to look into a failed step.
fn solve_detail(status: &Status) -> anyhow::Result<Value> {
    let wire = rpc::Status::decode(status.details())?;
    let detail = wire.details.iter().find(|detail| detail.type_url == SOLVE);
    let detail = detail.with_context(|| format!("no such detail: {status:?}"))?;
    Ok(serde_json::from_slice(&detail.value)?)
}

async fn fails(build: &mut Driven, definition: pb::Definition, evaluate: bool) -> anyhow::Result<Status> {
    let request = build.request(SolveRequest {
        definition: Some(definition),
        evaluate,
        allow_result_return: true,
        ..SolveRequest::default()
    });
    let solved = build.bridge.solve(request).await;
    if evaluate {
        return solved.err().context("it did not fail");
    }
    let Some(result::Result::Ref(reference)) = solved?.into_inner().result.and_then(|result| result.result) else {
        anyhow::bail!("another result");
    };
    let request = build.request(EvaluateRequest { r#ref: reference.id });
    build.bridge.evaluate(request).await.err().context("it did not fail")
}

/// What `script` prints in a container with these mounts.
async fn shell(build: &mut Driven, name: &str, mounts: Vec<pb::Mount>, script: &str) -> anyhow::Result<String> {
    build.container(name, mounts).await?;
    let mut talk = build.stream().await?;
    talk.start(name, "p", script, false).await?;
    let said = talk.until_done(1).await?.remove("p").context("nothing was said")?;
    build.release(name).await?;
    Ok(said.join(" "))
}

fn mount(dest: &str, id: &Value) -> pb::Mount {
    pb::Mount {
        dest: dest.to_owned(),
        result_id: id.as_str().unwrap_or_default().to_owned(),
        ..pb::Mount::default()
    }
}

#[tokio::test]
async fn a_failed_process_is_looked_into() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "failed").await?;
    for evaluate in [true, false] {
        let mut graph = Graph::default();
        let base = graph.add(&image("docker.io/library/alpine:latest"));
        let data = graph.add(&make_file("/given", "data"));
        let script = format!("echo left > /left; echo own > /own/left; ls /data; : {evaluate}; exit 7");
        let mut op = run(input(&base, 0), &["sh", "-c", &script]);
        op.inputs.push(input(&data, 0));
        let Some(pb::op::Op::Exec(exec)) = &mut op.op else {
            unreachable!("it is a command")
        };
        for (input, dest, readonly) in [(1, "/data", true), (-1, "/own", false)] {
            exec.mounts.push(pb::Mount {
                input,
                output: -1,
                dest: dest.to_owned(),
                readonly,
                ..pb::Mount::default()
            });
        }
        let failing = graph.add(&op);
        let status = fails(&mut build, graph.asking_for(&failing, 0), evaluate).await?;
        ensure!(status.message().contains("exit code: 7"), "{status:?}");
        let detail = solve_detail(&status)?;
        ensure!(detail["op"]["exec"]["meta"]["args"][2] == script, "{detail}");
        ensure!(detail["op"]["exec"]["mounts"].as_array().map(Vec::len) == Some(3));
        // Debuggers find their way back along these.
        let from: Vec<&Value> = (0..2).map(|n| &detail["op"]["inputs"][n]["digest"]).collect();
        ensure!(
            *from[0] == input(&base, 0).digest && *from[1] == input(&data, 0).digest,
            "{detail}"
        );
        let (inputs, mounts) = (&detail["inputIDs"], &detail["mountIDs"]);
        ensure!(inputs[2] == "" && inputs[1] == mounts[1], "{detail}");
        let all = |ids: &Value| vec![mount("/", &ids[0]), mount("/data", &ids[1]), mount("/own", &ids[2])];
        let script = "cat /left /own/left /data/given; true";
        let after = shell(&mut build, "after", all(mounts), script).await?;
        ensure!(after.contains("left\nown\ndata"), "{after}");
        let before = shell(&mut build, "before", all(inputs), script).await?;
        ensure!(
            before.contains("'/left': No such file") && before.contains("data"),
            "{before}"
        );

        // The names mean something in this build alone, and are no results.
        let mut other = Driven::start(&daemon, &format!("other-{evaluate}")).await?;
        let forged = other.container("c", all(mounts)).await.err().context("it was taken")?;
        ensure!(forged.message().contains("failed to find ref"), "{forged:?}");
        let request = build.request(ReadFileRequest {
            r#ref: mounts[0].as_str().unwrap_or_default().to_owned(),
            file_path: "/left".into(),
            ..ReadFileRequest::default()
        });
        let refused = build.bridge.read_file(request).await.err().context("it was read")?;
        ensure!(refused.message().contains("no such ref"), "{refused:?}");
    }
    let request = build.request(ReturnRequest {
        error: Some(rpc::Status {
            code: 2,
            message: "seen enough".to_owned(),
            ..rpc::Status::default()
        }),
        result: None,
    });
    build.bridge.r#return(request).await?;
    (&mut build.solve).await?.err().context("it was built")?;
    Ok(())
}

#[tokio::test]
async fn failed_file_operations_and_missing_content_are_looked_into() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "files").await?;
    let base = build.image().await?;
    let on_base = |id: &Value| vec![mount("/", &Value::from(base.clone())), mount("/state", id)];

    let mut graph = Graph::default();
    let mut op = make_file("/first", "made");
    let Some(pb::op::Op::File(file)) = &mut op.op else {
        unreachable!("it is a file operation")
    };
    file.actions[0].output = -1;
    file.actions.push(pb::FileAction {
        input: 0,
        secondary_input: -1,
        output: 0,
        action: Some(pb::file_action::Action::Rm(pb::FileActionRm {
            path: "/missing".to_owned(),
            ..pb::FileActionRm::default()
        })),
    });
    let failing = graph.add(&op);
    let status = fails(&mut build, graph.asking_for(&failing, 0), true).await?;
    let detail = solve_detail(&status)?;
    ensure!(
        detail["file"]["index"] == "1" && detail["mountIDs"][0] == "",
        "{detail}"
    );
    let seen = shell(&mut build, "file", on_base(&detail["mountIDs"][1]), "cat /state/first").await?;
    ensure!(seen.contains("made"), "{seen}");

    let mut graph = Graph::default();
    let source = graph.add(&make_file("/there", "x"));
    let copy = pb::FileAction {
        input: -1,
        secondary_input: 0,
        output: 0,
        action: Some(pb::file_action::Action::Copy(pb::FileActionCopy {
            src: "/not-there".to_owned(),
            dest: "/".to_owned(),
            mode: -1,
            timestamp: -1,
            ..pb::FileActionCopy::default()
        })),
    };
    let failing = graph.add(&pb::Op {
        inputs: vec![input(&source, 0)],
        op: Some(pb::op::Op::File(pb::FileOp { actions: vec![copy] })),
        ..pb::Op::default()
    });
    let status = fails(&mut build, graph.asking_for(&failing, 0), true).await?;
    let detail = solve_detail(&status)?;
    ensure!(detail["cache"] == serde_json::json!({}), "{detail}");
    let seen = shell(&mut build, "content", on_base(&detail["inputIDs"][0]), "ls /state").await?;
    ensure!(seen.contains("there"), "{seen}");
    let request = build.request(NewContainerRequest {
        container_id: "none".to_owned(),
        mounts: vec![mount("/", &Value::from("w::forged"))],
        ..NewContainerRequest::default()
    });
    let refused = build
        .bridge
        .new_container(request)
        .await
        .err()
        .context("it was taken")?;
    ensure!(
        refused.message().contains("failed to find ref w::forged"),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn every_failure_names_its_step() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let mut build = Driven::start(&daemon, "named").await?;
    let source = |identifier: &str| pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: identifier.to_owned(),
            ..pb::SourceOp::default()
        })),
        ..pb::Op::default()
    };
    for (identifier, words) in [
        ("docker-image://docker.io/library/nosuch:1", "nosuch:1: not found"),
        ("local://nowhere", "no active sessions"),
    ] {
        let mut graph = Graph::default();
        let missing = graph.add(&source(identifier));
        let status = fails(&mut build, graph.asking_for(&missing, 0), true).await?;
        let detail = solve_detail(&status)?;
        ensure!(status.message().contains(words), "{status:?}");
        ensure!(detail["op"]["source"]["identifier"] == identifier, "{detail}");
        ensure!(detail["inputIDs"].is_null() && detail["mountIDs"].is_null(), "{detail}");
    }

    let mut graph = Graph::default();
    let base = graph.add(&image("docker.io/library/alpine:latest"));
    let failing = graph.add(&run(input(&base, 0), &["sh", "-c", "exit 3"]));
    let mut definition = graph.asking_for(&failing, 0);
    let description = [("com.example.note".to_owned(), "mine".to_owned())];
    let metadata = pb::OpMetadata {
        description: description.into(),
        ..pb::OpMetadata::default()
    };
    definition.metadata.insert(failing, metadata);
    let detail = solve_detail(&fails(&mut build, definition, true).await?)?;
    ensure!(detail["op"]["inputs"][0]["digest"] == base, "{detail}");
    ensure!(detail["description"]["com.example.note"] == "mine", "{detail}");

    // What is no step is said to be none.
    let request = build.request(SolveRequest {
        frontend: "none.v0".to_owned(),
        ..SolveRequest::default()
    });
    let status = build.bridge.solve(request).await.err().context("there is one")?;
    ensure!(solve_detail(&status)? == serde_json::json!({}), "{status:?}");
    Ok(())
}

#[test]
fn buildx_opens_a_shell_in_a_failed_step_and_nothing_of_it_stays() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let dockerfile =
        "FROM alpine\nRUN --mount=type=tmpfs,target=/t echo trace > /failed-here; echo $HOSTNAME; exit 9\n";
    let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
    let invoke = "entrypoint=/bin/sh,args=-c,args=cat /failed-here; echo in $((40+2)) $(stat -f -c %T /t)";
    let shown = buildx
        .command(["debug", "--on=error", "--invoke", invoke, "build", "--progress=plain"])?
        .args([&context])
        .env("BUILDX_EXPERIMENTAL", "1")
        .until_shown("in 42")?;
    ensure!(shown.contains("in 42 tmpfs"), "{shown}");
    ensure!(shown.lines().any(|line| line.trim() == "trace"), "{shown}");
    // What was left goes with the build, which ends some time after its client.
    let is_gone = (0..100).any(|_| {
        let kept = buildx.command(["du", "--verbose"]).and_then(|du| du.output());
        kept.is_ok_and(|kept| !kept.contains("failed exec"))
    });
    ensure!(is_gone, "the state of a failed step outlives its build");
    Ok(())
}
