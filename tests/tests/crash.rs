//! Daemons that are killed and clients that disappear.

use std::time::Duration;

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Image, Lab, Leftovers, Need, processes_with_variable, wait_for_exit};

const PATIENCE: Duration = Duration::from_secs(30);

/// The processes of a step, told from others by a build argument that only this test uses.
fn step_processes(marker: &str) -> Vec<u32> {
    processes_with_variable(&format!("APT_MIRROR={marker}"))
}

fn marker(lab: &Lab) -> String {
    lab.dir().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[test]
fn a_daemon_killed_while_packages_are_installed_goes_on_where_it_was() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let idle = daemon.leftovers();
    let context = lab.example("multi-stage")?;
    let dockerfile = std::fs::read_to_string(context.join("Dockerfile"))?;
    let checked = dockerfile.replacen(
        "from alpine",
        "from build-essential as checked\nrun dpkg --audit && dpkg -s gcc make && gcc --version\n\nfrom alpine",
        1,
    );
    std::fs::write(context.join("Dockerfile"), checked)?;
    let context = context.display().to_string();
    let (tar, marker) = (lab.path("hello.tar"), marker(&lab));
    let output = format!("type=oci,dest={}", tar.display());
    let argument = format!("APT_MIRROR={marker}");
    let args = ["-o", &output, "--build-arg", &argument, &context];

    let build = cairn.start_build(args)?;
    build.wait_for_output("Unpacking gcc")?;
    daemon.kill()?;
    let outcome = build.finish()?;
    ensure!(outcome.code != 0, "a build survived its daemon");

    daemon.start_again()?;
    for pid in step_processes(&marker) {
        ensure!(
            wait_for_exit(pid, PATIENCE)?,
            "process {pid} of the killed build still runs"
        );
    }
    ensure!(daemon.leftovers() == idle, "{:?}", daemon.leftovers());

    let outcome = cairn.build(args)?;
    let update = outcome.progress.vertex("RUN apt-get update");
    ensure!(update.cached, "a finished step ran again: {update:?}");
    let install = outcome.progress.vertex("RUN apt-get install");
    ensure!(
        !install.cached,
        "a step that did not finish is taken for known: {install:?}"
    );
    ensure!(Image::from_oci(&lab, &tar)?.run()?.trim() == "hello from bin1");
    cairn.build(["--target", "checked", "--build-arg", &argument, &context])?;
    ensure!(daemon.leftovers() == idle, "{:?}", daemon.leftovers());
    Ok(())
}

#[test]
fn whoever_has_an_answer_may_kill_the_daemon() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    for (round, fails) in [false, true, false, true].into_iter().enumerate() {
        let content = format!("round {round}");
        let last = if fails {
            "RUN [\"/nothing\"]\n"
        } else {
            "COPY c /last\n"
        };
        let dockerfile = format!("FROM scratch\nCOPY a /first\nCOPY b /second\n{last}");
        let files = [
            ("a", &*content),
            ("b", &content),
            ("c", &content),
            ("Dockerfile", &dockerfile),
        ];
        let context = lab.files(&format!("context{round}"), &files)?;
        for is_again in [false, true] {
            let outcome = cairn.try_build([&context])?;
            ensure!((outcome.code != 0) == fails, "round {round}: {}", outcome.remarks);
            if is_again {
                for step in ["COPY a", "COPY b"] {
                    let vertex = outcome.progress.vertex(step);
                    ensure!(vertex.cached, "round {round}: {vertex:?}");
                }
            } else {
                daemon.kill()?;
                daemon.start_again()?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_that_disappears_takes_its_build_with_it() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let (context, marker) = (waiting_context(&lab)?, marker(&lab));
    let argument = format!("APT_MIRROR={marker}");

    let build = cairn.start_build(["--build-arg", &argument, &context])?;
    build.wait_for_output("waiting")?;
    let pids = step_processes(&marker);
    ensure!(!pids.is_empty(), "the step has no process");
    build.kill()?;
    for pid in pids {
        ensure!(
            wait_for_exit(pid, PATIENCE)?,
            "process {pid} of the abandoned build still runs"
        );
    }
    serves_on(&lab, &cairn)
}

#[test]
fn a_build_is_stopped_from_the_keyboard() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let (context, marker) = (waiting_context(&lab)?, marker(&lab));

    let build = cairn.start_build(["--build-arg", &format!("APT_MIRROR={marker}"), &context])?;
    build.wait_for_output("waiting")?;
    let pids = step_processes(&marker);
    build.interrupt()?;
    let outcome = build.finish()?;
    ensure!(outcome.code == 130, "exit code {}: {}", outcome.code, outcome.remarks);
    for pid in pids {
        ensure!(
            wait_for_exit(pid, PATIENCE)?,
            "process {pid} of the stopped build still runs"
        );
    }
    serves_on(&lab, &cairn)
}

#[test]
fn a_daemon_told_to_stop_ends_its_builds_and_leaves_nothing() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let (context, marker) = (waiting_context(&lab)?, marker(&lab));

    let build = cairn.start_build(["--build-arg", &format!("APT_MIRROR={marker}"), &context])?;
    build.wait_for_output("waiting")?;
    let status = daemon.stop()?;
    ensure!(status.success(), "cairnd ended with {status}:\n{}", daemon.log());
    ensure!(build.finish()?.code != 0, "a build survived its daemon");
    ensure!(step_processes(&marker).is_empty(), "the step survived its daemon");
    ensure!(daemon.leftovers() == Leftovers::default(), "{:?}", daemon.leftovers());
    daemon.start_again()?;
    serves_on(&lab, &cairn)
}

/// A build whose step does not end by itself.
fn waiting_context(lab: &Lab) -> anyhow::Result<String> {
    let dockerfile = "FROM alpine\nARG APT_MIRROR\nRUN echo waiting && sleep 10000\n";
    Ok(lab
        .files("waiting", &[("Dockerfile", dockerfile)])?
        .display()
        .to_string())
}

fn serves_on(lab: &Lab, cairn: &Cairn) -> anyhow::Result<()> {
    let context = lab.files("after", &[("Dockerfile", "FROM alpine\nRUN echo well > /then\n")])?;
    cairn.build([context])?;
    Ok(())
}
