//! Bills of materials, made by a scanner of the test's own: Docker's client and `cairn` ask, other people's programs look
//! at what came out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cairn_proto::control::control_client::ControlClient;
use cairn_proto::control::{Exporter, SolveRequest};
use cairn_tests::llb::{Graph, make_file};
use cairn_tests::{Buildx, Cairn, Daemon, Finished, Image, Lab, Need, Outcome, Program, Registry};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

const NEEDS: &[Need] = &[Need::Containers, Need::Bases, Need::Sid, Need::Registry];

/// Writes a statement about each directory that it is shown: its files, and in the name what the scanner was told.
const SCANNER: &str = r#"#!/bin/sh
set -eu
if touch "$BUILDKIT_SCAN_SOURCE/written" 2>/dev/null; then exit 9; fi
told="$(pwd) $* $(env | grep -e ^BUILDKIT_SCAN_ -e ^OWN= | sort | tr '\n' ' ')"
state() {
    files=$(cd "$1" && find . -type f | sort | sed 's/^\.//;s/.*/{"SPDXID":"SPDXRef-File","fileName":"&"}/' | tr '\n' ',')
    printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":%s}' \
        "{\"SPDXID\":\"SPDXRef-DOCUMENT\",\"name\":\"$2\",\"files\":[${files%,}]}" >"$BUILDKIT_SCAN_DESTINATION$3.spdx.json"
}
state "$BUILDKIT_SCAN_SOURCE" "$told" sbom
for extra in ${BUILDKIT_SCAN_SOURCE_EXTRAS:+"$BUILDKIT_SCAN_SOURCE_EXTRAS"/*}; do
    state "$extra" extra "${extra##*/}"
done
"#;

/// Whose steps run nothing, so that it is built for any platform.
const DOCKERFILE: &str = "ARG BUILDKIT_SBOM_SCAN_STAGE\n\
    FROM scratch AS base\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY deps /deps\n\
    FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=base /deps/one /one\nCOPY app /app/main\n\
    ARG TARGETARCH\nCOPY is-$TARGETARCH /is\n";

struct Bench {
    buildx: Buildx,
    cairn: Cairn,
    registry: Registry,
    daemon: Daemon,
    context: PathBuf,
    /// Image of the scanner.
    scanner: String,
    lab: Lab,
}

impl Bench {
    fn open() -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(NEEDS)? else {
            return Ok(None);
        };
        let registry = Registry::start(&lab)?;
        let daemon = Daemon::start_configured(&lab, &registry.config())?;
        let files = [
            ("Dockerfile", DOCKERFILE),
            ("app", "app"),
            ("deps/one", "one"),
            ("deps/two", "two"),
            ("is-amd64", "amd64"),
            ("is-s390x", "s390x"),
            ("unused", "unused"),
        ];
        let bench = Self {
            buildx: Buildx::remote(&lab, &daemon)?,
            cairn: Cairn::with(&lab, &daemon),
            context: lab.files("context", &files)?,
            scanner: format!("{}/scanner:1", registry.address()),
            registry,
            daemon,
            lab,
        };
        let image = "FROM alpine\nCOPY --chmod=755 scan /scan\nENV OWN=1\nWORKDIR /work\nUSER nobody\n\
            ENTRYPOINT [\"/scan\"]\nCMD [\"all\"]\n";
        bench.push("scanner:1", &[("Dockerfile", image), ("scan", SCANNER)])?;
        Ok(Some(bench))
    }

    /// Builds an image of these files and pushes it.
    fn push(&self, name: &str, files: &[(&str, &str)]) -> anyhow::Result<()> {
        let directory = self.lab.files(&format!("image-{}", name.replace(':', "-")), files)?;
        let name = format!("{}/{name}", self.registry.address());
        let context = directory.display().to_string();
        self.cairn.build(["-t", &name, "--push", &context]).map(drop)
    }

    fn buildx(&self, args: &[&str]) -> anyhow::Result<Finished> {
        let build = self.buildx.command(["build", "--progress", "plain"])?;
        build.args(args).args([&self.context]).run()
    }

    fn cairn(&self, args: &[&str]) -> anyhow::Result<Outcome> {
        let context = self.context.display().to_string();
        self.cairn.try_build(args.iter().copied().chain([context.as_str()]))
    }

    /// A document of an image in the registry, as it is.
    fn raw(&self, name: &str) -> anyhow::Result<Value> {
        let image = format!("docker://{}/{name}", self.registry.address());
        let text = Program::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &image])
            .output()?;
        serde_json::from_str(&text).context("skopeo said something else than JSON")
    }

    /// The statements that an index in the registry has about the image that is its entry `number`.
    fn statements(&self, repository: &str, index: &Value, number: usize) -> anyhow::Result<Vec<Value>> {
        let image = &index["manifests"][number]["digest"];
        let entries = index["manifests"].as_array().context("no manifests")?;
        let entry = entries
            .iter()
            .find(|entry| entry["annotations"]["vnd.docker.reference.digest"] == *image);
        let digest = entry
            .and_then(|entry| entry["digest"].as_str())
            .context("nothing is stated")?;
        let manifest = self.raw(&format!("{repository}@{digest}"))?;
        let layers = manifest["layers"].as_array().context("no layers")?.iter();
        let statements = layers.map(|layer| {
            ensure!(
                layer["annotations"]["in-toto.io/predicate-type"] == "https://spdx.dev/Document",
                "{layer}"
            );
            let blob = self
                .registry
                .blob_file(layer["digest"].as_str().context("no digest")?)?;
            Ok(serde_json::from_str(&std::fs::read_to_string(blob)?)?)
        });
        statements.collect()
    }
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Names of the files that a statement lists.
fn listed(statement: &Value) -> Vec<&str> {
    let files = statement["predicate"]["files"].as_array();
    let names = files.into_iter().flatten().map(|file| file["fileName"].as_str());
    names.flatten().collect()
}

