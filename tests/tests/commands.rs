//! The command line's other commands, and a command line that carries the daemon inside itself.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Lab, Leftovers, Need, Program};

#[test]
fn a_build_needs_no_running_daemon() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let config = lab.path("cairnd.toml");
    std::fs::write(
        &config,
        cairn_tests::lab::mirror_config(&cairn_tests::lab::base_registry()?),
    )?;
    let root = lab.path("root");
    let cairn = Cairn::alone(&lab, &root, &config);
    let context = lab.files("context", &[("Dockerfile", "FROM alpine\nRUN echo well > /then\n")])?;
    let dir = lab.path("out");
    let output = format!("type=local,dest={}", dir.display());
    let context = context.display().to_string();
    let first = cairn.build(["-o", &output, &context])?;
    ensure!(
        first.progress.executed() == ["[2/2] RUN echo well > /then"],
        "{:?}",
        first.progress.executed()
    );
    ensure!(std::fs::read_to_string(dir.join("then"))? == "well\n");
    // What one process knew, the next one knows.
    let second = cairn.build(["-o", &output, &context])?;
    ensure!(
        second.progress.executed().is_empty(),
        "{:?} ran again",
        second.progress.executed()
    );
    ensure!(
        Leftovers::below(&root) == Leftovers::default(),
        "{:?}",
        Leftovers::below(&root)
    );
    Ok(())
}

#[test]
fn whoever_is_interrupted_at_once_leaves_nothing_behind() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let config = lab.path("empty.toml");
    std::fs::write(&config, "")?;
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])?;
    for attempt in 0..5 {
        let root = lab.path(&format!("root{attempt}"));
        let build = Cairn::alone(&lab, &root, &config).start_build([&context])?;
        // The daemon inside it has begun to start, and has not been asked for anything yet.
        let patience = Instant::now() + Duration::from_secs(60);
        while Leftovers::below(&root).mounts.is_empty() {
            ensure!(Instant::now() < patience, "nothing is mounted");
        }
        build.interrupt()?;
        let outcome = build.finish()?;
        ensure!(matches!(outcome.code, 0 | 130), "{}: {}", outcome.code, outcome.remarks);
        let left = Leftovers::below(&root);
        left.clear();
        ensure!(left == Leftovers::default(), "{left:?}");
        ensure!(!root.join("otel-grpc.sock").exists(), "a socket is left");
    }
    Ok(())
}

#[test]
fn others_than_root_are_told_what_they_need() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let context = lab.files("context", &[("Dockerfile", "FROM scratch\n")])?;
    // Beside the context, where whoever is not root finds it.
    let program = lab.path("cairn");
    std::fs::copy(cairn_tests::lab::own_program("cairn")?, &program)?;
    let build = Program::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args([&program])
        .args(["--root", &lab.path("root").display().to_string(), "build"])
        .args([&context])
        .run()?;
    ensure!(build.status.code() == Some(3), "{}", build.stderr);
    for expected in ["needs root", "cairnd --group"] {
        ensure!(build.stderr.contains(expected), "{}", build.stderr);
    }
    Ok(())
}

#[test]
fn one_state_directory_serves_one_daemon() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let config = lab.path("empty.toml");
    std::fs::write(&config, "")?;
    let second = Cairn::alone(&lab, daemon.root(), &config).run(["du"])?;
    ensure!(!second.status.success(), "two daemons share one directory");
    for expected in [
        daemon.root().display().to_string(),
        "hint: wait for the other `cairn`".to_owned(),
    ] {
        ensure!(second.stderr.contains(&expected), "{}", second.stderr);
    }
    Ok(())
}

#[test]
fn what_is_kept_is_listed_and_removed() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.files(
        "context",
        &[("Dockerfile", "FROM alpine\nRUN dd if=/dev/zero of=/big bs=1M count=5\n")],
    )?;
    cairn.build([&context])?;
    let used = cairn.run(["du"])?.success()?.stdout;
    ensure!(used.contains("Total:") && used.contains("RECLAIMABLE"), "{used}");
    ensure!(used.contains("dd if=/dev/zero"), "the step is not among them:\n{used}");
    let verbose = cairn.run(["du", "--verbose"])?.success()?.stdout;
    ensure!(verbose.contains("Usage count:"), "{verbose}");

    let pruned = cairn.run(["prune", "--all"])?.success()?.stdout;
    ensure!(pruned.contains("Removed"), "{pruned}");
    let left = cairn.run(["du"])?.success()?.stdout;
    ensure!(!left.contains("dd if=/dev/zero"), "{left}");
    let again = cairn.build([&context])?;
    ensure!(again.progress.executed().len() == 1, "{:?}", again.progress.executed());
    Ok(())
}

#[test]
fn workers_and_versions_are_told() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let cairn = Cairn::with(&lab, &daemon);
    let workers = cairn.run(["workers"])?.success()?.stdout;
    ensure!(workers.contains("linux/"), "{workers}");
    let version = cairn.run(["version"])?.success()?.stdout;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    Ok(())
}

#[test]
fn a_plain_log_tells_every_step() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab
        .files("context", &[("Dockerfile", "FROM alpine\nRUN echo said aloud\n")])?
        .display()
        .to_string();
    let log = cairn
        .run(["build", "--progress", "plain", "-t", "x", &context])?
        .success()?
        .stderr;
    for text in ["[2/2] RUN echo said aloud", "said aloud", "DONE", "built"] {
        ensure!(log.contains(text), "no {text:?} in:\n{log}");
    }
    let quiet = cairn
        .run(["build", "--progress", "quiet", "-t", "x", &context])?
        .success()?;
    ensure!(
        quiet.stdout.trim().starts_with("sha256:") && quiet.stderr.is_empty(),
        "{quiet:?}"
    );
    Ok(())
}

#[test]
fn steps_run_confined() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let dockerfile = "FROM alpine\n\
        RUN grep -i '^Seccomp:' /proc/self/status; grep '^CapBnd:' /proc/self/status; echo \"pid $$\"; ls /proc/kcore /sys/firmware; \
        mount -t tmpfs none /mnt 2>/dev/null || echo 'no mount'; mknod /dev/sda b 8 0 2>/dev/null; head -c1 /dev/sda 2>/dev/null || echo 'no disk'; \
        echo x 2>/dev/null > /proc/sys/kernel/hostname || echo 'no sysctl'\n";
    let context = lab.files("context", &[("Dockerfile", dockerfile)])?;
    let outcome = cairn.build([context])?;
    let said = &outcome.progress.vertex("[2/2] RUN").log;
    for text in [
        "Seccomp:\t2",
        "CapBnd:\t00000000a80425fb",
        "pid 1",
        "no mount",
        "no disk",
        "no sysctl",
    ] {
        ensure!(said.contains(text), "no {text:?} in:\n{said}");
    }
    Ok(())
}
