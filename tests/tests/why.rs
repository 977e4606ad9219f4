//! `cairn why`: each cause for which a step runs, against real builds.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_tests::{Cairn, Daemon, Lab, Need, Registry};
use serde_json::Value;

/// A daemon, and a directory that is built on it again and again.
struct Bench {
    daemon: Daemon,
    registry: Registry,
    cairn: Cairn,
    context: PathBuf,
    // Goes last: what runs in it has to end first.
    lab: Lab,
}

impl Bench {
    fn open() -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let daemon = Daemon::start_configured(&lab, &registry.config())?;
        let cairn = Cairn::with(&lab, &daemon);
        let context = lab.files("context", &[("src/main.c", "int main;\n"), ("src/run.sh", "echo\n")])?;
        std::fs::set_permissions(context.join("src/run.sh"), Permissions::from_mode(0o644))?;
        let bench = Self {
            lab,
            daemon,
            registry,
            cairn,
            context,
        };
        bench.push_base("one")?;
        bench.write("echo $VERSION > /version")?;
        Ok(Some(bench))
    }

    fn base(&self) -> String {
        format!("{}/base:1", self.registry.address())
    }

    /// Makes another image of the same name.
    fn push_base(&self, content: &str) -> anyhow::Result<()> {
        let dockerfile = format!("FROM alpine\nRUN echo {content} > /base\n");
        let dir = self
            .lab
            .files(&format!("base-{content}"), &[("Dockerfile", &dockerfile)])?;
        self.cairn
            .build(["-t", &self.base(), "--push", &dir.display().to_string()])?;
        Ok(())
    }

    /// Writes the Dockerfile, with this as its first command.
    fn write(&self, command: &str) -> anyhow::Result<()> {
        let base = self.base();
        let text = format!("FROM {base}\nARG VERSION=1\nRUN {command}\nCOPY src /src\nRUN cat /src/* > /all\n");
        Ok(std::fs::write(self.context.join("Dockerfile"), text)?)
    }

    fn build(&self, args: &[&str]) -> anyhow::Result<()> {
        let context = self.context.display().to_string();
        self.cairn.build(args.iter().copied().chain([context.as_str()]))?;
        Ok(())
    }

    fn why(&self, args: &[&str]) -> anyhow::Result<String> {
        let answer = self.cairn.run([&["why"], args].concat())?.success()?;
        Ok(answer.stdout)
    }

    /// Builds, and expects steps to be explained: the beginning of a name after its number, and what is said of it.
    fn expect(&self, args: &[&str], expected: &[(&str, &str)]) -> anyhow::Result<()> {
        self.build(args)?;
        let answer = self.why(&[])?;
        for (step, cause) in expected {
            let line = answer.lines().find(|line| line.contains(step));
            let line = line.with_context(|| format!("nothing about {step:?} in:\n{answer}"))?;
            ensure!(line.contains(cause), "no {cause:?} in:\n{answer}");
        }
        let ran = answer.lines().skip(1).count();
        ensure!(ran >= expected.len(), "{answer}");
        Ok(())
    }
}

