//! Frontends that others wrote: pulled, run in a container, driving the build from there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use cairn_client::{Client, ClientError, LocalDir, OutputTarget, ReceiveMode, SolveOptions, SolveOutput};
use cairn_tests::llb::{Graph, make_file};
use cairn_tests::{Buildx, Cairn, Daemon, Lab, Need, Outcome, Program, Registry};
use serde_json::Value;
use tonic::Code;

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Registry];

/// A daemon, and a registry with our own frontend.
struct Stage {
    // The daemon goes before what it works with.
    daemon: Daemon,
    cairn: Cairn,
    registry: Registry,
    lab: Lab,
    image: String,
}

impl Stage {
    fn set(needs: &[Need]) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(needs)? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let daemon = Daemon::start_configured(&lab, &registry.config())?;
        let stage = Self {
            cairn: Cairn::with(&lab, &daemon),
            image: format!("{}/test/frontend:1", registry.address()),
            daemon,
            registry,
            lab,
        };
        stage.push(
            "frontend:1",
            "LABEL moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs,a.capability\n",
        )?;
        Ok(Some(stage))
    }

    /// Builds the frontend's image and pushes it.
    fn push(&self, name: &str, more: &str) -> anyhow::Result<String> {
        let dockerfile = format!(
            "FROM debian\nCOPY frontend /bin/frontend\nENV FROM_IMAGE=yes\n{more}ENTRYPOINT [\"/bin/frontend\"]\n"
        );
        let context = self.lab.files("image", &[("Dockerfile", &dockerfile)])?;
        let program = context.join("frontend");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_cairn-test-frontend"), &program)?;
            Program::new("strip").args([&program]).output()?;
        }
        let image = format!("{}/test/{name}", self.registry.address());
        let output = format!("type=image,name={image},push=true");
        self.cairn.build(["-o", &output, &context.display().to_string()])?;
        Ok(image)
    }

    /// A directory with a file that asks for the frontend, which is to do `word`.
    fn context(&self, name: &str, word: &str) -> anyhow::Result<String> {
        let text = format!("# syntax={} {word}\nanything but a Dockerfile\n", self.image);
        let dir = self.lab.files(name, &[("Dockerfile", &text)])?;
        Ok(dir.display().to_string())
    }

    fn out(&self, name: &str) -> (PathBuf, String) {
        let out = self.lab.path(name);
        let output = format!("type=local,dest={}", out.display());
        (out, output)
    }

    fn try_word(&self, word: &str, more: &[&str]) -> anyhow::Result<Outcome> {
        let context = self.context(word, word)?;
        let args = more.iter().copied().chain([context.as_str()]);
        self.cairn.try_build(args)
    }

    /// What the frontend makes when it is to do `word`.
    fn word(&self, word: &str, more: &[&str]) -> anyhow::Result<String> {
        let (out, output) = self.out(&format!("out-{word}"));
        let more: Vec<&str> = ["-o", &output].into_iter().chain(more.iter().copied()).collect();
        let outcome = self.try_word(word, &more)?;
        ensure!(outcome.code == 0, "{word}: {}\n{}", outcome.remarks, self.daemon.log());
        Ok(std::fs::read_to_string(out.join("result"))?)
    }

    /// A running daemon has two mounts of its own, and none in them when it has nothing to do.
    fn expect_nothing_left(&self) -> anyhow::Result<()> {
        let left = self.daemon.leftovers();
        ensure!(left.mounts.len() <= 2 && left.processes.is_empty(), "{left:?}");
        Ok(())
    }

    /// What is said when the frontend does `word`, which fails.
    fn failure(&self, word: &str, more: &[&str]) -> anyhow::Result<String> {
        let outcome = self.try_word(word, more)?;
        ensure!(outcome.code != 0, "{word} did not fail");
        Ok(outcome.remarks)
    }
}

#[test]
fn a_frontend_is_told_everything_and_drives_the_build() -> anyhow::Result<()> {
    let Some(stage) = Stage::set(NEEDS)? else {
        return Ok(());
    };
    let told = stage.word("build", &["--build-arg", "A=b=c"])?;
    for expected in [
        "anything but a Dockerfile\n",
        "build-arg:A=b=c\n",
        "own definition of 2 operations\n",
        "BUILDKIT_EXPORTEDPRODUCT=buildkit\n",
        "FROM_IMAGE=yes\n",
        "os of worker: \"linux\"\n",
    ] {
        ensure!(told.contains(expected), "{expected:?} is missing:\n{told}");
    }
    // Into a container without a network, if the image says that it needs none.
    let devices = stage.word("network", &[])?;
    ensure!(devices != "lo", "{devices}");
    let image = stage.push("offline:1", "LABEL moby.buildkit.frontend.network.none=true\n")?;
    let text = format!("# syntax={image} network\n");
    let context = stage.lab.files("offline", &[("Dockerfile", &text)])?;
    let (out, output) = stage.out("out-offline");
    stage.cairn.build(["-o", &output, &context.display().to_string()])?;
    let devices = std::fs::read_to_string(out.join("result"))?;
    ensure!(devices == "lo", "{devices}");
    stage.expect_nothing_left()
}

