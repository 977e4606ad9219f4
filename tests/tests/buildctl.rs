//! BuildKit's own client, unmodified: builds, their results, what is kept of them, and errors.
//!
//! It is built from a distribution that moves. Where that does not work, nothing of this is tried, and `tests/with-bases`
//! says so.

use std::path::Path;

use anyhow::{Context as _, ensure};
use cairn_tests::llb::{Graph, make_file};

use cairn_tests::{Daemon, Finished, Lab, Need, Program, Registry, lab};
use prost::Message as _;

/// The options of a build of the context.
const BUILD: &str =
    "build --frontend dockerfile.v0 --local context=context --local dockerfile=context --progress plain";

/// A `buildctl` in the directory of a lab.
struct Buildctl<'a> {
    lab: &'a Lab,
    address: String,
}

impl<'a> Buildctl<'a> {
    fn of(lab: &'a Lab, daemon: &Daemon) -> Self {
        Self {
            lab,
            address: daemon.address(),
        }
    }

    /// A command of these words.
    fn command(&self, words: &str) -> anyhow::Result<Program> {
        let program = Program::new(lab::buildctl()?)
            .args(["--addr", &self.address])
            .args(words.split_whitespace())
            .dir(self.lab.dir())
            .env("HOME", self.lab.dir())
            .env("SECRET", "of a variable");
        let foreign = ["BUILDKIT_HOST", "DOCKER_CONFIG", "SSH_AUTH_SOCK"];
        Ok(foreign.into_iter().fold(program, Program::without_env))
    }

    fn run(&self, words: &str) -> anyhow::Result<Finished> {
        self.command(words)?.run()
    }

    /// Runs a command for each row: its words, its code, and what has to be shown.
    fn rows(&self, rows: &[(&str, i32, &[&str])]) -> anyhow::Result<()> {
        for &(words, code, shown) in rows {
            let finished = self.run(&words.replace("BUILD", BUILD))?;
            let said = format!("{}{}", finished.stdout, finished.stderr);
            ensure!(finished.status.code() == Some(code), "{words}: {said}");
            for wanted in shown {
                ensure!(said.contains(wanted), "{words}: no {wanted:?} in:\n{said}");
            }
        }
        Ok(())
    }
}

fn context(lab: &Lab) -> anyhow::Result<()> {
    let main = "FROM alpine AS base\nARG WHO=nobody\nCOPY given /\nRUN --mount=type=cache,target=/kept,id=kept echo hello $WHO > /made\n\
                FROM scratch\nCOPY --from=base /made /given /\n";
    let secret = "FROM alpine\nRUN --mount=type=secret,id=file --mount=type=secret,id=var,env=V \
                  echo \"<$(cat /run/secrets/file)> <$V>\"\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo an agent\n";
    lab.files(
        "context",
        &[
            ("Dockerfile", main),
            ("secret", secret),
            ("failing", "FROM alpine\nRUN echo said; exit 5\n"),
            ("wrong", "FROM alpine\nFOO bar\n"),
            ("missing", "FROM scratch\nCOPY nowhere /\n"),
            ("given", "given\n"),
        ],
    )?;
    std::fs::write(lab.path("file"), "of a file")?;
    let deny =
        r#"{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://docker.io/library/alpine:latest"}}]}"#;
    std::fs::write(lab.path("policy.json"), deny)?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("no {}", path.display()))
}

