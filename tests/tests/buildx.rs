//! Docker's own client against this daemon.

use std::time::Duration;

use anyhow::ensure;
use cairn_tests::{Buildx, Daemon, Image, Lab, Need, Progress};

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Sid];

#[test]
fn the_main_job_is_built_unmodified() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let context = lab.example("multi-stage")?;
    let tar = lab.path("hello.tar");
    let output = format!("type=oci,dest={}", tar.display());
    let build = || {
        buildx
            .command(["build", "--progress", "rawjson", "-t", "hello:multi", "-o", &output])?
            .args([&context])
            .run()
    };

    let first = build()?.success()?;
    let progress = Progress::parse(first.stderr.lines());
    let foo = progress.vertex("[foo 2/2] RUN make").interval();
    let bar = progress.vertex("[bar 2/2] RUN make").interval();
    ensure!(
        foo.overlap(&bar) > Duration::ZERO,
        "foo {foo:?} and bar {bar:?} ran one after the other"
    );
    let image = Image::from_oci(&lab, &tar)?;
    image.expect_files(&["/bin1", "/bin2"], &["/src", "/usr/bin/gcc"])?;
    ensure!(image.run()?.trim() == "hello from bin1");

    let progress = Progress::parse(build()?.success()?.stderr.lines());
    ensure!(progress.executed().is_empty(), "{:?} ran again", progress.executed());
    Ok(())
}

#[test]
fn programs_of_go_and_files_of_other_images_are_built_and_loaded() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    for (example, dockerfile, command) in [
        ("go-server", "Dockerfile.named", &["/greeter", "-check"][..]),
        ("etcd-copy", "Dockerfile", &["etcd", "--version"]),
    ] {
        let context = lab.example(example)?;
        let tar = lab.path(&format!("{example}.tar"));
        let output = format!("type=docker,dest={}", tar.display());
        let build = buildx.command(["build", "-t", &format!("{example}:1"), "-o", &output, "-f"])?;
        build.args([&context.join(dockerfile), &context]).output()?;
        Image::from_docker(&lab, &tar)?.run_command(command)?;
    }
    Ok(())
}

#[test]
fn the_builder_is_inspected_measured_and_pruned() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    let inspected = buildx.command(["inspect"])?.output()?;
    ensure!(
        inspected.contains("running") && inspected.contains("linux/"),
        "{inspected}"
    );

    let context = lab.files("context", &[("Dockerfile", "FROM alpine\nRUN echo well > /then\n")])?;
    let dir = lab.path("out");
    buildx
        .command(["build", "-o", &dir.display().to_string()])?
        .args([&context])
        .output()?;
    ensure!(std::fs::read_to_string(dir.join("then"))? == "well\n");

    let used = buildx.command(["du"])?.output()?;
    ensure!(used.contains("Total:") && used.lines().count() > 3, "{used}");
    buildx.command(["prune", "--all", "--force"])?.output()?;
    let left = buildx.command(["du"])?.output()?;
    ensure!(left.lines().count() < used.lines().count(), "{used}\n{left}");
    buildx
        .command(["build", "-o", &dir.display().to_string()])?
        .args([&context])
        .output()?;
    Ok(())
}

#[test]
fn failures_are_shown_with_the_line() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(NEEDS)? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildx = Buildx::remote(&lab, &daemon)?;
    for (dockerfile, expected) in [
        (
            "FROM alpine\nRUN echo last words; exit 42\n",
            &["2 | >>> RUN echo last words; exit 42", "exit code: 42", "last words"][..],
        ),
        ("FROM alpine\nCOPY nowhere /\n", &["2 | >>> COPY nowhere /", "nowhere"]),
        (
            "FROM alpine\nCOOPY a b\n",
            &["2 | >>> COOPY a b", "unknown instruction"],
        ),
    ] {
        let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
        let finished = buildx
            .command(["build", "--progress", "plain"])?
            .args([&context])
            .run()?;
        ensure!(!finished.status.success(), "{dockerfile:?} was built");
        for text in expected {
            ensure!(finished.stderr.contains(text), "no {text:?} in:\n{}", finished.stderr);
        }
    }
    Ok(())
}
