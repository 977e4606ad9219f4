//! Definitions that no frontend would make: refused, whatever they are, and the daemon serves on.

use anyhow::{Context as _, ensure};
use cairn_client::{Client, ClientError, SolveOptions, Solved};
use cairn_proto::pb;
use cairn_tests::llb::{Graph, digest, image, input, run};
use cairn_tests::{Daemon, Lab, Need};
use prost::Message as _;

/// Operations that would be good if the last one were right.
fn good_start() -> (Graph, String) {
    let mut graph = Graph::default();
    let base = graph.add(&image("docker.io/library/alpine:latest"));
    (graph, base)
}

fn empty() -> pb::Definition {
    Graph::default().definition()
}

fn garbage() -> pb::Definition {
    let mut graph = Graph::default();
    let digest = graph.add_bytes(vec![0xff; 64]);
    graph.asking_for(&digest, 0)
}

fn garbage_at_the_end() -> pb::Definition {
    let (mut graph, _) = good_start();
    graph.add_bytes(b"\x0a\xff\xff\xff\xff\x7f".to_vec());
    graph.definition()
}

fn missing_input() -> pb::Definition {
    let mut graph = Graph::default();
    let digest = graph.add(&run(input(&digest(b"nobody"), 0), &["true"]));
    graph.asking_for(&digest, 0)
}

fn missing_target() -> pb::Definition {
    good_start().0.asking_for(&digest(b"nobody"), 0)
}

fn malformed_digest() -> pb::Definition {
    good_start().0.asking_for("sha256:../../etc/passwd", 0)
}

/// An operation cannot hold its own digest, but its bytes can claim somebody else's; two that name each other by
/// digests that nothing has are as near to a cycle as the format gets.
fn cycle() -> pb::Definition {
    let mut graph = Graph::default();
    let first = run(input(&digest(b"second"), 0), &["true"]);
    let first = graph.add(&first);
    let second = graph.add(&run(input(&first, 0), &["true"]));
    graph.add(&run(input(&second, 0), &["false"]));
    graph.asking_for(&second, 0)
}

fn no_target() -> pb::Definition {
    good_start().0.definition()
}

fn index_beyond_outputs() -> pb::Definition {
    let (graph, base) = good_start();
    graph.asking_for(&base, 7)
}

fn negative_index() -> pb::Definition {
    let (graph, base) = good_start();
    graph.asking_for(&base, -1)
}

fn mount_of_an_input_that_is_not_there() -> pb::Definition {
    let (mut graph, base) = good_start();
    let mut op = run(input(&base, 0), &["true"]);
    if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
        exec.mounts[0].input = 9;
    }
    let digest = graph.add(&op);
    graph.asking_for(&digest, 0)
}

fn nothing_to_run() -> pb::Definition {
    let (mut graph, base) = good_start();
    let digest = graph.add(&run(input(&base, 0), &[]));
    graph.asking_for(&digest, 0)
}

fn no_operation_in_it() -> pb::Definition {
    let (mut graph, base) = good_start();
    let digest = graph.add(&pb::Op {
        inputs: vec![input(&base, 0), input(&base, 0)],
        ..pb::Op::default()
    });
    graph.asking_for(&digest, 0)
}

fn unknown_source() -> pb::Definition {
    let mut graph = Graph::default();
    let mut op = image("x");
    if let Some(pb::op::Op::Source(source)) = &mut op.op {
        source.identifier = "gopher://example.org/1".to_owned();
    }
    let digest = graph.add(&op);
    graph.asking_for(&digest, 0)
}

async fn solve(client: &Client, definition: pb::Definition) -> Result<Solved, ClientError> {
    let options = SolveOptions {
        definition: Some(definition),
        ..SolveOptions::default()
    };
    cairn_tests::solve(client, options).await
}

#[tokio::test]
async fn malformed_definitions_are_refused() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let client = Client::connect(&daemon.address().parse()?).await?;
    for (name, definition) in [
        ("garbage", garbage()),
        ("garbage at the end", garbage_at_the_end()),
        ("missing input", missing_input()),
        ("missing target", missing_target()),
        ("malformed digest", malformed_digest()),
        ("cycle", cycle()),
        ("no target", no_target()),
        ("index beyond outputs", index_beyond_outputs()),
        ("negative index", negative_index()),
        (
            "mount of an input that is not there",
            mount_of_an_input_that_is_not_there(),
        ),
        ("nothing to run", nothing_to_run()),
        ("no operation in it", no_operation_in_it()),
        ("unknown source", unknown_source()),
    ] {
        let refused = solve(&client, definition).await;
        let error = refused.err().with_context(|| format!("{name}: was taken"))?;
        let daemon_error = error
            .daemon_error()
            .with_context(|| format!("{name}: not refused by the daemon, but {error}"))?;
        ensure!(!daemon_error.message.is_empty(), "{name}: refused without a word");
        ensure!(
            !daemon_error.message.contains("panic"),
            "{name}: {}",
            daemon_error.message
        );
        ensure!(daemon.is_running(), "{name}: the daemon is gone:\n{}", daemon.log());
    }
    ensure!(!daemon.log().contains("panicked"), "{}", daemon.log());

    let (mut graph, base) = good_start();
    let well = graph.add(&run(input(&base, 0), &["/bin/busybox", "true"]));
    solve(&client, graph.asking_for(&well, 0))
        .await
        .context("a good definition after the bad ones")?;
    // No definition and no frontend asks for nothing, and gets it, or is told so; either way the daemon lives.
    let _asked_for_nothing = solve(&client, empty()).await;
    ensure!(daemon.is_running(), "the daemon is gone:\n{}", daemon.log());
    Ok(())
}

#[test]
fn the_command_line_shows_definitions_and_refuses_what_is_none() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (mut graph, base) = good_start();
    let step = graph.add(&run(input(&base, 0), &["make", "all"]));
    let file = lab.path("definition");
    std::fs::write(&file, graph.asking_for(&step, 0).encode_to_vec())?;
    let cairn = cairn_tests::lab::own_program("cairn")?;
    let dump = |more: &[&str]| {
        cairn_tests::Program::new(&cairn)
            .args(["debug", "dump-llb"])
            .args(more)
            .args([&file])
            .run()
    };
    let shown = dump(&[])?.success()?.stdout;
    ensure!(
        shown.contains("docker-image://docker.io/library/alpine:latest") && shown.contains("make"),
        "{shown}"
    );
    let shown = dump(&["--json"])?.success()?.stdout;
    for line in shown.lines() {
        serde_json::from_str::<serde_json::Value>(line)?;
    }
    std::fs::write(&file, [0xff; 32])?;
    let finished = dump(&[])?;
    ensure!(
        finished.status.code() == Some(1) && finished.stderr.contains("definition"),
        "{finished:?}"
    );
    Ok(())
}