#[test]
fn builds_secrets_and_results_are_as_with_buildkit() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Buildctl, Need::Containers, Need::Bases, Need::Ssh])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildctl = Buildctl::of(&lab, &daemon);
    context(&lab)?;
    let key = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]);
    key.args([lab.path("key")]).output()?;

    buildctl.rows(&[
        (
            "BUILD --opt build-arg:WHO=world --output type=local,dest=out --ref-file ref",
            0,
            &["echo hello world", "exporting to client directory", "copying files"],
        ),
        (
            "BUILD --opt filename=secret --secret id=file,src=file --secret id=var,env=SECRET --ssh default=key",
            0,
            &["<of a file> <of a variable>", "an agent"],
        ),
        ("BUILD --opt target=base --output type=tar,dest=out.tar", 0, &["CACHED", "sending tarball"]),
        ("BUILD --output type=oci,dest=out.oci --output type=docker,dest=out.docker,name=a/b:c", 0, &[]),
        ("BUILD --output type=oci,dest=layout,tar=false,name=docker.io/a/b:c --metadata-file metadata", 0, &["exporting manifest"]),
        ("BUILD --no-cache --opt filename=secret --secret id=file,src=file", 1, &["secret:3"]),
        ("build --frontend gateway.v0 --opt source=docker/dockerfile --local context=context --local dockerfile=context", 0, &[]),
        ("BUILD --trace trace", 0, &[]),
    ])?;
    ensure!(read(&lab.path("out/made"))? == "hello world\n" && read(&lab.path("out/given"))? == "given\n");
    ensure!(!read(&lab.path("ref"))?.is_empty());
    let index: serde_json::Value = serde_json::from_str(&read(&lab.path("layout/index.json"))?)?;
    let manifest = &index["manifests"][0];
    ensure!(
        manifest["annotations"]["io.containerd.image.name"] == "docker.io/a/b:c",
        "{index}"
    );
    let digest = manifest["digest"].as_str().context("no digest")?;
    let metadata: serde_json::Value = serde_json::from_str(&read(&lab.path("metadata"))?)?;
    ensure!(metadata["containerimage.digest"] == digest, "{metadata}");
    let row = format!("BUILD --oci-layout store=layout --opt context:alpine=oci-layout://store@{digest}");
    buildctl.rows(&[(&row, 1, &["[context alpine]"])])?;
    for tar in ["out.tar", "out.oci", "out.docker"] {
        ensure!(std::fs::metadata(lab.path(tar))?.len() > 1024, "{tar}");
    }

    // A graph without a frontend, on standard input.
    let mut graph = Graph::default();
    let file = graph.add(&make_file("/by-hand", "x"));
    let definition = graph.asking_for(&file, 0).encode_to_vec();
    let build = "build --progress plain --output type=local,dest=by-hand";
    let built = buildctl.command(build)?.input(definition.clone()).run()?.success()?;
    ensure!(built.stderr.contains("mkfile /by-hand"), "{}", built.stderr);
    ensure!(read(&lab.path("by-hand/by-hand"))? == "x");
    let dumped = buildctl.command("debug dump-llb")?.input(definition).output()?;
    ensure!(dumped.contains("by-hand"), "{dumped}");
    Ok(())
}

#[test]
fn errors_have_their_words_and_places() -> anyhow::Result<()> {
    let Some(lab) = Lab::open(&[Need::Buildctl, Need::Containers, Need::Bases])? else {
        return Ok(());
    };
    let daemon = Daemon::start(&lab)?;
    let buildctl = Buildctl::of(&lab, &daemon);
    context(&lab)?;
    buildctl.rows(&[
        (
            "BUILD --opt filename=failing",
            1,
            &[
                "failing:2",
                ">>> RUN echo said; exit 5",
                "did not complete successfully: exit code: 5",
            ],
        ),
        (
            "BUILD --opt filename=wrong",
            1,
            &["wrong:2", "unknown instruction: FOO"],
        ),
        (
            "BUILD --opt filename=missing",
            1,
            &["missing:2", "\"/nowhere\": not found"],
        ),
        (
            "BUILD --opt filename=none",
            1,
            &["failed to read dockerfile: open none: no such file or directory"],
        ),
        (
            "BUILD --opt target=none",
            1,
            &["target stage \"none\" could not be found"],
        ),
        (
            "build --frontend dockerfile.v0 --local context=context",
            1,
            &[
                "NotFound: failed to read dockerfile: ",
                "no access allowed to dir \"dockerfile\"",
            ],
        ),
        ("build --frontend none.v0", 1, &["invalid frontend: none.v0"]),
        ("build --frontend gateway.v0", 1, &["no source specified for gateway"]),
        ("BUILD --output type=none", 1, &["exporter \"none\" could not be found"]),
        (
            "BUILD --output type=image,compression=none",
            1,
            &["unsupported compression type none"],
        ),
        (
            "BUILD --export-cache type=none",
            1,
            &["unknown cache exporter: \"none\""],
        ),
        ("BUILD --import-cache type=none", 0, &["unknown cache importer: none"]),
        (
            "BUILD --allow security.insecure",
            1,
            &["security.insecure is not allowed"],
        ),
        ("BUILD --source-policy-file policy.json", 1, &["denied by policy"]),
    ])
}