fn subjects(statement: &Value) -> Vec<&str> {
    let subjects = statement["subject"].as_array();
    let names = subjects.into_iter().flatten().map(|subject| subject["name"].as_str());
    names.flatten().collect()
}

#[test]
fn statements_become_files_beside_the_result() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let out = bench.lab.path("out");
    let dest = out.display().to_string();
    let sbom = format!("type=sbom,generator={},Select=x", bench.scanner);
    let finished = bench.buildx(&["--attest", &sbom, "-o", &dest])?.success()?;
    let title = format!("[linux/amd64] generating sbom using {}", bench.scanner);
    ensure!(finished.stderr.contains(&title), "{}", finished.stderr);
    let title = format!("resolve image config for docker-image://{}", bench.scanner);
    ensure!(finished.stderr.contains(&title), "{}", finished.stderr);
    ensure!(std::fs::read_to_string(out.join("app/main"))? == "app");

    let core = read(&out.join("sbom.spdx.json"))?;
    ensure!(core["_type"] == "https://in-toto.io/Statement/v1", "{core}");
    ensure!(subjects(&core) == ["app/main", "is", "one"], "{core}");
    ensure!(listed(&core) == ["/app/main", "/is", "/one"], "{core}");
    let told = core["predicate"]["name"].as_str().unwrap_or_default();
    let want = "/work all BUILDKIT_SCAN_DESTINATION=/run/out/ ";
    ensure!(told.starts_with(want), "{told}");
    for want in [
        " BUILDKIT_SCAN_SOURCE=/run/src/core/sbom ",
        " BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras ",
        " OWN=1",
    ] {
        ensure!(told.contains(want), "{told}");
    }
    ensure!(told.contains(" BUILDKIT_SCAN_Select=x "), "{told}");
    let base = read(&out.join("sbom-base.spdx.json"))?;
    ensure!(listed(&base) == ["/deps/one", "/deps/two"], "{base}");
    ensure!(subjects(&base) == ["app/main", "is", "one"], "{base}");
    let context = read(&out.join("sbom-context.spdx.json"))?;
    ensure!(
        listed(&context) == ["/app", "/deps/one", "/deps/two", "/is-amd64"],
        "{context}"
    );

    // Asked by our own client, as a tar; nothing runs a second time.
    let tar = bench.lab.path("out.tar");
    let output = format!("type=tar,dest={}", tar.display());
    let outcome = bench.cairn(&["--attest", &sbom, "-o", &output])?;
    ensure!(outcome.code == 0, "{}", outcome.remarks);
    let names = Program::new("tar").args(["-tf"]).args([&tar]).output()?;
    ensure!(
        names.contains("sbom.spdx.json") && names.contains("sbom-base.spdx.json"),
        "{names}"
    );
    ensure!(
        !outcome
            .progress
            .executed()
            .iter()
            .any(|name| name.contains("generating sbom")),
        "{:?}",
        outcome.progress.executed()
    );
    Ok(())
}