#[test]
fn every_cause_is_named() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else { return Ok(()) };
    bench.expect(
        &[],
        &[("RUN echo", "never built before"), ("RUN cat", "never built before")],
    )?;
    bench.build(&[])?;
    let nothing = bench.why(&[])?;
    ensure!(nothing.contains(": 0 of ") && nothing.lines().count() == 1, "{nothing}");

    // An argument, and the step that is built on the one that has it.
    bench.expect(
        &["--build-arg", "VERSION=2"],
        &[
            ("RUN echo", "argument `VERSION` 1 → 2"),
            (
                "COPY src",
                "because of [2/4] RUN echo 2 > /version: argument `VERSION` 1 → 2",
            ),
        ],
    )?;
    // A file, in all detail.
    std::fs::write(bench.context.join("src/main.c"), "int main, other;\n")?;
    bench.expect(&[], &[("COPY src", "`src/main.c` changed")])?;
    let step = bench.why(&["COPY"])?;
    ensure!(
        step.contains("(Dockerfile:4) ran") && step.contains("`src/main.c` changed"),
        "{step}"
    );
    // One that is new, one that is gone.
    std::fs::write(bench.context.join("src/new.c"), "")?;
    std::fs::remove_file(bench.context.join("src/main.c"))?;
    bench.expect(&[], &[("COPY src", "`src/main.c` removed, `src/new.c` added")])?;
    // Permissions.
    std::fs::set_permissions(bench.context.join("src/run.sh"), Permissions::from_mode(0o755))?;
    bench.expect(&[], &[("COPY src", "mode of `src/run.sh` 644 → 755")])?;
    // The command.
    bench.write("echo is $VERSION > /version")?;
    bench.expect(
        &[],
        &[(
            "RUN echo is",
            "command changed: `echo $VERSION > /version` → `echo is $VERSION > /version`",
        )],
    )?;
    // The base image.
    bench.push_base("two")?;
    bench.expect(
        &[],
        &[
            ("RUN echo is", "manifest of `"),
            ("RUN cat", "/base:1` changed: `sha256:"),
        ],
    )?;
    // Pruned.
    bench.cairn.run(["prune", "--all"])?.success()?;
    bench.expect(&[], &[("RUN echo is", "evicted: pruned on request, at 2")])?;
    // Told so.
    bench.expect(
        &["--no-cache"],
        &[("RUN echo is", "(--no-cache)"), ("COPY src", "(--no-cache)")],
    )
}

#[test]
fn what_was_built_can_be_asked_about_after_a_restart() -> anyhow::Result<()> {
    let Some(mut bench) = Bench::open()? else { return Ok(()) };
    bench.build(&[])?;
    bench.build(&["--build-arg", "VERSION=7"])?;
    let before = bench.why(&[])?;
    bench.daemon.stop()?;
    bench.daemon.start_again()?;
    ensure!(bench.why(&[])? == before, "{before}");

    let builds: Value = serde_json::from_str(&bench.why(&["--list", "--format", "json"])?)?;
    ensure!(builds.as_array().is_some_and(|builds| builds.len() == 3), "{builds}");
    let first = builds[1]["id"].as_str().context("no id")?;
    let answer: Value = serde_json::from_str(&bench.why(&["--format", "json", first, "RUN echo"])?)?;
    let step = &answer["steps"][0];
    ensure!(answer["build"]["id"] == first, "{answer}");
    ensure!(
        step["verdict"] == "ran" && step["line"] == 3 && step["causes"][0]["kind"] == "new",
        "{answer}"
    );
    let number = step["number"].to_string();
    ensure!(bench.why(&[first, &number])?.contains("never built before"));
    ensure!(
        bench.why(&[&first[..10]])?.contains("never built before"),
        "the beginning of an id"
    );
    let missing = bench.cairn.run(["why", "no such step"])?;
    ensure!(
        !missing.status.success() && missing.stderr.contains("no step"),
        "{missing:?}"
    );
    Ok(())
}

#[test]
fn a_build_can_say_by_itself_why_it_ran() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let config = lab.path("cairnd.toml");
    let mirrors = cairn_tests::lab::mirror_config(&cairn_tests::lab::base_registry()?);
    std::fs::write(&config, mirrors)?;
    let cairn = Cairn::alone(&lab, &lab.path("root"), &config);
    let context = lab.files("context", &[("Dockerfile", "FROM alpine\nRUN echo one\n")])?;
    let dockerfile = context.join("Dockerfile");
    let context = context.display().to_string();
    let build = || {
        cairn
            .run(["build", "--explain", "--progress", "plain", &context])?
            .success()
    };
    let first = build()?.stderr;
    ensure!(first.contains("RUN echo one: never built before"), "{first}");
    std::fs::write(dockerfile, "FROM alpine\nRUN echo two\n")?;
    let second = build()?.stderr;
    ensure!(
        second.contains("RUN echo two: command changed: `echo one` → `echo two`"),
        "{second}"
    );
    // Another process with the same state.
    let later = cairn.run(["why"])?.success()?.stdout;
    ensure!(later.contains("command changed"), "{later}");
    Ok(())
}