#[test]
fn caches_and_records_are_kept_shown_and_removed() -> anyhow::Result<()> {
    let needs = [Need::Buildctl, Need::Containers, Need::Bases, Need::Registry];
    let Some(lab) = Lab::open(&needs)? else {
        return Ok(());
    };
    let (daemon, registry) = (Daemon::start(&lab)?, Registry::start(&lab)?);
    let buildctl = Buildctl::of(&lab, &daemon);
    context(&lab)?;
    let address = registry.address();
    let at = |row: &str| row.replace("REGISTRY", address);
    let push = at("BUILD --output type=image,name=REGISTRY/made:1,push=true,registry.insecure=true");
    let export = at("BUILD --export-cache type=registry,ref=REGISTRY/cache:1,mode=max,registry.insecure=true");
    let import = at("BUILD --import-cache type=registry,ref=REGISTRY/cache:1,registry.insecure=true");
    buildctl.rows(&[
        ("debug info", 0, &["BuildKit: cairn"]),
        ("debug workers", 0, &["linux/"]),
        ("debug workers -v", 0, &["org.mobyproject.buildkit.worker.executor"]),
        ("debug workers --filter none==1", 0, &["PLATFORMS"]),
        (&push, 0, &["pushing manifest"]),
        (&export, 0, &["exporting cache to registry", "CACHED"]),
        (
            "BUILD --export-cache type=local,dest=cache,mode=max",
            0,
            &["exporting cache to client directory"],
        ),
        ("du", 0, &["RECLAIMABLE", "Total:"]),
        (
            "du -v --filter type==exec.cachemount",
            0,
            &["cached mount /kept", "with id \"/kept\""],
        ),
        (
            "du --filter type=wrong",
            1,
            &["failed to parse diskusage filters", "unsupported operator"],
        ),
        ("prune --filter type==exec.cachemount", 0, &["Total:"]),
        ("prune --all", 0, &["Total:"]),
        (&import, 0, &["importing cache manifest", "] RUN --mount=type=cache"]),
        ("prune --all", 0, &[]),
        (
            "BUILD --import-cache type=local,src=cache",
            0,
            &["importing cache manifest", "CACHED"],
        ),
        ("BUILD --ref-file ref", 0, &[]),
        ("debug logs none", 1, &["no such job none"]),
        (
            "debug ctl --pin none",
            1,
            &["failed to retrieve ref none: file does not exist"],
        ),
        (
            "debug get sha256:0000000000000000000000000000000000000000000000000000000000000000",
            1,
            &["not found"],
        ),
    ])?;
    let reference = read(&lab.path("ref"))?;
    let of = |row: &str| row.replace("REF", &reference);
    let histories = buildctl.run("debug histories")?.success()?.stdout;
    ensure!(
        histories.contains(&reference) && histories.contains("COMPLETE"),
        "{histories}"
    );
    buildctl.rows(&[
        (&of("debug logs --progress plain REF"), 0, &["COPY given /"]),
        (&of("debug ctl --pin REF"), 0, &[]),
        (&of("debug ctl --unpin REF"), 0, &[]),
        (&of("debug ctl --delete REF"), 0, &[]),
        (&of("debug ctl --pin REF"), 1, &["file does not exist"]),
        ("prune-histories", 0, &["COMPLETE"]),
    ])?;
    let histories = buildctl.run("debug histories")?.success()?.stdout;
    ensure!(!histories.contains("\nCOMPLETE"), "{histories}");
    Ok(())
}