#[test]
fn images_of_all_platforms_carry_them() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let sbom = format!("--sbom=generator={}", bench.scanner);
    let name = format!("{}/app:1", bench.registry.address());
    let platforms = "linux/amd64,linux/s390x";
    let args = [&sbom, "--platform", platforms, "-t", &name, "--push"];
    let finished = bench.buildx(&args)?.success()?;
    for platform in platforms.split(',') {
        let title = format!("[{platform}] generating sbom using {}", bench.scanner);
        ensure!(finished.stderr.contains(&title), "{}", finished.stderr);
    }
    let index = bench.raw("app:1")?;
    ensure!(
        index["manifests"].as_array().is_some_and(|list| list.len() == 4),
        "{index}"
    );
    for (number, architecture) in ["amd64", "s390x"].into_iter().enumerate() {
        let entry = &index["manifests"][number];
        ensure!(entry["platform"]["architecture"] == architecture, "{index}");
        let digest = entry["digest"].as_str().context("no digest")?;
        let manifest = bench.raw(&format!("app@{digest}"))?;
        let statements = bench.statements("app", &index, number)?;
        let names: Vec<_> = statements.iter().map(listed).collect();
        // The image's own comes first: clients show that one.
        ensure!(names[0] == ["/app/main", "/is", "/one"], "{names:?}");
        ensure!(statements.len() == 3, "{statements:?}");
        for statement in &statements {
            let hash = digest.trim_start_matches("sha256:");
            let purl = format!(
                "pkg:docker/{}/app@1?platform=linux%2F{architecture}",
                bench.registry.address().replace(':', "%3A")
            );
            ensure!(
                statement["subject"] == json!([{"name": purl, "digest": {"sha256": hash}}]),
                "{statement}"
            );
        }
        // What is in the image itself is said to be in one of its layers.
        let files = &statements[0]["predicate"]["files"];
        for (file, layer) in [(0, 1), (1, 2), (2, 0)] {
            let layer = manifest["layers"][layer]["digest"].as_str().context("no layer")?;
            ensure!(
                files[file]["comment"] == format!("layerID: {layer}"),
                "{files} {manifest}"
            );
        }
        let extra = statements.iter().find(|statement| listed(statement).len() == 4);
        ensure!(
            extra.is_some_and(|extra| extra["predicate"]["files"][0]["comment"].is_null()),
            "{extra:?}"
        );
    }

    let tar = bench.lab.path("app.tar");
    let output = format!("type=oci,dest={}", tar.display());
    let outcome = bench.cairn(&[&sbom, "-o", &output])?;
    ensure!(outcome.code == 0, "{}", outcome.remarks);
    let names = Program::new("tar")
        .args(["-xOf"])
        .args([&tar])
        .args(["index.json"])
        .output()?;
    ensure!(names.contains("image.index"), "{names}");
    Image::from_registry(&bench.lab, &name).map(drop)
}

