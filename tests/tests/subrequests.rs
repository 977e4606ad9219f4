//! Questions about Dockerfiles: `cairn build --check` and `--call`, and the same by docker buildx, whose answers from
//! Docker Engine are the measure.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_tests::{Buildx, Cairn, Daemon, Engine, Finished, Lab, Need};
use serde_json::Value;

const EXAMPLES: [&str; 6] = [
    "etcd-copy",
    "front-end",
    "go-server",
    "laravel-style",
    "multi-stage",
    "nest",
];

/// The Dockerfiles of an example.
fn dockerfiles(context: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(context)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("Dockerfile"))
        {
            found.push(path);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "{} has no Dockerfile", context.display());
    Ok(found)
}

fn ask_cairn(cairn: &Cairn, call: &str, dockerfile: &Path, context: &Path) -> anyhow::Result<Finished> {
    let [dockerfile, context] = [dockerfile, context].map(|path| path.display().to_string());
    let how = if call == "check" {
        vec!["--check"]
    } else {
        vec!["--call", call]
    };
    let args = ["build", "--progress", "quiet", "-f", &dockerfile].into_iter();
    cairn.run(args.chain(how).chain([context.as_str()]))
}

/// In the context, as buildx shows the Dockerfile by the path it was given.
fn ask_buildx(buildx: &Buildx, call: &str, dockerfile: &Path, context: &Path) -> anyhow::Result<Finished> {
    let name = dockerfile.file_name().context("a Dockerfile has a name")?;
    let build = buildx.command(["build", "--progress", "quiet", "--call", call, "-f"])?;
    build.args([name]).args(["."]).dir(context).run()
}

/// The answer in JSON, without what names a session or is worded by whoever loads the file.
fn comparable(text: &str) -> anyhow::Result<Value> {
    let mut answer: Value = serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))?;
    for source in answer
        .get_mut("sources")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(source) = source.as_object_mut() {
            source.remove("definition");
        }
    }
    Ok(answer)
}

/// What a client says first of all to separate it from progress does not count.
fn same_text(left: &Finished, right: &Finished, what: &str) -> anyhow::Result<()> {
    let [left_text, right_text] = [left, right].map(|finished| finished.stdout.trim_start_matches('\n'));
    ensure!(left_text == right_text, "{what}:\n{left_text}\nis not\n{right_text}");
    let codes = [left, right].map(|finished| finished.status.code());
    ensure!(codes[0] == codes[1], "{what}: {codes:?}");
    Ok(())
}

#[test]
fn every_example_is_checked_outlined_and_listed() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let (cairn, buildx) = (Cairn::with(&lab, &daemon), Buildx::remote(&lab, &daemon)?);
    let engine = Engine::start(&lab)?;
    let peer = Buildx::engine(&lab, &engine)?;
    for example in EXAMPLES {
        let context = lab.example(example)?;
        for dockerfile in dockerfiles(&context)? {
            for call in ["check", "outline", "targets"] {
                let what = format!("{call} of {}", dockerfile.display());
                let own = ask_cairn(&cairn, call, &dockerfile, &context)?;
                ensure!(own.stderr.is_empty(), "{what}: {}", own.stderr);
                let theirs = ask_buildx(&buildx, call, &dockerfile, &context)?;
                same_text(&own, &theirs, &what)?;
                // Docker Engine has no mirror for other registries than docker.io.
                if example == "etcd-copy" && call != "targets" {
                    continue;
                }
                same_text(&theirs, &ask_buildx(&peer, call, &dockerfile, &context)?, &what)?;
                let call = format!("{call},format=json");
                let [ours, measure] = [
                    ask_buildx(&buildx, &call, &dockerfile, &context)?,
                    ask_buildx(&peer, &call, &dockerfile, &context)?,
                ];
                let [ours, measure] = [comparable(&ours.stdout)?, comparable(&measure.stdout)?];
                ensure!(ours == measure, "{what}:\n{ours:#}\nis not\n{measure:#}");
            }
        }
    }
    let context = lab.path("nest");
    let dockerfile = context.join("Dockerfile");
    let [ours, measure] =
        [&buildx, &peer].map(|buildx| ask_buildx(buildx, "subrequests.describe", &dockerfile, &context));
    same_text(&ours?, &measure?, "describe")
}