#[test]
fn a_frontend_adds_spans_to_the_trace_of_its_build() -> anyhow::Result<()> {
    let needs: Vec<Need> = NEEDS.iter().copied().chain([Need::Sid]).collect();
    let Some(stage) = Stage::set(&needs)? else {
        return Ok(());
    };
    let buildx = Buildx::remote(&stage.lab, &stage.daemon)?;
    let (out, output) = stage.out("out");
    let context = stage.context("context", "span")?;
    buildx.build()?.args(["-o", &output, &context]).output()?;
    ensure!(std::fs::read_to_string(out.join("result"))? == "sent");
    let bundle = stage.lab.path("bundle.dockerbuild");
    let export = buildx.command(["history", "export", "--finalize", "-o"])?;
    export.args([&bundle]).output()?;
    let trace = cairn_tests::traces::exported(&stage.lab, &bundle)?;
    let sent = trace.iter().find(|span| span["Name"] == "of-a-frontend");
    let sent = sent.with_context(|| format!("the span is not in {trace:?}"))?;
    let mut spans = trace.iter();
    let build = spans.find(|span| span["Name"] == "moby.buildkit.v1.Control/Solve" && span["SpanKind"] == 2);
    let build = build.context("no build")?;
    ensure!(sent["Parent"]["SpanID"] == cairn_tests::traces::id(build), "{sent}");
    Ok(())
}

#[test]
fn failing_frontends_are_told_apart() -> anyhow::Result<()> {
    let Some(stage) = Stage::set(NEEDS)? else {
        return Ok(());
    };
    for (word, expected) in [
        ("exit", "exit code: 1: boom on standard error"),
        ("error", "this cannot be built"),
        ("silent", "no result for incomplete build"),
        ("late", "exit code: 4"),
        ("garbage", "frontend grpc server closed unexpectedly"),
        ("nonsense", "nobody knows how to nonsense"),
    ] {
        let said = stage.failure(word, &[])?;
        ensure!(said.contains(expected), "{word}: {said}\n{}", stage.daemon.log());
        // The line that asked for the frontend is shown.
        ensure!(said.contains("Dockerfile:1"), "{word}: {said}");
    }
    let context = stage.lab.files("absent", &[("Dockerfile", "FROM scratch\n")])?;
    let absent = format!("BUILDKIT_SYNTAX={}/test/absent", stage.registry.address());
    let outcome = stage
        .cairn
        .try_build(["--build-arg", &absent, &context.display().to_string()])?;
    ensure!(
        outcome.code != 0
            && outcome
                .remarks
                .contains(&format!("failed with build-arg:{}", absent.replacen('=', " = ", 1))),
        "{}",
        outcome.remarks
    );
    stage.expect_nothing_left()
}

#[test]
fn a_frontend_that_hangs_ends_with_its_build() -> anyhow::Result<()> {
    let Some(mut stage) = Stage::set(NEEDS)? else {
        return Ok(());
    };
    let context = stage.context("hang", "hang")?;
    let running = stage.cairn.start_build([&context])?;
    stage.daemon.wait_for_log("hanging")?;
    let processes = cairn_tests::processes_with_variable("FROM_IMAGE=yes");
    ensure!(!processes.is_empty(), "nobody is hanging");
    running.interrupt()?;
    let outcome = running.finish()?;
    ensure!(outcome.code != 0, "a build that was interrupted succeeded");
    for process in processes {
        let patience = std::time::Duration::from_secs(20);
        ensure!(
            cairn_tests::wait_for_exit(process, patience)?,
            "process {process} still runs"
        );
    }
    // Also what hangs when the daemon stops.
    let running = stage.cairn.start_build([&context])?;
    stage.daemon.wait_for_log("hanging")?;
    stage.daemon.stop()?;
    drop(running);
    ensure!(
        stage.daemon.leftovers() == Default::default(),
        "{:?}",
        stage.daemon.leftovers()
    );
    Ok(())
}

#[test]
fn a_frontend_sees_what_is_its_own() -> anyhow::Result<()> {
    let Some(stage) = Stage::set(NEEDS)? else {
        return Ok(());
    };
    let refused = stage.word("forge", &["--build-arg", "REF=abcdefghijklmnopqrstuvwxy"])?;
    ensure!(refused.starts_with("no such ref: "), "{refused}");
    let said = stage.word("recurse", &[])?;
    ensure!(said.contains("deep"), "{said}");
    Ok(())
}

