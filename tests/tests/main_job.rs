//! The example with two stages in the middle: built, built again, changed, built again.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Image, Lab, Need, Outcome};

const MAKE_FOO: &str = "[foo 2/2] RUN make";
const MAKE_BAR: &str = "[bar 2/2] RUN make";

#[test]
fn the_middle_stages_run_at_once_and_only_what_changed_runs_again() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.example("multi-stage")?;
    let tar = lab.path("hello.tar");

    let first = build(&cairn, &context, &tar)?;
    shared_stage_ran_once(&first)?;
    let foo = first.progress.vertex(MAKE_FOO).interval();
    let bar = first.progress.vertex(MAKE_BAR).interval();
    ensure!(
        foo.overlap(&bar) > Duration::ZERO,
        "foo {foo:?} and bar {bar:?} ran one after the other"
    );
    works(&lab, &tar)?;

    let second = build(&cairn, &context, &tar)?;
    nothing_ran(&second)?;

    let source = context.join("src1/main.c");
    File::options()
        .append(true)
        .open(&source)?
        .set_modified(SystemTime::now())?;
    nothing_ran(&build(&cairn, &context, &tar)?)?;

    let text = std::fs::read_to_string(&source)?;
    std::fs::write(&source, text.replace("hello from bin1", "good morning from bin1"))?;
    let changed = build(&cairn, &context, &tar)?;
    let mut executed = changed.progress.executed();
    executed.sort_unstable();
    ensure!(
        matches!(executed[..], [copy, make, last_foo, ..] if copy == "[foo 1/2] COPY src1 ." && make == MAKE_FOO
            && last_foo.contains("COPY --from=foo /src/bin1 .")),
        "{executed:?}"
    );
    // What lies above the changed copy may be made again; nothing else.
    ensure!(
        executed
            .iter()
            .all(|step| !step.contains("[bar") && !step.contains("build-essential")),
        "{executed:?}"
    );
    let image = Image::from_oci(&lab, &tar)?;
    ensure!(image.run()?.trim() == "good morning from bin1");

    // A comment changes what is compiled, but not what comes out: nothing after it runs.
    let text = std::fs::read_to_string(&source)?;
    std::fs::write(&source, format!("/* morning */ {text}"))?;
    let same = build(&cairn, &context, &tar)?;
    ensure!(
        same.progress.executed().contains(&MAKE_FOO),
        "{:?}",
        same.progress.executed()
    );
    Ok(())
}

fn build(cairn: &Cairn, context: &Path, tar: &Path) -> anyhow::Result<Outcome> {
    let output = format!("type=oci,dest={}", tar.display());
    let path = context.display().to_string();
    cairn.build(["-t", "hello:multi", "-f", "Dockerfile", "-o", &output, &path])
}

fn shared_stage_ran_once(outcome: &Outcome) -> anyhow::Result<()> {
    for step in ["RUN apt-get update", "RUN apt-get install -y make gcc", "WORKDIR /src"] {
        let vertex = outcome.progress.vertex(step);
        ensure!(
            !vertex.cached && vertex.completed.is_some() && vertex.error.is_empty(),
            "{vertex:?}"
        );
    }
    Ok(())
}

fn nothing_ran(outcome: &Outcome) -> anyhow::Result<()> {
    let (executed, cached) = (outcome.progress.executed(), outcome.progress.cached());
    ensure!(executed.is_empty(), "{executed:?} ran again");
    ensure!(cached.len() == 9, "{cached:?} were known");
    Ok(())
}

fn works(lab: &Lab, tar: &Path) -> anyhow::Result<()> {
    let image = Image::from_oci(lab, tar)?;
    image.expect_files(
        &["/bin1", "/bin2", "/bin/busybox"],
        &["/src", "/main.c", "/usr/bin/gcc", "/usr/bin/apt-get"],
    )?;
    ensure!(
        image.config()["config"]["Cmd"] == serde_json::json!(["/bin1"]),
        "{}",
        image.config()
    );
    ensure!(image.config()["os"] == "linux", "{}", image.config());
    ensure!(image.run()?.trim() == "hello from bin1");
    ensure!(image.run_command(&["/bin2", "you"])?.trim() == "hello from bin2, you");
    Ok(())
}