#[test]
fn scanners_that_do_not_do_their_part_fail_the_build() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    bench.push("idle:1", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")])?;
    let writes = |text: &str| format!("FROM alpine\nCMD [\"sh\", \"-c\", \"{text}\"]\n");
    bench.push("junk:1", &[("Dockerfile", &writes("echo '{' > /run/out/a.json"))])?;
    bench.push(
        "links:1",
        &[("Dockerfile", &writes("ln -s /etc/passwd /run/out/a.json"))],
    )?;
    let other = writes(
        "echo '{\\\"_type\\\":\\\"x\\\",\\\"predicateType\\\":\\\"y\\\",\\\"predicate\\\":1}' > /run/out/a.json",
    );
    bench.push("other:1", &[("Dockerfile", &other)])?;
    bench.push("fails:1", &[("Dockerfile", &writes("exit 3"))])?;
    let address = bench.registry.address();
    let out = bench.lab.path("failed").display().to_string();
    for (options, want) in [
        ("generator=".to_owned(), "sbom generator cannot be empty".to_owned()),
        (
            format!("generator={address}/idle:1"),
            format!("scanner {address}/idle:1 does not have cmd"),
        ),
        (
            format!("generator={address}/gone"),
            format!("failed to resolve source metadata for {address}/gone:latest: "),
        ),
        (
            format!("generator={address}/junk:1"),
            "cannot decode in-toto statement".to_owned(),
        ),
        (
            format!("generator={address}/links:1"),
            "is not a regular file".to_owned(),
        ),
        (
            format!("generator={address}/other:1"),
            "bundle entry y does not match required predicate type https://spdx.dev/Document".to_owned(),
        ),
        (format!("generator={address}/fails:1"), "exit code: 3".to_owned()),
    ] {
        let outcome = bench.cairn(&[&format!("--sbom={options}"), "-o", &out])?;
        ensure!(outcome.code != 0, "{options} was built");
        ensure!(outcome.remarks.contains(&want), "{options}: {}", outcome.remarks);
    }
    // Nothing is looked up for a question.
    let gone = format!("generator={address}/gone");
    let argument = format!("BUILDKIT_ATTEST_SBOM={gone}");
    for options in [["--sbom", &gone], ["--build-arg", &argument]] {
        let outcome = bench.buildx(&[&options[..], &["--check"]].concat())?;
        ensure!(outcome.status.success(), "{}", outcome.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn what_no_frontend_made_is_scanned_as_well() -> anyhow::Result<()> {
    let Some(bench) = Bench::open()? else {
        return Ok(());
    };
    let definition = || {
        let mut graph = Graph::default();
        let digest = graph.add(&make_file("/hello", "hello"));
        graph.asking_for(&digest, 0)
    };
    let name = format!("{}/plain:1", bench.registry.address());
    let exporter = Exporter {
        r#type: "image".to_owned(),
        attrs: [("name", name.as_str()), ("push", "true")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    let request = |key: &str, value: String| SolveRequest {
        r#ref: format!("plain-{}", value.len()),
        definition: Some(definition()),
        exporters: vec![exporter.clone()],
        frontend_attrs: BTreeMap::from([(key.to_owned(), value)]),
        ..SolveRequest::default()
    };
    let path = bench.daemon.address().trim_start_matches("unix://").to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await?;
    let mut control = ControlClient::new(channel);
    control
        .solve(request("attest:sbom", format!("generator={}", bench.scanner)))
        .await?;
    let index = bench.raw("plain:1")?;
    let statements = bench.statements("plain", &index, 0)?;
    ensure!(
        statements.len() == 1 && listed(&statements[0]) == ["/hello"],
        "{statements:?}"
    );
    let refused = control.solve(request("attest:foo", "x".to_owned())).await;
    let message = refused.err().map(|status| status.message().to_owned());
    ensure!(
        message.as_deref() == Some("unknown attestation type \"foo\""),
        "{message:?}"
    );
    Ok(())
}