/// Has the frontend do `word` for a client that says everything itself.
async fn ask(stage: &Stage, word: &str, options: &[(&str, &str)], has_input: bool) -> Result<(), ClientError> {
    let client = Client::connect(&stage.daemon.address().parse().expect("an address")).await?;
    let directory = stage.lab.files("asked", &[("Dockerfile", "asked\n")]).expect("files");
    let mut frontend_attrs: BTreeMap<String, String> = BTreeMap::new();
    frontend_attrs.insert("source".to_owned(), stage.image.clone());
    frontend_attrs.insert("cmdline".to_owned(), format!("{} {word}", stage.image));
    frontend_attrs.extend(
        options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    let mut graph = Graph::default();
    let input = graph.add(&make_file("/result", "of an earlier build"));
    let input = has_input.then(|| ("earlier".to_owned(), graph.asking_for(&input, 0)));
    let target = OutputTarget::Directory {
        path: stage.lab.path("out-asked"),
        mode: ReceiveMode::Merge,
    };
    let options = SolveOptions {
        frontend: "gateway.v0".to_owned(),
        frontend_attrs,
        frontend_inputs: input.into_iter().collect(),
        local_dirs: [(
            "dockerfile".to_owned(),
            LocalDir {
                path: directory,
                keeps_owner: false,
            },
        )]
        .into(),
        outputs: vec![SolveOutput {
            kind: "local".to_owned(),
            attrs: BTreeMap::new(),
            target: Some(target),
        }],
        ..SolveOptions::default()
    };
    cairn_tests::solve(&client, options).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_inputs_and_errors_pass_through() -> anyhow::Result<()> {
    let Some(stage) = Stage::set(NEEDS)? else {
        return Ok(());
    };
    ask(&stage, "build", &[("frontend.caps", "a.capability+forward")], true).await?;
    let told = std::fs::read_to_string(stage.lab.path("out-asked").join("result"))?;
    ensure!(told.contains("input earlier: of an earlier build\n"), "{told}");

    let refused = ask(&stage, "build", &[("frontend.caps", "b.capability")], false).await;
    let refused = refused.err().context("a capability that it lacks")?;
    let error = refused.daemon_error().context("not refused by the daemon")?;
    ensure!(
        error.message.contains("unsupported frontend capability b.capability") && error.code == Code::Unimplemented,
        "{error:?}"
    );

    let failed = ask(&stage, "error", &[], false).await.err().context("an error")?;
    let error = failed.daemon_error().context("not told by the daemon")?;
    ensure!(
        error.message == "this cannot be built" && error.code == Code::InvalidArgument,
        "{error:?}"
    );
    Ok(())
}

#[test]
fn buildx_runs_them_too() -> anyhow::Result<()> {
    let needs: Vec<Need> = NEEDS.iter().copied().chain([Need::Sid]).collect();
    let Some(stage) = Stage::set(&needs)? else {
        return Ok(());
    };
    let buildx = Buildx::remote(&stage.lab, &stage.daemon)?;
    let (out, output) = stage.out("out");
    let context = stage.context("context", "build")?;
    let options = ["--provenance=mode=max", "-o", &output, &context];
    buildx.build()?.args(options).output()?;
    let told = std::fs::read_to_string(out.join("result"))?;
    ensure!(told.contains("anything but a Dockerfile"), "{told}");
    let statement: Value = serde_json::from_str(&std::fs::read_to_string(out.join("provenance.json"))?)?;
    let definition = &statement["predicate"]["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    ensure!(
        request["frontend"] == "gateway.v0" && request["args"]["source"] == stage.image.as_str(),
        "{request}"
    );
    ensure!(request["root"]["request"]["frontend"] == "dockerfile.v0", "{request}");
    let name = stage.image.replacen(':', "%3A", 1).replace("frontend:", "frontend@");
    let used = format!("pkg:docker/{name}?platform=linux%2Famd64");
    let materials = definition["resolvedDependencies"]
        .as_array()
        .context("nothing was used")?;
    ensure!(
        materials.iter().any(|material| material["uri"] == used.as_str()),
        "{definition}"
    );
    let plain = stage.lab.files("plain", &[("Dockerfile", "FROM scratch\n")])?;
    let syntax = format!("BUILDKIT_SYNTAX={}", stage.image);
    let asked = buildx.build()?.args(["--build-arg", &syntax, "-o", &output]);
    asked.args([&plain]).output().context("by the build argument")?;
    let told = std::fs::read_to_string(out.join("result"))?;
    ensure!(told.contains("file:\nFROM scratch\n"), "{told}");
    let failing = stage.context("failing", "exit")?;
    let said = buildx.build()?.args([&failing]).run()?;
    ensure!(
        !said.status.success() && said.stderr.contains("exit code: 1: boom on standard error"),
        "{}",
        said.stderr
    );
    Ok(())
}