const ODD: &str = "# name said about the stage\nFROM alpine AS Name\n# VERSION what it is\nARG VERSION=1\nCMD run $x\n";

#[test]
fn checks_end_with_a_code_for_scripts() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let cairn = Cairn::with(&lab, &daemon);
    let context = lab.files("odd", &[("Dockerfile", ODD)])?;
    let ask = |how: &[&str]| {
        let context = context.display().to_string();
        let args = ["build", "--progress", "plain"].into_iter().chain(how.iter().copied());
        cairn.run(args.chain([context.as_str()]))
    };

    let checked = ask(&["--check"])?;
    ensure!(checked.status.code() == Some(1), "{:?}", checked.status);
    let expected = "Check complete, 2 warnings have been found!\n\nWARNING: StageNameCasing - \
                    https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\nStage name 'Name' should be \
                    lowercase\nDockerfile:2\n--------------------\n";
    ensure!(checked.stdout.starts_with(expected), "{}", checked.stdout);
    ensure!(checked.stderr.contains("load build definition"), "{}", checked.stderr);

    let skipped = ask(&["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"])?.success()?;
    ensure!(
        skipped.stdout.trim_end() == "Check complete, no warnings found.",
        "{}",
        skipped.stdout
    );

    let json: Value = serde_json::from_str(&ask(&["--call", "check,format=json"])?.stdout)?;
    ensure!(json["warnings"].as_array().map(Vec::len) == Some(2), "{json:#}");
    let outline = ask(&["--call", "outline"])?.success()?;
    let expected = "TARGET:      name\nDESCRIPTION: said about the stage\n\nBUILD ARG   VALUE   DESCRIPTION\n\
                    VERSION     1       what it is";
    ensure!(outline.stdout.trim_end() == expected, "{}", outline.stdout);
    ensure!(outline.stderr.contains("StageNameCasing"), "{}", outline.stderr);
    let described = ask(&["--call", "describe"])?.success()?;
    ensure!(described.stdout.contains("targets"), "{}", described.stdout);

    let metadata = lab.path("metadata.json");
    let path = metadata.display().to_string();
    ask(&["--call", "targets", "--metadata-file", &path])?.success()?;
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata)?)?;
    ensure!(metadata["result.json"]["targets"][0]["name"] == "name", "{metadata:#}");
    ensure!(metadata["version"] == "1.0.0", "{metadata:#}");
    Ok(())
}

#[test]
fn what_cannot_be_answered_is_said() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Containers])? else {
        return Ok(());
    };
    let daemon = Daemon::start_with(&lab, &lab.path("root"), "")?;
    let cairn = Cairn::with(&lab, &daemon);
    let broken = lab.files("broken", &[("Dockerfile", "FROM scratch\nCOPY --from=a\n")])?;
    let context = broken.display().to_string();

    let checked = cairn.run(["build", "--check", &context])?;
    ensure!(checked.status.code() == Some(1), "{:?}", checked.status);
    ensure!(checked.stdout.is_empty(), "{}", checked.stdout);
    for said in [
        "   2 | >>> COPY --from=a",
        "error: dockerfile parse error on line 2: COPY requires at least two arguments",
    ] {
        ensure!(checked.stderr.contains(said), "{}", checked.stderr);
    }
    for (args, said, code) in [
        (&["--call", "nonsense"][..], "unsupported request frontend.nonsense", 1),
        (&["--call", "outline,format=xml"], "there is no format \"xml\"", 2),
        (&["--check", "-t", "x"], "-t has no effect with --check", 2),
        (&["--call", "targets", "-o", "out"], "-o has no effect with --call", 2),
    ] {
        let asked = cairn.run(["build"].iter().chain(args).chain([&context.as_str()]))?;
        ensure!(asked.status.code() == Some(code), "{args:?}: {:?}", asked.status);
        ensure!(asked.stderr.contains(said), "{args:?}: {}", asked.stderr);
    }
    Ok(())
}
