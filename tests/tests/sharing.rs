//! Builds that share steps: who gives up takes nothing from the others, and failures stay where they belong.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Lab, Need, Outcome, processes_with_variable, wait_for_exit};

const PATIENCE: Duration = Duration::from_secs(30);

/// A text that no other test uses.
fn marker(lab: &Lab) -> String {
    lab.dir().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A context with this Dockerfile.
fn context(lab: &Lab, name: &str, dockerfile: &str) -> anyhow::Result<String> {
    Ok(lab.files(name, &[("Dockerfile", dockerfile)])?.display().to_string())
}

/// Steps that failed, by name.
fn failed(outcome: &Outcome) -> Vec<String> {
    let vertices = outcome.progress.vertices().iter();
    let failed = vertices.filter(|vertex| !vertex.error.is_empty() && !vertex.error.contains("cancel"));
    failed.map(|vertex| vertex.name.clone()).collect()
}

#[test]
fn a_shared_step_ends_with_the_last_client_that_waits_for_it() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let idle = daemon.leftovers();
    let marker = marker(&lab);
    let argument = format!("MARKER={marker}");
    let waiting = context(
        &lab,
        "waiting",
        "FROM alpine\nARG MARKER\nRUN echo waiting && exec sleep 1000\n",
    )?;
    let quick = context(&lab, "quick", "FROM alpine\nRUN echo well > /then\n")?;

    let build = || cairn.start_build(["--build-arg", &argument, &waiting]);
    let (first, second) = (build()?, build()?);
    first.wait_for_output("waiting")?;
    second.wait_for_output("waiting")?;
    let processes = || processes_with_variable(&argument);
    let pids = processes();
    ensure!(pids.len() == 1, "the step has processes {pids:?}");

    first.kill()?;
    // By then the daemon has long seen that the first client is gone.
    cairn.build([&quick])?;
    ensure!(processes() == pids, "the step ended with the first of two clients");

    let killed = Instant::now();
    second.kill()?;
    for pid in pids {
        ensure!(wait_for_exit(pid, PATIENCE)?, "process {pid} still runs");
    }
    say(&format!(
        "the process of a step was gone {:?} after its last client",
        killed.elapsed()
    ));

    cairn.build([&quick])?;
    ensure!(daemon.leftovers() == idle, "{:?}", daemon.leftovers());
    Ok(())
}

#[test]
fn a_failure_is_told_once_and_other_builds_go_on() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let marker = marker(&lab);
    let gate = format!("--mount=type=cache,id={marker},target=/gate");
    let until = |name: &str| format!("while [ ! -e /gate/{name} ]; do sleep 0.1; done");
    let other = context(
        &lab,
        "other",
        &format!(
            "FROM alpine\nRUN {gate} echo waiting; {}; echo done > /done\n",
            until("end")
        ),
    )?;
    // Two stages need the step that fails, and the last needs both.
    let failing = |name: &str| {
        let dockerfile = format!(
            "FROM alpine AS bad\nRUN {gate} echo waiting; echo x >> /gate/runs; {}; exit 7\n\
             FROM bad AS one\nRUN echo {name}\nFROM bad AS two\nRUN echo more {name}\n\
             FROM scratch\nCOPY --from=one / /one\nCOPY --from=two / /two\n",
            until("fail")
        );
        context(&lab, name, &dockerfile)
    };
    let open = |name: &str| -> anyhow::Result<()> {
        let context = context(&lab, name, &format!("FROM alpine\nRUN {gate} touch /gate/{name}\n"))?;
        cairn.build([&context]).map(drop)
    };

    let going = cairn.start_build([&other])?;
    let bad = [
        cairn.start_build([failing("first")?])?,
        cairn.start_build([failing("second")?])?,
    ];
    going.wait_for_output("waiting")?;
    for build in &bad {
        build.wait_for_output("waiting")?;
    }
    open("fail")?;
    for build in bad {
        let outcome = build.finish()?;
        ensure!(outcome.code != 0, "a failure was none");
        let failed = failed(&outcome);
        ensure!(
            matches!(&failed[..], [step] if step.starts_with("[bad 2/2] RUN")),
            "{failed:?}"
        );
        ensure!(
            outcome.remarks.matches("exit code: 7").count() >= 1,
            "{}",
            outcome.remarks
        );
    }
    open("end")?;
    let outcome = going.finish()?;
    ensure!(outcome.code == 0, "another build failed too: {}", outcome.remarks);

    let count = format!("FROM alpine\nRUN {gate} test $(wc -l < /gate/runs) = 1\n");
    cairn.build([context(&lab, "count", &count)?])?;
    Ok(())
}

/// Says what was measured, to whoever runs the test with its output shown.
fn say(text: &str) {
    use std::io::Write as _;
    let _lost = writeln!(std::io::stdout(), "{text}");
}
