//! The history of builds, through Docker's own client: over restarts and crashes of the daemon.

use std::path::Path;

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need};
use serde_json::Value;

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Sid];
const WELL: &str = "FROM alpine\nRUN echo all is well\n";
const BAD: &str = "FROM alpine\nRUN echo before\nRUN echo all is lost && exit 7\n";

/// What `buildx history ls` says, newest first.
fn list(buildx: &Buildx, options: &[&str]) -> anyhow::Result<Vec<Value>> {
    let program = buildx.command(["history", "ls", "--no-trunc", "--format", "json"])?;
    let text = program.args(options).output()?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn field<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}

/// Id and state of everything in the list.
fn states(buildx: &Buildx) -> anyhow::Result<Vec<(String, String)>> {
    let records = list(buildx, &[])?;
    let states = records
        .iter()
        .map(|record| (field(record, "ref").to_owned(), field(record, "status").to_owned()));
    Ok(states.collect())
}

fn inspect(buildx: &Buildx, id: &str) -> anyhow::Result<Value> {
    let program = buildx.command(["history", "inspect", "--format", "json", id])?;
    Ok(serde_json::from_str(&program.output()?)?)
}

/// The last part of an id, which is what later commands take.
fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

fn files_below(dir: &Path) -> usize {
    let entries = walkdir::WalkDir::new(dir).into_iter().flatten();
    entries.filter(|entry| entry.file_type().is_file()).count()
}

#[test]
fn builds_are_listed_shown_and_removed_also_after_a_crash() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    ensure!(list(&buildx, &[])?.is_empty(), "probes are not recorded");
    let well = lab.files("well", &[("Dockerfile", WELL)])?;
    let bad = lab.files("bad", &[("Dockerfile", BAD)])?;
    let tar = lab.path("well.tar");
    buildx
        .command([
            "build",
            "--label",
            "a=b",
            "--build-arg",
            "PROXY=http://me:secret@proxy",
            "-o",
        ])?
        .args([format!("type=oci,dest={}", tar.display())])
        .args([&well])
        .output()?;
    let failed = buildx.command(["build"])?.args([&bad]).run()?;
    ensure!(!failed.status.success());

    let before = states(&buildx)?;
    ensure!(before.len() == 2, "{before:?}");
    let (lost, fine) = (short(&before[0].0).to_owned(), short(&before[1].0).to_owned());
    ensure!(before[0].1 == "Error" && before[1].1 == "Completed", "{before:?}");
    let only = list(&buildx, &["--filter", "status=error"])?;
    ensure!(only.len() == 1 && field(&only[0], "ref").ends_with(&lost), "{only:?}");

    let shown = inspect(&buildx, &fine)?;
    ensure!(shown["Status"] == "completed", "{shown}");
    ensure!(shown["NumCompletedSteps"].as_i64() >= Some(3), "{shown}");
    ensure!(shown["NumTotalSteps"] == shown["NumCompletedSteps"], "{shown}");
    let text = shown.to_string();
    ensure!(
        text.contains("http://xxxxx@proxy") && !text.contains("secret"),
        "{text}"
    );
    let shown = inspect(&buildx, &lost)?;
    ensure!(shown["Status"] == "failed", "{shown}");
    let shown = buildx.command(["history", "inspect", &lost])?.output()?;
    // The error's own record: its place in the Dockerfile, and the last words of the step.
    for expected in ["exit code: 7", ">>> RUN echo all is lost", "all is lost"] {
        ensure!(shown.contains(expected), "{expected} is missing:\n{shown}");
    }

    daemon.kill()?;
    daemon.start_again()?;
    ensure!(states(&buildx)? == before, "the same records after a crash");
    let log = buildx.command(["history", "logs", &fine])?.run()?.success()?;
    let log = format!("{}{}", log.stdout, log.stderr);
    ensure!(
        log.contains("RUN echo all is well") && log.contains("all is well"),
        "{log}"
    );
    let log = buildx.command(["history", "logs", &lost])?.run()?;
    let log = format!("{}{}", log.stdout, log.stderr);
    ensure!(log.contains("all is lost"), "{log}");

    buildx.command(["history", "rm", &lost])?.output()?;
    ensure!(states(&buildx)? == before[1..], "one is gone");
    daemon.stop()?;
    daemon.start_again()?;
    ensure!(states(&buildx)? == before[1..], "and stays gone");
    buildx.command(["history", "rm", "--all"])?.output()?;
    ensure!(states(&buildx)?.is_empty());
    ensure!(
        files_below(&daemon.root().join("history")) == 0,
        "nothing is left on disk"
    );
    Ok(())
}

#[test]
fn a_build_is_seen_while_it_runs_and_when_it_was_given_up() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let context = lab.files(
        "long",
        &[("Dockerfile", "FROM alpine\nRUN echo it runs && sleep 600\n")],
    )?;
    let build = Cairn::with(&lab, &daemon).start_build([&context])?;
    build.wait_for_output("it runs")?;
    let running = states(&buildx)?;
    ensure!(running.len() == 1 && running[0].1 == "Running", "{running:?}");
    build.kill()?;
    // The daemon writes that down before it ends.
    daemon.stop()?;
    daemon.start_again()?;
    let after = states(&buildx)?;
    ensure!(after.len() == 1 && after[0].0 == running[0].0, "{after:?}");
    // The list calls whatever did not succeed an error.
    let shown = inspect(&buildx, short(&after[0].0))?;
    ensure!(shown["Status"] == "canceled", "{shown}");
    let log = buildx.command(["history", "logs", short(&after[0].0)])?.run()?;
    ensure!(
        format!("{}{}", log.stdout, log.stderr).contains("it runs"),
        "{}",
        log.stderr
    );
    Ok(())
}

#[test]
fn old_records_go_and_none_are_kept_on_request() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let bases = cairn_tests::lab::mirror_config(&cairn_tests::lab::base_registry()?);
    let config = |history: &str| format!("{bases}\n[history]\n{history}\n");
    let context = lab.files("context", &[("Dockerfile", WELL)])?;
    let root = lab.path("root");
    for (settings, kept) in [
        ("maxAge = 0\nmaxEntries = 2", 2),
        ("maxEntries = 0", 0),
        ("maxAge = \"1h\"\nmaxEntries = 1", 3),
    ] {
        if root.exists() {
            std::fs::remove_dir_all(root.join("history"))?;
        }
        let mut daemon = Daemon::start_with(&lab, &root, &config(settings))?;
        let buildx = Buildx::remote_at(&lab, &format!("buildx-{kept}"), &daemon.address(), &[])?;
        for _ in 0..3 {
            buildx.command(["build"])?.args([&context]).output()?;
        }
        let records = list(&buildx, &[])?;
        ensure!(records.len() == kept, "{settings}: {records:?}");
        daemon.stop().context("failed to stop")?;
    }
    Ok(())
}
